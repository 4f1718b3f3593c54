"""Repairing a COCODIR, step three: the boxes of one split, in pixels, as x, y, width, height."""

import math
from types import SimpleNamespace

import numpy as np

from dino_nb.prepare.check_boxes import LAYOUTS, TOLERANCE, duplicates, to_xywh
from dino_nb.prepare.check_images import known_sizes
from dino_nb.prepare.check_records import FAR, brief, key_of, number
from dino_nb.prepare.repair_images import record_field
from dino_nb.prepare.repair_log import free_ids


def repair_annotations(split, facts, layout, places, categories, log):
    """The annotation records of ``split`` that remain.

    ``facts``: of its pictures; ``layout``: as of ``guess_layout``; ``places``: as of
    ``repair_images``; ``categories``: old id -> new id.
    """
    sizes = known_sizes(split, facts)
    at = {key: i for i, key in enumerate(split.image_ids)}
    records = split.json.document["annotations"]
    spare = free_ids(key_of(record_field(record, "id"))[0] for record in records)
    kept, used = [], set()
    for row, record in enumerate(records):
        who = f"annotation {brief(record_field(record, 'id'))} (number {row + 1} of the list)"
        image, category = key_of(record_field(record, "image_id"))[0], key_of(record_field(record, "category_id"))[0]
        if image not in places or category not in categories:
            fault = "annotation-malformed" if None in (image, category) else "unknown-category"
            fault = fault if image in places or image is None else "unknown-image"
            log.note(fault, split, f"{who} is left out: its picture or class is not there")
            continue
        place = places[image]
        box = _repaired_box(record, place, sizes[at[image]], layout, who, split, log)
        if box is None:
            continue
        old, identity = record.get("id"), key_of(record.get("id"))[0]
        if not isinstance(identity, int) or identity in used:
            identity = next(spare)
        used.add(identity)
        if identity != old or not isinstance(old, int):
            log.note("annotation-duplicate-ids", split, f"{who} is now annotation {identity}")
        for name, value in (("image_id", place.id), ("category_id", categories[category])):
            if record[name] != value or not isinstance(record[name], int):
                log.note("id-type", split, f"{who}: {name} {brief(record[name])} is now {value}")
        new = record | {"id": identity, "image_id": place.id, "category_id": categories[category]}
        if place.move:  # they were drawn on the other size, too
            new = {k: v for k, v in new.items() if k not in ("segmentation", "keypoints")}
        _fill(new, box, who, split, log)
        kept.append(new)
    return _without_duplicates(split, kept, log)


def _repaired_box(record, place, size, layout, who, split, log):
    """The box as x, y, width, height in pixels of the picture as it is; None (logged) if nothing is left of it.

    ``size``: width and height that it was written for.
    """
    old = record.get("bbox")
    box = _numbers(old) or _around_polygons(record.get("segmentation"))
    if box is None or (isinstance(old, list) and len(old) == 4 and _numbers(old) is None):
        log.note("box-malformed", split, f"{who} is left out: bbox is {brief(old)}")
        return None
    if not _numeric(old):
        log.note("box-malformed", split, f"{who}: bbox {brief(old)} is now {_list(box)}")
    read = np.array(box, dtype=np.float64)
    if layout != ("xywh", False) and _numbers(old):
        read = to_xywh(box, place.size if layout[1] else size, *layout)[0]
        fault = LAYOUTS.get(layout[0], "box-normalised")
        log.note(fault, split, f"{who}: bbox {_list(box)} is now {_list(read)}")
    if place.move:
        moved = place.move(read)
        log.note("image-size", split, f"{who}: bbox {_list(read)} is now {_list(moved)}")
        read = moved
    return _cut(read, place.size, who, split, log)


def _fill(new, box, who, split, log):
    """Set bbox, area and iscrowd of a record; what was right stays as it was written."""
    old, area = new.get("bbox"), number(new.get("area"))
    changed = not (_numeric(old) and np.array_equal(box, np.array(old, dtype=np.float64)))
    new["bbox"] = _list(box) if changed else old
    if area is None or not math.isfinite(area) or area <= 0:
        log.note("missing-area", split, f"{who}: area {brief(new.get('area'))} is now that of its box")
        changed = True
    if changed:
        new["area"] = _list([box[2] * box[3]])[0]
    if new.get("iscrowd") not in (0, 1):
        log.note("missing-iscrowd", split, f"{who}: iscrowd {brief(new.get('iscrowd'))} is now 0")
        new["iscrowd"] = 0


def _without_duplicates(split, kept, log):
    if not kept:
        return kept
    boxes = np.array([r["bbox"] for r in kept], dtype=np.float64)
    columns = [np.unique([r[k] for r in kept], return_inverse=True)[1].ravel() for k in ("image_id", "category_id")]
    alone = np.array([not r["iscrowd"] for r in kept])
    table = SimpleNamespace(image=columns[0], category=columns[1])
    exact, near = duplicates(table, boxes, alone)
    remaining = []
    for i, record in enumerate(kept):
        twin = int(min(exact[i], near[i]))
        if twin == i:
            remaining.append(record)
            continue
        fault = "box-duplicate" if exact[i] != i else "box-near-duplicate"
        log.note(fault, split, f"annotation {record['id']} is left out: it repeats annotation {kept[twin]['id']}")
    return remaining


def _cut(box, size, who, split, log):
    """The box within its picture, or None (logged) if nothing is left of it."""
    low, high = np.clip(box[:2], 0, size), np.clip(box[:2] + box[2:], 0, size)
    if (box[2:] <= 0).any():
        log.note("box-empty", split, f"{who} is left out: bbox {_list(box)} has no area")
        return None
    if (high <= low).any():
        log.note("box-outside", split, f"{who} is left out: bbox {_list(box)} is outside its picture")
        return None
    if max((-box[:2]).max(), (box[:2] + box[2:] - size).max()) <= TOLERANCE:
        return box
    cut = np.concatenate([low, high - low])
    log.note("box-outside", split, f"{who}: bbox {_list(box)} is now {_list(cut)}")
    return cut


def _numeric(bbox):
    return isinstance(bbox, list) and len(bbox) == 4 and all(number(v) is not None for v in bbox)


def _list(box):
    """Plain numbers: whole ones as integers, others to a ten-thousandth of a pixel (but never rounded to nothing)."""
    return [int(v) if float(v).is_integer() else round(float(v), 4) or float(v) for v in box]


def _numbers(bbox):
    """Four finite numbers of a list of numbers, or of texts that are numbers; else None."""
    if not isinstance(bbox, list) or len(bbox) != 4:
        return None
    try:
        values = [float(v) if isinstance(v, str) else number(v) for v in bbox]
    except ValueError:
        return None
    return values if all(v is not None and math.isfinite(v) and abs(v) <= FAR for v in values) else None


def _around_polygons(polygons):
    """x, y, width, height round COCO polygons; None without any."""
    polygons = [p for p in polygons if isinstance(p, list)] if isinstance(polygons, list) else []
    xs, ys = ([number(v) for p in polygons for v in p[start::2]] for start in (0, 1))
    if not xs or not ys or any(v is None or not math.isfinite(v) for v in [*xs, *ys]):
        return None
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
