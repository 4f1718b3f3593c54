"""``make demo``: a small network learns three new shapes, and a page shows what it knew before and what it knows after.

    python -m tests.demo FOLDER

Everything is made here: the images are drawn, and the network comes with the package. Nothing is downloaded.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

import dino_nb
from dino_nb.charts import Images
from dino_nb.files import write_text
from dino_nb.printer import Lines, Table, to_page

KNOWN = ("red circle", "blue square", "green triangle")
NEW = ("orange star", "cyan cross", "white crescent")
IMAGES = {"n_train": 240, "n_val": 40}
RECIPE = "tiny-finetune"


@dataclass
class Links:
    """A list of links ``(file, what it is)`` for the page."""

    rows: list[tuple[str, str]]

    def text(self) -> list[str]:
        """The block for a terminal."""
        return [f"{file:32} {what}" for file, what in self.rows]

    def html(self) -> str:
        """The block as an HTML fragment; names and texts are this script's own."""
        items = [f'<li><a href="{file}">{what}</a> ({file})</li>' for file, what in self.rows]
        return f"<ul>{''.join(items)}</ul>"


def main(folder: Path) -> None:
    """Run the demo; everything is written below ``folder``."""
    started = time.monotonic()
    say = _timer(started)
    say(f"drawing {IMAGES['n_train'] + IMAGES['n_val']} images: three shapes that dino-tiny knows, three that are new")
    sample = dino_nb.make_sample(folder / "sample", **IMAGES, format="voc", classes=KNOWN + NEW)
    coco = folder / "coco"
    say(f"dino-nb convert {sample} {coco}")
    dino_nb.convert_dataset(sample, coco, overwrite=True, progress=False)
    say(f"dino-nb check {coco}")
    dino_nb.check_dataset(coco, progress=False).raise_if_errors()
    say(f"dino-nb eval {coco} dino-tiny: what does it know before?")
    before = dino_nb.evaluate(coco, "dino-tiny", output_dir=folder / "before", name="dino-tiny", progress=False)
    say(f"dino-nb train {coco} --pretrain_model_path dino-tiny: the curve starts at that score")
    run = dino_nb.finetune(coco, "dino-tiny", output_dir=folder / "training", overwrite=True, preset=RECIPE)
    say("comparing before and after on the validation images")
    after = dino_nb.evaluate(coco, run.checkpoint, output_dir=folder / "after", name="fine-tuned", progress=False)
    page = _page(folder, coco, run, before, after)
    write_text(folder / "index.html", page)
    rows = [(row["name"], _ap50(before, row["name"]), row["AP50"]) for row in after.per_class]
    print("\n" + "\n".join(Table(("AP50", "before", "after"), [*rows, _total(run)]).text()))
    minutes = (time.monotonic() - started) / 60
    print(
        f"\n{minutes:.1f} minutes. Open {folder / 'index.html'}: images before and after, curves, reports, the network."
    )


def _timer(started: float) -> Callable[[str], None]:
    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:4.0f} s] {text}", flush=True)

    return say


def _total(run: Any) -> tuple[str, float, float]:
    return "all six", run.history[0]["AP50"], run.best["AP50"]


def _ap50(result: Any, name: str) -> float:
    """A class's AP50; 0 for a class that the network has no output for."""
    return next((max(row["AP50"], 0.0) for row in result.per_class if row["name"] == name), 0.0)


def _page(folder: Path, coco: Path, run: Any, before: Any, after: Any) -> str:
    """The page that links everything."""
    comparison = dino_nb.compare(before, after)
    comparison.write(folder / "comparison")
    detectors = [dino_nb.load("dino-tiny"), dino_nb.load(run.checkpoint)]
    view = dino_nb.viz.compare(detectors, coco, threshold=after.analysis.threshold, names=["before", "after"])
    images = [(f"image {i + 1}", view.set(index=i).image) for i in range(3, min(9, IMAGES["n_val"]))]
    curves = Image.open(run.output_dir / "curves.png")
    rows = [(row["name"], _ap50(before, row["name"]), row["AP50"]) for row in after.per_class]
    blocks = [
        Lines(
            [
                f"dino-tiny knew {', '.join(KNOWN)}.",
                f"It learned {', '.join(NEW)} from {IMAGES['n_train']} drawn images.",
                comparison.sentence(),
                f"Detections are believed from a score of {after.analysis.threshold:.2f} on, which has the best F1.",
            ]
        ),
        Table(("AP50", "before", "after"), [*rows, _total(run)]),
        Images("The curve: epoch 0 is the network as it came", [("", lambda: curves)], 900, True),
        Images("What it found before and after", [(name, lambda i=image: i) for name, image in images], 900, True),
        Links(
            [
                ("after/report.html", "the report after training: threshold, classes, errors, worst images"),
                ("before/report.html", "the report before training"),
                ("comparison/comparison.html", "before and after, with intervals"),
                ("training/curves.png", "loss, score and learning rate"),
                ("training/checkpoint_best.pth", "the network, for dino-nb predict and dino_nb.load"),
                ("coco/", "the data set"),
            ]
        ),
    ]
    return to_page(blocks, "From drawn images to a detector")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
