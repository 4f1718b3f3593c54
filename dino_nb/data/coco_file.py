"""A COCO annotation file as the data set and the evaluation read it: found, parsed, completed, or refused in words."""

import contextlib
import io
import json
import math
from pathlib import Path

from dino_nb.errors import UserError, did_you_mean


def split_files(cocodir, split):
    """``(image folder, annotation file)`` of one split (``train``, ``val``, ``test``, or with ``2017``)."""
    cocodir, name = Path(cocodir).expanduser(), f"{str(split).removesuffix('2017')}2017"
    if not cocodir.is_dir():
        raise UserError(f"there is no folder {cocodir}.")
    names = [f"{kind}_{name}" for kind in ("instances", "image_info")]  # the second: a test split without annotations
    for file in (cocodir / "annotations" / f"{n}.json" for n in names):
        if file.is_file():
            return cocodir / name, file
    found = sorted(p.name for p in (cocodir / "annotations").glob("*.json"))
    splits = [f.removesuffix(".json").split("_")[-1].removesuffix("2017") for f in found]
    hint = did_you_mean(split, splits) or (
        f" It has {', '.join(found)}." if found else " dino-nb convert SRC COCODIR makes one of any annotation format."
    )
    raise UserError(f"{cocodir} has no annotations/instances_{name}.json.{hint}")


def read_coco(file):
    """The annotation file as a dict with lists ``images``, ``annotations`` and ``categories``.

    ``annotations`` may be missing (a test split). Missing ``area`` is filled with the box's, missing ``iscrowd``
    with 0; polygons and masks are dropped, since only boxes are used. What cannot be used at all is a ``UserError``
    that names file, line or id.
    """
    try:
        data = json.loads(Path(file).read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UserError(f"{file}, line {error.lineno}, column {error.colno}: not correct JSON ({error.msg}).") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{file} cannot be read as JSON in UTF-8 ({type(error).__name__}).") from None
    if not isinstance(data, dict) or not all(_records(data.get(key)) for key in ("images", "categories")):
        raise UserError(f"{file} is not a COCO file: it needs the lists of records 'images' and 'categories'.")
    annotations = data.get("annotations", [])
    if not _records(annotations):
        raise UserError(f"{file}: 'annotations' is not a list of records.")
    for key, needed in (("images", ("id", "file_name")), ("categories", ("id", "name"))):
        for i, record in enumerate(data[key]):
            missing = [n for n in needed if n not in record]
            if missing:
                raise UserError(f"{file}: entry {i} of '{key}' has no {' and no '.join(map(repr, missing))}.")
        _unique_ids(file, key, data[key])
    images, categories = ({r["id"] for r in data[key]} for key in ("images", "categories"))
    kept = [_complete(file, i, a, images, categories) for i, a in enumerate(annotations)]
    return {"info": {}, "images": data["images"], "annotations": kept, "categories": data["categories"]}


def _records(value):
    return isinstance(value, list) and all(isinstance(record, dict) for record in value)


def _unique_ids(file, key, records):
    seen = set()
    for record in records:
        if not isinstance(record["id"], (int, float, str)) or record["id"] in seen:
            what = "is there twice" if isinstance(record["id"], (int, float, str)) else "is no number"
            raise UserError(f"{file}: id {record['id']!r} in '{key}' {what}. dino-nb check tells more.")
        seen.add(record["id"])


def _complete(file, i, annotation, images, categories):
    """One annotation with its box as four floats, ``area`` and ``iscrowd``; no polygons."""
    where = f"{file}: annotation {annotation.get('id', f'number {i}')!r}"
    for key, known in (("image_id", images), ("category_id", categories)):
        value = annotation.get(key)
        if isinstance(value, (list, dict)) or value not in known:
            raise UserError(f"{where} has {key} {value!r}, which the file does not list. dino-nb check tells more.")
    box = annotation.get("bbox")
    try:
        box = [float(v) for v in box]
        if len(box) != 4 or not all(map(math.isfinite, box)):
            raise ValueError
    except (TypeError, ValueError):
        raise UserError(f"{where} has no box of four finite numbers but {box!r}. dino-nb check tells more.") from None
    area = annotation.get("area")
    return {
        "id": annotation.get("id", i + 1),
        "image_id": annotation["image_id"],
        "category_id": annotation["category_id"],
        "bbox": box,
        "area": float(area) if isinstance(area, (int, float)) and math.isfinite(area) else box[2] * box[3],
        "iscrowd": int(bool(annotation.get("iscrowd", 0))),
    }


def to_pycocotools(data):
    """A dict as of :func:`read_coco` as a ``pycocotools.coco.COCO`` with its index made, without its messages."""
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = data
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco
