"""Repairing a COCODIR, step three: the boxes of one split, in pixels, as x, y, width, height."""

import math
from types import SimpleNamespace

import numpy as np

from dino_nb.data.check_boxes import LAYOUTS, TOLERANCE, duplicates, guess_layout, to_xywh
from dino_nb.data.check_images import known_sizes
from dino_nb.data.check_records import brief, key_of, number
from dino_nb.data.fix_images import record_field


def repair_annotations(split, facts, places, categories, log):
    """The annotation records of ``split`` that remain, with boxes in pixels as x, y, width, height."""
    sizes = known_sizes(split, facts)
    at = {key: i for i, key in enumerate(split.image_ids)}
    layout, relative = guess_layout(split.boxes, sizes[split.image])
    fault = LAYOUTS.get(layout, "box-normalised")
    ids = [record_field(record, "id") for record in split.json.document["annotations"]]
    kept, used, last = [], set(), max((i for i in ids if _is_int(i)), default=0)
    for row, record in enumerate(split.json.document["annotations"]):
        who = f"annotation {brief(record_field(record, 'id'))} (number {row + 1} of the list)"
        image, category = key_of(record_field(record, "image_id"))[0], key_of(record_field(record, "category_id"))[0]
        if image not in places or category not in categories:
            reason = "annotation-malformed" if None in (image, category) else "unknown-category"
            reason = reason if image in places or image is None else "unknown-image"
            log.note(reason, split, f"{who} is left out: its picture or class is not there")
            continue
        place, size = places[image], sizes[at[image]]
        box = _box(record)
        if box is None:
            log.note("box-malformed", split, f"{who} is left out: bbox is {brief(record.get('bbox'))}")
            continue
        old = record.get("bbox")
        if box != old:
            log.note("box-malformed", split, f"{who}: bbox {brief(old)} is now {brief(box)}")
        read = to_xywh(box, size if not relative else place.size, layout, relative)[0]
        if (layout, relative) != ("xywh", False) and _numeric(old):
            log.note(fault, split, f"{who}: bbox {brief(box)} is now {_list(read)}")
        new = dict(record)
        if place.move:
            moved = place.move(read)
            log.note("image-size", split, f"{who}: bbox {_list(read)} is now {_list(moved)}")
            read = moved
            for stale in {"segmentation", "keypoints"} & new.keys():
                del new[stale]
        read = _cut(read, place.size, who, split, log)
        if read is None:
            continue
        identity = key_of(record.get("id"))[0]
        if not isinstance(identity, int) or identity in used:
            identity = last = last + 1
        used.add(identity)
        if identity != record.get("id") or not _is_int(record.get("id")):
            log.note("annotation-duplicate-ids", split, f"{who} is now annotation {identity}")
        changed = not (_numeric(old) and np.array_equal(read, np.array(old, dtype=np.float64)))
        new |= {"id": identity, "image_id": place.id, "category_id": categories[category]}
        new["bbox"] = _list(read) if changed else old
        _fill(new, changed, who, split, log)
        kept.append(new)
    return _without_duplicates(split, kept, log)


def _fill(new, changed, who, split, log):
    area = number(new.get("area"))
    if area is None or not math.isfinite(area) or area <= 0:
        log.note("missing-area", split, f"{who}: area {brief(new.get('area'))} is now that of its box")
        changed = True
    if changed:
        new["area"] = round(new["bbox"][2] * new["bbox"][3], 4)
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


def _is_int(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _numeric(bbox):
    return isinstance(bbox, list) and len(bbox) == 4 and all(number(v) is not None for v in bbox)


def _list(box):
    return [int(v) if float(v).is_integer() else round(float(v), 4) for v in box]


def _box(record):
    """Four finite numbers of the bbox (numbers, or texts that are), else round the polygons; None without any."""
    bbox = record.get("bbox")
    if isinstance(bbox, list) and len(bbox) == 4:
        values = [_parse(v) for v in bbox]
        if all(v is not None and math.isfinite(v) and abs(v) < 1e12 for v in values):
            return bbox if _numeric(bbox) else values
        return None
    polygons = record.get("segmentation")
    points = [p for p in polygons if isinstance(p, list)] if isinstance(polygons, list) else []
    xs, ys = ([number(v) for p in points for v in p[start::2]] for start in (0, 1))
    if not xs or not ys or any(v is None or not math.isfinite(v) for v in [*xs, *ys]):
        return None
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _parse(value):
    try:
        return float(value) if isinstance(value, str) else number(value)
    except ValueError:
        return None
