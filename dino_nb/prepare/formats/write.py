"""Writing labelled images as COCO, Pascal VOC, YOLO, LabelMe or CVAT: the sample and the export of a COCODIR use it.

A data set is ``classes``, a list of names, and ``splits``, a dict from ``train | val | test`` to lists of `Labelled`.
The images themselves are put at ``image_path`` by the caller. The same input gives the same bytes.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape, quoteattr

from dino_nb.files import atomic_path, write_text

# what XML cannot hold, escaped or not
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Splits = dict[str, list["Labelled"]]


class Labelled(NamedTuple):
    """One image: ``boxes`` are ``(class index, x1, y1, x2, y2)`` in pixels."""

    name: str
    width: int
    height: int
    boxes: Sequence[tuple[int, float, float, float, float]]


def image_path(folder: Path, format: str, split: str, name: str) -> Path:
    """Where ``format`` keeps the image ``name`` of a split below ``folder``."""
    place = {"coco": f"{split}2017", "voc": "JPEGImages", "yolo": f"images/{split}"}.get(format, split)
    return Path(folder) / place / name


def write(folder: Path, format: str, classes: Sequence[str], splits: Splits) -> None:
    """Write the labels below ``folder``."""
    _WRITERS[format](Path(folder), classes, splits)


def to_json(value: Any) -> str:
    """JSON on one line, letters of all scripts as they are unless the name of a file or class is not even Unicode."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)


def write_coco_json(path: Path, images: list[dict], annotations: list[dict], categories: list[dict]) -> None:
    """One COCO file, one entry a line: small in memory, and a line number of an editor finds an entry."""
    parts = {"images": images, "annotations": annotations, "categories": categories}
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        start = "{"
        for key, entries in parts.items():
            file.write(f'{start}\n"{key}": [')
            for i, entry in enumerate(entries):
                file.write(f"{',' if i else ''}\n{to_json(entry)}")
            file.write("\n]")
            start = ","
        file.write("\n}\n")


def _coco(folder, classes, splits):
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(classes)]
    for split, labelled in splits.items():
        images, annotations = [], []
        for image_id, (name, width, height, boxes) in enumerate(labelled, 1):
            images.append({"id": image_id, "file_name": name, "width": width, "height": height})
            for label, x1, y1, x2, y2 in boxes:
                box = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label + 1}
                box |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
                annotations.append(box)
        write_coco_json(folder / "annotations" / f"instances_{split}2017.json", images, annotations, categories)


def _voc(folder, classes, splits):
    for split, images in splits.items():
        stems = [Path(image.name).stem for image in images]
        write_text(folder / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{stem}\n" for stem in stems))
        for stem, (name, width, height, boxes) in zip(stems, images):
            lines = ["<annotation>", f"  <filename>{_xml(name)}</filename>"]
            lines += [f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>"]
            for label, *corners in boxes:
                sides = zip(("xmin", "ymin", "xmax", "ymax"), map(_number, corners))
                lines += ["  <object>", f"    <name>{_xml(classes[label])}</name>", "    <difficult>0</difficult>"]
                lines += [f"    <bndbox>{''.join(f'<{side}>{value}</{side}>' for side, value in sides)}</bndbox>"]
                lines += ["  </object>"]
            write_text(folder / "Annotations" / f"{stem}.xml", "\n".join([*lines, "</annotation>", ""]))


def _yolo(folder, classes, splits):
    lines = [f"{split}: images/{split}" for split in splits] + ["names:"]
    lines += [f"  {i}: {to_json(name)}" for i, name in enumerate(classes)]  # JSON is YAML
    write_text(folder / "data.yaml", "\n".join([*lines, ""]))
    for split, images in splits.items():
        for name, w, h, boxes in images:
            rows = [(label, (x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h)
                    for label, x1, y1, x2, y2 in boxes]  # fmt: skip
            text = "".join("{} {:.8f} {:.8f} {:.8f} {:.8f}\n".format(*row) for row in rows)
            write_text(folder / "labels" / split / f"{Path(name).stem}.txt", text)


def _labelme(folder, classes, splits):
    for split, images in splits.items():
        for name, width, height, boxes in images:
            shapes = [
                {"label": classes[label], "points": [[x1, y1], [x2, y2]], "group_id": None, "flags": {}}
                | {"shape_type": "rectangle"}
                for label, x1, y1, x2, y2 in boxes
            ]
            document = {"version": "5.0.0", "flags": {}, "shapes": shapes, "imagePath": name, "imageData": None}
            document |= {"imageHeight": height, "imageWidth": width}
            write_text(folder / split / f"{Path(name).stem}.json", json.dumps(document, indent=1) + "\n")


def _cvat(folder, classes, splits):
    labels = "".join(f"<label><name>{_xml(name)}</name></label>" for name in classes)
    for split, images in splits.items():
        lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations><version>1.1</version>"]
        lines.append(f"<meta><task><labels>{labels}</labels></task></meta>")
        for i, (name, width, height, boxes) in enumerate(images):
            lines.append(
                f'<image id="{i}" name={_xml(name, quoteattr)} subset="{split}" width="{width}" height="{height}">'
            )
            for label, *corners in boxes:
                sides = " ".join(f'{k}="{_number(v)}"' for k, v in zip(("xtl", "ytl", "xbr", "ybr"), corners))
                name = _xml(classes[label], quoteattr)
                lines.append(f'<box label={name} occluded="0" source="manual" {sides} z_order="0"/>')
            lines.append("</image>")
        write_text(folder / f"{split}.xml", "\n".join([*lines, "</annotations>", ""]))


def _xml(text: str, how: Callable[[str], str] = escape) -> str:
    return how(_NOT_XML.sub("_", text))


def _number(value: float) -> str:
    """A short decimal that reads back as the same float: ``12`` rather than ``12.0``."""
    return str(int(value)) if value == int(value) else repr(float(value))


_WRITERS = {"coco": _coco, "voc": _voc, "yolo": _yolo, "labelme": _labelme, "cvat": _cvat}
FORMATS = tuple(_WRITERS)
