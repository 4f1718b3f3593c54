"""Results on disk: drawn images with ``predictions.json``, and labels to be corrected in a labelling tool."""

import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from dino_nb.errors import UserError, did_you_mean, disk_errors
from dino_nb.files import atomic_path
from dino_nb.inference.sources import exists
from dino_nb.prepare.folders import new_folder, place_file, plain_names
from dino_nb.prepare.formats.write import Labelled, image_path, write

LABEL_FORMATS = ("labelme", "yolo", "voc", "cvat", "coco")
_SAVED = (".jpg", ".jpeg", ".png", ".webp", ".mp4")


class OutputFolder:
    """Context: a folder of drawn images and videos, and ``predictions.json``, which appears once it is complete.

    Args:
        sources: files that may not be overwritten.
    """

    def __init__(self, folder: str | Path, sources: Iterable[str] = ()) -> None:
        self.folder, self.taken = Path(folder).expanduser(), set[str]()
        self._stack, self._empty = ExitStack(), True
        self.sources = {Path(file).resolve() for file in sources if exists(file)}

    def path(self, name: str) -> Path:
        """A path for ``name``, unlike all before; formats that cannot be written become PNG."""
        suffix = Path(name).suffix.lower()
        plain = next(plain_names([Path(name).stem + (suffix if suffix in _SAVED else ".png")], taken=self.taken))
        if (self.folder / plain).resolve() in self.sources:
            raise UserError(
                f"{self.folder / plain} is one of the sources and would be overwritten: choose another --output_dir."
            )
        return self.folder / plain

    def add(self, result: Any, output: Path | None) -> None:
        """List a result, and the file that it was drawn to."""
        entry = json.dumps(result.to_dict() | {"output": output and output.name}, ensure_ascii=False)
        self._file.write(("[\n" if self._empty else ",\n") + entry)
        self._empty = False

    def __enter__(self) -> "OutputFolder":
        temporary = self._stack.enter_context(atomic_path(self.folder / "predictions.json"))
        self._file: TextIO = self._stack.enter_context(temporary.open("w", encoding="utf-8"))
        return self

    def __exit__(self, *error: Any) -> bool | None:
        self._file.write("[]\n" if self._empty else "\n]\n")
        return self._stack.__exit__(*error)


@disk_errors()
def save_labels(results: Sequence[Any], folder: str | Path, format: str = "labelme", split: str = "train") -> Path:
    """Write results as a labelled data set to the new ``folder``: to be corrected in a labelling tool, and brought
    back by ``dino-nb convert``. Images are copied; boxes are cut at their border, and scores are left out.

    Args:
        format: ``labelme``, ``yolo``, ``voc``, ``cvat`` or ``coco``.
        split: the name of the part that the images go to.
    """
    if format not in LABEL_FORMATS:
        raise UserError(
            f"labels are written as {', '.join(LABEL_FORMATS)}, not {format!r}.{did_you_mean(format, LABEL_FORMATS)}"
        )
    if not results:
        raise UserError("there are no results to write.")
    classes = list(dict.fromkeys(str(n) for result in results for n in result.class_names if n is not None))
    number = {name: i for i, name in enumerate(classes)}
    labelled: list[Labelled] = []
    with new_folder(folder) as root:
        for result, name in zip(results, plain_names([result.name for result in results], stems=True)):
            target = image_path(root, format, split, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            if result.path:
                place_file(Path(result.path), target)
            else:
                result.image.save(target)
            labelled.append(
                Labelled(name, result.size[0], result.size[1], [(number[n], *box) for n, box, _ in _inside(result)])
            )
        write(root, format, classes, {split: labelled})
    return Path(folder)


def to_coco(results: Iterable[Any]) -> dict[str, list[dict[str, Any]]]:
    """Results as a COCO data set: ``images``, ``annotations`` (with ``score``) and ``categories``, ids from 1."""
    results = list(results)
    names = list(dict.fromkeys(str(n) for result in results for n in result.class_names if n is not None))
    number = {name: i for i, name in enumerate(names, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, result in enumerate(results, 1):
        width, height = result.size
        images.append({"id": image_id, "file_name": result.name, "width": width, "height": height})
        for name, (x0, y0, x1, y1), score in _inside(result):
            box = {"id": len(annotations) + 1, "image_id": image_id, "category_id": number[name], "iscrowd": 0}
            area = (x1 - x0) * (y1 - y0)
            annotations.append(box | {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": area, "score": score})
    categories = [{"id": i, "name": name} for name, i in number.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _inside(result: Any) -> list[tuple[str, tuple[float, float, float, float], float]]:
    """Name, box and score of each detection with some part inside the image, cut at its border, to 0.01 pixels."""
    width, height = result.size
    boxes = result.boxes.double().cpu().clamp(min=0)
    boxes[:, 0::2].clamp_(max=width)
    boxes[:, 1::2].clamp_(max=height)
    rows = zip(result.names, boxes.round(decimals=2).tolist(), result.scores.tolist())
    return [(name, (x0, y0, x1, y1), score) for name, (x0, y0, x1, y1), score in rows if x1 > x0 and y1 > y0]
