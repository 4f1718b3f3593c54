"""Repairing a COCODIR, step two: the list of images of one split, each with the size of its file."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from dino_nb.data.coco_file import CocoFile
from dino_nb.data.coco_values import Id, brief, id_of
from dino_nb.data.images import QUARTER_TURNS, turned_boxes
from dino_nb.prepare.check_boxes import Layout, boxes_in_pixels
from dino_nb.prepare.check_images import Facts, known_sizes
from dino_nb.prepare.repair_categories import ID_LIMIT
from dino_nb.prepare.repair_log import Log, free_ids

SAME_SHAPE = 0.02  # relative difference of the scales of two sides, below which an image was resized, not cut


Move = Callable[[np.ndarray], np.ndarray]


@dataclass
class Place:
    """What became of one image: its new ``id``, its ``size`` (w, h), and how its boxes move (or None)."""

    id: int
    size: tuple[int, int]
    move: Move | None = None


def repair_images(
    split: CocoFile,
    facts: Sequence[Facts],
    layout: Layout,
    renamed: dict[int, tuple[str, Facts]],
    drop: dict[int, str],
    log: Log,
) -> tuple[list[dict], dict[int, Place]]:
    """``(records, {position: Place})`` of the images of ``split`` that remain.

    ``facts``: of each usable image; ``layout``: as of ``guess_layout``; ``renamed``: position -> name in the file and
    what was seen there, where the image lies elsewhere; ``drop``: position -> reason, for images that another split
    keeps.
    """
    at = {row: i for i, row in enumerate(split.image_rows)}
    ambiguous = _ambiguous(split)
    moves = _moves(split, facts, layout)
    records: list[dict] = []
    places: dict[int, Place] = {}
    by_file: dict[str, Place] = {}
    spare = free_ids(split.image_ids)
    for row, record in split.records("images"):
        i = at.get(row)
        if i is None or split.image_ids[i] in ambiguous or i in drop:
            fault, why = "image-duplicate-ids", "another image has its id"
            if i is None:
                log.leave_out(split, "images", row, "image-malformed")
                continue
            fault, why = ("split-leak", drop[i]) if i in drop else (fault, why)
            log.note(fault, split, f"image {brief(record.get('file_name'))} is left out: {why}")
            continue
        key, name, fact = split.image_ids[i], split.image_names[i], facts[i]
        who = f"image {brief(key)}"
        if i in renamed:
            old, first = renamed[i]
            log.note(first.fault or "", split, f"{who}: file_name {old!r} is now {name!r}")
        if fact.fault:
            log.note(fact.fault, split, f"{who} is left out: {name!r}{fact.why or ' is not there'}")
            continue
        if name in by_file:
            places[i] = by_file[name]
            log.note("image-duplicate-files", split, f"{who} is merged into image {by_file[name].id}: {name!r}")
            continue
        new = key if isinstance(key, int) and abs(key) < ID_LIMIT else next(spare)
        if type(record["id"]) is not int or new != record["id"]:
            log.note("id-type", split, f"image {brief(record['id'])} is now image {new}: {name!r}")
        width, height = map(int, fact.size)
        how, move = moves.get(i, ("", None))
        said = split.image_sizes[i]
        if not np.isfinite(said).all():
            log.note("image-size-missing", split, f"{who} ({name!r}): width and height are now {width} x {height}")
        elif tuple(said) != (width, height):
            text = f"{said[0]:g} x {said[1]:g} is now {width} x {height}; {how or 'boxes stay'}"
            log.note("image-size", split, f"{who} ({name!r}): {text}")
        places[i] = by_file[name] = Place(new, (width, height), move)
        records.append(record | {"id": new, "file_name": name, "width": width, "height": height})
    return records, places


def _moves(split: CocoFile, facts: Sequence[Facts], layout: Layout) -> dict[int, tuple[str, Move]]:
    """Position -> how the boxes of an image move, for those that were drawn on an image of the stated size.

    A wrong size alone does not tell whether the image was resized after labelling (then its boxes move along) or
    whether only the number is wrong (then they stay). A box that fits into one of both sizes alone proves it; images
    without proof follow the others. Without any, boxes that would all have had to lie in a part of a larger image by
    chance stay.
    """
    candidates: dict[int, tuple[str, Move]] = {}
    scales, proofs = {}, {}
    reach = _reach(split, facts, layout)
    for i, (said, fact) in enumerate(zip(split.image_sizes, facts)):
        size = np.array(fact.size)
        if layout[1] or not np.isfinite([said, size]).all() or (said == size).all():
            continue
        scale = size / said
        if fact.orientation in QUARTER_TURNS and (said == size[::-1]).all():
            stored = (int(said[0]), int(said[1]))
            turn = partial(_turned, stored=stored, orientation=fact.orientation)
            candidates[i] = "boxes are turned", turn
            scales[i] = 0.0  # turned boxes are a case of their own
        elif abs(scale[0] / scale[1] - 1) <= SAME_SHAPE:
            candidates[i] = "boxes are scaled", partial(np.multiply, np.tile(scale, 2))
            scales[i] = float(scale[0])
        else:
            continue
        fits_said, fits_size = (reach[i] <= said + 2).all(), (reach[i] <= size + 2).all()
        proofs[i] = int(fits_said) - int(fits_size)
    moving = {}
    for i, move in candidates.items():
        alike = [proofs[j] for j in candidates if (scales[j] > 1, scales[j] == 0) == (scales[i] > 1, scales[i] == 0)]
        verdict = proofs[i] or sum(alike)
        if verdict > 0 or (verdict == 0 and (scales[i] == 0 or scales[i] > 1)):
            moving[i] = move
    return moving


def _turned(box: np.ndarray, stored: tuple[int, int], orientation: int) -> np.ndarray:
    """A box x, y, width, height of an image as stored on the upright one."""
    ((x1, y1, x2, y2),) = turned_boxes(np.append(box[:2], box[:2] + box[2:]), stored, orientation)
    return np.array([x1, y1, x2 - x1, y2 - y1])


def _reach(split: CocoFile, facts: Sequence[Facts], layout: Layout) -> np.ndarray:
    """(images, 2): how far to the right and down the boxes of each image reach."""
    boxes = boxes_in_pixels(split, known_sizes(split, facts), layout)
    reach = np.zeros((len(split.image_ids), 2))
    np.maximum.at(reach, split.image, np.nan_to_num(boxes[:, :2] + boxes[:, 2:]))
    return reach


def _ambiguous(split: CocoFile) -> set[Id]:
    """Ids that images of different files share: nothing tells which boxes belong to which."""
    names: dict[Id, set[str]] = {}
    for _, record in split.records("images"):
        key = id_of(record.get("id"))[0]
        if key is not None:
            names.setdefault(key, set()).add(json.dumps(record.get("file_name"), default=str))
    return {key for key, files in names.items() if len(files) > 1}
