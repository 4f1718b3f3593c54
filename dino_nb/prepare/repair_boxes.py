"""Repairing a COCODIR, step three: the boxes of one split, in pixels, as x, y, width, height."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dino_nb.data.coco_file import CocoFile
from dino_nb.data.coco_values import Id, brief, id_of, number
from dino_nb.prepare.check_boxes import FAULT_OF_LAYOUT, TOLERANCE, Layout, duplicates
from dino_nb.prepare.check_images import Facts, known_sizes
from dino_nb.prepare.layout import to_xywh
from dino_nb.prepare.repair_categories import ID_LIMIT
from dino_nb.prepare.repair_images import Place
from dino_nb.prepare.repair_log import Log, free_ids


def repair_annotations(
    split: CocoFile,
    facts: Sequence[Facts],
    layout: Layout,
    places: dict[int, Place],
    categories: dict[Id, int],
    log: Log,
) -> list[dict[str, Any]]:
    """The annotation records of ``split`` that remain.

    ``facts``: of its images; ``layout``: as of ``guess_layout``; ``places``: as of ``repair_images``;
    ``categories``: old id -> new id.
    """
    sizes = known_sizes(split, facts)
    at = {row: i for i, row in enumerate(split.rows.tolist())}
    number_of = list(categories.values())
    spare = free_ids(id_of(record.get("id"))[0] for _, record in split.records("annotations"))
    kept, used = [], set()
    for row, record in split.records("annotations"):
        i = at.get(row)
        place = None if i is None else places.get(int(split.image[i]))
        if i is None or place is None:
            log.leave_out(split, "annotations", row, "unknown-image")
            continue
        who = f"annotation {brief(record.get('id'))} (number {row + 1} of the list)"
        box = _repaired_box(split, i, record, place, sizes[split.image[i]], layout, who, log)
        if box is None:
            continue
        old, identity = record.get("id"), id_of(record.get("id"))[0]
        if not isinstance(identity, int) or abs(identity) >= ID_LIMIT or identity in used:
            identity = next(spare)
        used.add(identity)
        if type(old) is not int or identity != old:
            log.note("annotation-duplicate-ids", split, f"{who} is now annotation {identity}")
        category = number_of[split.category[i]]
        for name, value in (("image_id", place.id), ("category_id", category)):
            if type(record[name]) is not int or record[name] != value:
                log.note("id-type", split, f"{who}: {name} {brief(record[name])} is now {value}")
        new = record | {"id": identity, "image_id": place.id, "category_id": category}
        if place.move:  # they were drawn on the other size, too
            new = {k: v for k, v in new.items() if k not in ("segmentation", "keypoints")}
        _fill(split, i, new, box, who, log)
        kept.append(new)
    return _without_duplicates(split, kept, log)


def _repaired_box(
    split: CocoFile, i: int, record: dict, place: Place, size: np.ndarray, layout: Layout, who: str, log: Log
) -> np.ndarray | None:
    """Box ``i`` as x, y, width, height in pixels of the image as it is; None (logged) if nothing is left of it.

    ``size``: width and height that it was written for.
    """
    box = split.boxes[i]
    if not _as_written(split, i, record):
        log.note("box-malformed", split, f"{who}: bbox {brief(record.get('bbox'))} is now {_list(box)}")
    if layout != ("xywh", False) and not split.derived[i]:
        read = to_xywh(box, np.array(place.size) if layout[1] else size, *layout)[0]
        fault = FAULT_OF_LAYOUT.get(layout[0], "box-normalised")
        log.note(fault, split, f"{who}: bbox {_list(box)} is now {_list(read)}")
        box = read
    if place.move:
        moved = place.move(box)
        log.note("image-size", split, f"{who}: bbox {_list(box)} is now {_list(moved)}")
        box = moved
    low, high = np.clip(box[:2], 0, place.size), np.clip(box[:2] + box[2:], 0, place.size)
    if (box[2:] <= 0).any():
        log.note("box-empty", split, f"{who} is left out: bbox {_list(box)} has no area")
        return None
    if (high <= low).any():
        log.note("box-outside", split, f"{who} is left out: bbox {_list(box)} is outside its image")
        return None
    if max((-box[:2]).max(), (box[:2] + box[2:] - place.size).max()) <= TOLERANCE:
        return box
    cut = np.concatenate([low, high - low])
    log.note("box-outside", split, f"{who}: bbox {_list(box)} is now {_list(cut)}")
    return cut


def _fill(split: CocoFile, i: int, new: dict, box: np.ndarray, who: str, log: Log) -> None:
    """Set bbox, area and iscrowd of a record; what was right stays as it was written."""
    changed = not _as_written(split, i, new) or not np.array_equal(box, split.boxes[i])
    if changed:
        new["bbox"] = _list(box)
    area = number(new.get("area"))
    if area is None or not 0 < area < math.inf:
        log.note("missing-area", split, f"{who}: area {brief(new.get('area'))} is now that of its box")
        changed = True
    if changed:
        new["area"] = _list([box[2] * box[3]])[0]
    if type(new.get("iscrowd")) is not int or new["iscrowd"] not in (0, 1):
        crowd = int(split.crowd[i])
        log.note("missing-iscrowd", split, f"{who}: iscrowd {brief(new.get('iscrowd'))} is now {crowd}")
        new["iscrowd"] = crowd


def _without_duplicates(split: CocoFile, kept: list[dict], log: Log) -> list[dict]:
    if not kept:
        return kept
    boxes = np.array([r["bbox"] for r in kept], dtype=np.float64)
    image, category = (np.array([r[k] for r in kept]) for k in ("image_id", "category_id"))
    exact, near = duplicates(image, category, boxes, np.array([not r["iscrowd"] for r in kept]))
    remaining = []
    for i, record in enumerate(kept):
        twin = int(min(exact[i], near[i]))
        if twin == i:
            remaining.append(record)
            continue
        fault = "box-duplicate" if exact[i] != i else "box-near-duplicate"
        log.note(fault, split, f"annotation {record['id']} is left out: it repeats annotation {kept[twin]['id']}")
    return remaining


def _as_written(split: CocoFile, i: int, record: dict) -> bool:
    """Whether box ``i`` is what the record has, neither text nor taken from polygons."""
    bbox = record.get("bbox")
    return not split.derived[i] and isinstance(bbox, list) and all(number(v) is not None for v in bbox)


def _list(box: Sequence[float] | np.ndarray) -> list[float]:
    """Plain numbers: whole ones as integers, others to a ten-thousandth of a pixel (but never rounded to nothing)."""
    return [int(v) if float(v).is_integer() else round(float(v), 4) or float(v) for v in box]
