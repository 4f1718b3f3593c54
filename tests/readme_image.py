"""Draws the image at the top of the README: what dino-tiny finds in drawn images it has not seen.

python -m tests.readme_image .github/detections.jpg
"""

import sys
import tempfile
from pathlib import Path

import dino_nb


def main(target: Path) -> None:
    """Write the image to ``target``."""
    with tempfile.TemporaryDirectory() as folder:
        coco = dino_nb.make_sample(Path(folder) / "coco", n_train=1, n_val=8, seed=11)
        results = dino_nb.load("dino-tiny", "cpu").predict(coco / "val2017", threshold=0.4)
        sheet = dino_nb.viz.grid([result.draw(enlarge_to=480) for result in results], columns=4, width=1600)
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(target, quality=82)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".github/detections.jpg"))
