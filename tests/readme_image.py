"""Draws the image at the top of the README: what dino-tiny finds in drawn images it has not seen.

python -m tests.readme_image .github/detections.jpg
"""

import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

import dino_nb


def main(target: Path) -> None:
    """Write the image to ``target``."""
    with tempfile.TemporaryDirectory() as folder:
        coco = dino_nb.make_sample(Path(folder) / "coco", n_train=1, n_val=60, seed=11)
        data = json.loads((coco / "annotations" / "instances_val2017.json").read_text())
        objects = Counter(annotation["image_id"] for annotation in data["annotations"])
        alike = [image for image in data["images"] if 1.3 <= image["width"] / image["height"] <= 1.6]  # an even sheet
        chosen = sorted(alike, key=lambda image: objects[image["id"]], reverse=True)[:8]
        paths = [coco / "val2017" / image["file_name"] for image in chosen]
        results = dino_nb.load("dino-tiny", "cpu").predict(paths, threshold=0.4)
        sheet = dino_nb.viz.grid([result.draw(enlarge_to=480) for result in results], columns=4, width=1600)
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(target, quality=82)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".github/detections.jpg"))
