"""Repairing a COCODIR, step two: the images of one split with the sizes of their files, and its boxes in pixels."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from dino_nb.data.coco_file import CocoFile
from dino_nb.data.coco_values import Id, brief, free_ids, id_of, is_plain, number
from dino_nb.data.images import QUARTER_TURNS, turned_boxes
from dino_nb.prepare.check_boxes import FAULT_OF_LAYOUT, TOLERANCE, Layout, boxes_in_pixels, duplicates
from dino_nb.prepare.check_images import Facts, known_sizes
from dino_nb.prepare.findings import Log

_SAME_SHAPE = 0.02  # relative difference of the scales of two sides, below which an image was resized, not cut

Move = Callable[[np.ndarray], np.ndarray]


class Place(NamedTuple):
    """What became of one image: its new ``id``, its ``size`` (w, h), and how its boxes move (or None)."""

    id: int
    size: tuple[int, int]
    move: Move | None


def repair_images(
    split: CocoFile, facts: Sequence[Facts], layout: Layout, leave_out: dict[int, str], log: Log
) -> tuple[list[dict], dict[int, Place]]:
    """``(records, {position: Place})`` of the images of ``split`` that remain.

    ``facts``: of each usable image; ``layout``: as of ``guess_layout``; ``leave_out``: position -> reason, for images
    that another split keeps.
    """
    ambiguous, moves = _ambiguous(split), _moves(split, facts, layout)
    records: list[dict] = []
    places: dict[int, Place] = {}
    by_file: dict[str, Place] = {}
    spare = free_ids(split.image_ids)
    for i, (row, key, name, fact) in enumerate(zip(split.image_rows, split.image_ids, split.image_names, facts)):
        record, who = split.record("images", row), f"image {brief(key)}"
        if i in leave_out:
            log.note("split-leak", split, f"image {brief(record['file_name'])} is left out: {leave_out[i]}")
        elif key in ambiguous:
            why = f"image {brief(record['file_name'])} is left out: another image has its id"
            log.note("image-duplicate-ids", split, why)
        elif fact.fault:
            log.note(fact.fault, split, f"{who} is left out: {name!r}{fact.why or ' is not there'}")
        elif name in by_file:
            places[i] = by_file[name]
            log.note("image-duplicate-files", split, f"{who} is merged into image {by_file[name].id}: {name!r}")
        else:
            new = key if is_plain(key) else next(spare)
            if type(record["id"]) is not int or new != record["id"]:
                log.note("id-type", split, f"image {brief(record['id'])} is now image {new}: {name!r}")
            width, height = map(int, fact.size)
            how, move = moves.get(i, ("boxes stay", None))
            said = split.image_sizes[i]
            if not np.isfinite(said).all():
                log.note("image-size-missing", split, f"{who} ({name!r}): width and height are now {width} x {height}")
            elif tuple(said) != (width, height):
                text = f"{said[0]:g} x {said[1]:g} is now {width} x {height}; {how}"
                log.note("image-size", split, f"{who} ({name!r}): {text}")
            places[i] = by_file[name] = Place(new, (width, height), move)
            records.append(record | {"id": new, "file_name": name, "width": width, "height": height})
    return records, places


def _ambiguous(split: CocoFile) -> set[Id]:
    """Ids that images of different files share: nothing tells which boxes belong to which."""
    names: dict[Id | None, set[str]] = defaultdict(set)
    for _, record in split.records("images"):
        names[id_of(record.get("id"))[0]].add(json.dumps(record.get("file_name"), default=str))
    return {key for key, files in names.items() if key is not None and len(files) > 1}


def _moves(split: CocoFile, facts: Sequence[Facts], layout: Layout) -> dict[int, tuple[str, Move]]:
    """Position -> how the boxes of an image move, for those that were drawn on an image of the stated size.

    A wrong size alone does not tell whether the image was resized after labelling (then its boxes move along) or
    whether only the number is wrong (then they stay). A box that fits into one of both sizes alone proves it; images
    without proof follow the others. Without any, boxes that would all have had to lie in a part of a larger image by
    chance stay.
    """
    boxes = boxes_in_pixels(split, known_sizes(split, facts), layout)
    reach = np.zeros((len(split.image_ids), 2))  # how far to the right and down the boxes of each image reach
    np.maximum.at(reach, split.image, np.nan_to_num(boxes[:, :2] + boxes[:, 2:]))
    candidates: dict[str, list[tuple[int, str, Move, int]]] = defaultdict(list)
    for i, (said, fact) in enumerate(zip(split.image_sizes, facts)):
        size = np.array(fact.size)
        if layout[1] or not np.isfinite([said, size]).all() or (said == size).all():
            continue
        scale = size / said
        proof = int((reach[i] <= said + 2).all()) - int((reach[i] <= size + 2).all())
        if fact.orientation in QUARTER_TURNS and (said == size[::-1]).all():
            turn = partial(_turned, stored=(int(said[0]), int(said[1])), orientation=fact.orientation)
            candidates["turned"].append((i, "boxes are turned", turn, proof))
        elif abs(scale[0] / scale[1] - 1) <= _SAME_SHAPE:
            way = "enlarged" if scale[0] > 1 else "reduced"
            candidates[way].append((i, "boxes are scaled", partial(np.multiply, np.tile(scale, 2)), proof))
    moving: dict[int, tuple[str, Move]] = {}
    for way, members in candidates.items():
        others = sum(proof for *_, proof in members) or (0 if way == "reduced" else 1)
        moving |= {i: (how, move) for i, how, move, proof in members if (proof or others) > 0}
    return moving


def _turned(box: np.ndarray, stored: tuple[int, int], orientation: int) -> np.ndarray:
    """A box x, y, width, height of an image as stored on the upright one."""
    ((x1, y1, x2, y2),) = turned_boxes(np.append(box[:2], box[:2] + box[2:]), stored, orientation)
    return np.array([x1, y1, x2 - x1, y2 - y1])


def repair_boxes(
    split: CocoFile, facts: Sequence[Facts], layout: Layout, places: dict[int, Place], ids: dict[Id, int], log: Log
) -> list[dict[str, Any]]:
    """The annotation records of ``split`` that remain, with boxes x, y, width, height in pixels of the image as it is.

    ``facts``: of its images; ``layout``: as of ``guess_layout``; ``places``: as of ``repair_images``; ``ids``: old
    category id -> new one. What was right stays as it was written.
    """
    seen = np.array([fact.size for fact in facts], dtype=np.float64).reshape(-1, 2)
    pixels = boxes_in_pixels(split, seen if layout[1] else known_sizes(split, facts), layout)
    category_of = list(ids.values())
    spare = free_ids(id_of(record.get("id"))[0] for _, record in split.records("annotations"))
    kept, used = [], set()
    for i, row in enumerate(split.rows.tolist()):
        record, place = split.record("annotations", row), places.get(int(split.image[i]))
        old, key = record.get("id"), id_of(record.get("id"))[0]
        who = f"annotation {brief(old)} (number {row + 1} of the list)"

        def note(fault: str, text: str, who: str = who) -> None:
            log.note(fault, split, f"{who}{text}")

        if place is None:
            note("unknown-image", " is left out: its image is")
            continue
        plain = not split.derived[i] and all(number(v) is not None for v in record["bbox"])
        if not plain:  # texts, or taken from polygons
            note("box-malformed", f": bbox {brief(record.get('bbox'))} is now {_list(split.boxes[i])}")
        if (box := _box(split.boxes[i], pixels[i], place, layout, note)) is None:
            continue
        if not is_plain(key) or key in used:
            key = next(spare)
        used.add(key)
        if type(old) is not int or key != old:
            note("annotation-duplicate-ids", f" is now annotation {key}")
        new = record | {"id": key, "image_id": place.id, "category_id": category_of[split.category[i]]}
        for name in ("image_id", "category_id"):
            if type(record[name]) is not int or record[name] != new[name]:
                note("id-type", f": {name} {brief(record[name])} is now {new[name]}")
        if place.move:  # they were drawn on the other size, too
            new = {k: v for k, v in new.items() if k not in ("segmentation", "keypoints")}
        area = number(new.get("area"))
        if area is None or not 0 < area < math.inf:
            note("missing-area", f": area {brief(new.get('area'))} is now that of its box")
            area = None
        if not plain or not np.array_equal(box, split.boxes[i]):
            new["bbox"], area = _list(box), None
        if area is None:
            new["area"] = _list([box[2] * box[3]])[0]
        if type(new.get("iscrowd")) is not int or new["iscrowd"] not in (0, 1):
            note("missing-iscrowd", f": iscrowd {brief(new.get('iscrowd'))} is now {int(split.crowd[i])}")
            new["iscrowd"] = int(split.crowd[i])
        kept.append(new)
    return _without_duplicates(split, kept, log)


def _box(
    box: np.ndarray, pixels: np.ndarray, place: Place, layout: Layout, note: Callable[[str, str], None]
) -> np.ndarray | None:
    """``box`` in pixels, moved with its image and cut at the border; None if nothing is left of it."""

    def change(fault: str, new: np.ndarray) -> np.ndarray:
        if not np.array_equal(box, new):
            note(fault, f": bbox {_list(box)} is now {_list(new)}")
        return new

    box = change(FAULT_OF_LAYOUT.get(layout[0], "box-normalised"), pixels)
    if place.move:
        box = change("image-size", place.move(box))
    low, high = np.clip(box[:2], 0, place.size), np.clip(box[:2] + box[2:], 0, place.size)
    if (box[2:] <= 0).any():
        note("box-empty", f" is left out: bbox {_list(box)} has no area")
        return None
    if (high <= low).any():
        note("box-outside", f" is left out: bbox {_list(box)} is outside its image")
        return None
    if max((-box[:2]).max(), (box[:2] + box[2:] - place.size).max()) > TOLERANCE:
        box = change("box-outside", np.concatenate([low, high - low]))
    return box


def _without_duplicates(split: CocoFile, kept: list[dict], log: Log) -> list[dict]:
    boxes = np.array([r["bbox"] for r in kept], dtype=np.float64).reshape(-1, 4)
    image, category = (np.array([r[k] for r in kept]) for k in ("image_id", "category_id"))
    exact, near = duplicates(image, category, boxes, np.array([not r["iscrowd"] for r in kept], dtype=bool))
    remaining = []
    for i, record in enumerate(kept):
        twin = int(min(exact[i], near[i]))
        if twin == i:
            remaining.append(record)
        else:
            fault = "box-duplicate" if exact[i] != i else "box-near-duplicate"
            log.note(fault, split, f"annotation {record['id']} is left out: it repeats annotation {kept[twin]['id']}")
    return remaining


def _list(box: Sequence[float] | np.ndarray) -> list[float]:
    """Plain numbers: whole ones as integers, others to a ten-thousandth of a pixel (but never rounded to nothing)."""
    return [int(v) if float(v).is_integer() else round(float(v), 4) or float(v) for v in box]
