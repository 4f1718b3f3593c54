"""Writing labelled pictures as COCO, Pascal VOC or YOLO: the sample and the export of a COCODIR use it.

A data set is ``classes``, a list of names, and ``splits``, a dict from ``train | val | test`` to lists of `Labelled`.
The pictures themselves are put at ``picture_path`` by the caller. The same input gives the same bytes.
"""

import json
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from dino_nb.files import write_text

_PICTURES = {"coco": "{split}2017", "voc": "JPEGImages", "yolo": "images/{split}"}


class Labelled(NamedTuple):
    """One picture: ``boxes`` are ``(class index, x1, y1, x2, y2)`` in pixels."""

    name: str
    width: int
    height: int
    boxes: list


def picture_path(folder, format, split, name):
    """Where ``format`` keeps the picture ``name`` of a split below ``folder``."""
    return Path(folder) / _PICTURES[format].format(split=split) / name


def write(folder, format, classes, splits):
    """Write the labels below ``folder``; returns the folder."""
    {"coco": _coco, "voc": _voc, "yolo": _yolo}[format](Path(folder), classes, splits)
    return Path(folder)


def number(value):
    """``value`` as a short decimal that reads back as the same float: ``12`` rather than ``12.0``."""
    return str(int(value)) if value == int(value) else repr(float(value))


def to_json(value):
    """JSON on one line, letters of all scripts as they are unless the name of a file or class is not even Unicode."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)


def write_coco_json(path, images, annotations, categories):
    """One COCO file, one entry a line: small in memory, and a line number of an editor finds an entry."""
    parts = {"images": images, "annotations": annotations, "categories": categories}
    lines = ["{"]
    for key, entries in parts.items():
        lines.append(f'"{key}": [')
        lines += [to_json(entry) + "," for entry in entries]
        if entries:
            lines[-1] = lines[-1][:-1]
        lines.append("]" if key == "categories" else "],")
    write_text(path, "\n".join([*lines, "}", ""]))


def _coco(folder, classes, splits):
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(classes)]
    for split, pictures in splits.items():
        images, annotations = [], []
        for image_id, (name, width, height, boxes) in enumerate(pictures, 1):
            images.append({"id": image_id, "file_name": name, "width": width, "height": height})
            for label, x1, y1, x2, y2 in boxes:
                box = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label + 1}
                box |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
                annotations.append(box)
        write_coco_json(folder / "annotations" / f"instances_{split}2017.json", images, annotations, categories)


def _voc(folder, classes, splits):
    for split, pictures in splits.items():
        stems = [Path(picture.name).stem for picture in pictures]
        write_text(folder / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{stem}\n" for stem in stems))
        for name, width, height, boxes in pictures:
            lines = ["<annotation>", f"  <filename>{escape(name)}</filename>"]
            lines += [f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>"]
            for label, *corners in boxes:
                sides = zip(("xmin", "ymin", "xmax", "ymax"), map(number, corners))
                corners = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
                lines += ["  <object>", f"    <name>{escape(classes[label])}</name>", "    <difficult>0</difficult>"]
                lines += [f"    <bndbox>{corners}</bndbox>", "  </object>"]
            path = folder / "Annotations" / f"{Path(name).stem}.xml"
            write_text(path, "\n".join([*lines, "</annotation>", ""]))


def _yolo(folder, classes, splits):
    lines = [f"{split}: images/{split}" for split in splits] + ["names:"]
    lines += [f"  {i}: {to_json(name)}" for i, name in enumerate(classes)]  # JSON is YAML
    write_text(folder / "data.yaml", "\n".join([*lines, ""]))
    for split, pictures in splits.items():
        for name, width, height, boxes in pictures:
            rows = [
                f"{label} {(x1 + x2) / 2 / width:.8f} {(y1 + y2) / 2 / height:.8f} "
                f"{(x2 - x1) / width:.8f} {(y2 - y1) / height:.8f}\n"
                for label, x1, y1, x2, y2 in boxes
            ]
            write_text(folder / "labels" / split / f"{Path(name).stem}.txt", "".join(rows))
