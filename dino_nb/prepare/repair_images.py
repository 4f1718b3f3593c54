"""Repairing a COCODIR, step two: the list of pictures of one split, each with the size of its file."""

import json
from dataclasses import dataclass

import numpy as np

from dino_nb.prepare.check_boxes import to_xywh
from dino_nb.prepare.check_images import SIDEWAYS, known_sizes, look_at
from dino_nb.prepare.check_records import brief, key_of
from dino_nb.prepare.repair_log import free_ids

SAME_SHAPE = 0.02  # relative difference of the scales of two sides, below which a picture was resized, not cut


@dataclass
class Place:
    """What became of one picture: its new ``id``, its ``size`` (w, h), and how its boxes move (or None)."""

    id: int
    size: tuple
    move: object = None


def repair_images(split, facts, layout, folder, full, leave_out, log):
    """``(records, {old id: Place})`` of the pictures of ``split`` that remain.

    ``facts``: of each usable picture; ``layout``: as of ``guess_layout``; ``leave_out``: position -> reason,
    for pictures that another split keeps.
    """
    document = split.json.document["images"]
    at = {row: i for i, row in enumerate(split.image_rows)}
    ambiguous = _ambiguous(split)
    reach = _reach(split, facts, layout)
    records, places, by_file = [], {}, {}
    spare = free_ids(split.image_ids)
    for row, record in enumerate(document):
        i = at.get(row)
        if i is None or split.image_ids[i] in ambiguous or i in leave_out:
            fault = "split-leak" if i in leave_out else "image-malformed" if i is None else "image-duplicate-ids"
            why = leave_out.get(i, "its id or name cannot be used" if i is None else "another picture has its id")
            log.note(fault, split, f"image {brief(record_field(record, 'file_name'))} is left out: {why}")
            continue
        key, name, fact = split.image_ids[i], split.image_names[i], facts[i]
        if fact.found:
            log.note(fact.fault, split, f"image {key!r}: file_name {name!r} is now {fact.found!r}")
            name, fact = fact.found, look_at(folder, fact.found, full)
        if fact.fault:
            log.note(fact.fault, split, f"image {key!r} is left out: {name!r}{fact.why or ' is not there'}")
            continue
        if name in by_file:
            places[key] = by_file[name]
            log.note("image-duplicate-files", split, f"image {key!r} is merged into image {by_file[name].id}: {name!r}")
            continue
        new = key if isinstance(key, int) else next(spare)
        if new != record["id"] or not isinstance(record["id"], int):
            log.note("id-type", split, f"image {brief(record['id'])} is now image {new}: {name!r}")
        place = Place(new, tuple(map(int, fact.size)))
        _resize(split, i, place, fact, reach[i], layout[1], log)
        places[key] = by_file[name] = place
        size = {"width": place.size[0], "height": place.size[1]}
        records.append(record | {"id": new, "file_name": name} | size)
    return records, places


def _resize(split, i, place, fact, reach, relative, log):
    """Note a changed size, and set ``place.move`` if the boxes were drawn on a picture of the old one."""
    said = split.image_sizes[i]
    name = f"image {split.image_ids[i]!r} ({split.image_names[i]!r})"
    size = np.array(place.size, dtype=np.float64)
    if not np.isfinite(said).all():
        log.note("image-size-missing", split, f"{name}: width and height are now {place.size[0]} x {place.size[1]}")
        return
    if (said == size).all():
        return
    how = "boxes stay"
    scale = size / said
    fits_old, fits_new = (reach <= said + 2).all(), (reach <= size + 2).all()
    if relative or (fits_new and not fits_old):
        pass
    elif fact.orientation in SIDEWAYS and (said == size[::-1]).all():
        how, place.move = "boxes are turned", _turner(fact.orientation, said)
    elif abs(scale[0] / scale[1] - 1) <= SAME_SHAPE:
        how, place.move = "boxes are scaled", lambda box: box * np.tile(scale, 2)
    text = f"{said[0]:g} x {said[1]:g} is now {place.size[0]} x {place.size[1]}"
    log.note("image-size", split, f"{name}: {text}; {how}")


def _turner(orientation, stored):
    """The map of boxes on a picture as stored (w, h) to the upright one, for an EXIF orientation of 5..8."""
    width, height = stored

    def turn(box):
        x, y, w, h = box
        left = height - y - h if orientation in (6, 7) else y
        top = width - x - w if orientation in (7, 8) else x
        return np.array([left, top, h, w])

    return turn


def _reach(split, facts, layout):
    """(images, 2): how far to the right and down the boxes of each picture reach."""
    boxes = to_xywh(split.boxes, known_sizes(split, facts)[split.image], *layout)
    reach = np.zeros((len(split.image_ids), 2))
    np.maximum.at(reach, split.image, np.nan_to_num(boxes[:, :2] + boxes[:, 2:]))
    return reach


def _ambiguous(split):
    """Ids that pictures of different files share: whose boxes are whose is unknown."""
    names = {}
    for record in split.json.document["images"]:
        key = key_of(record_field(record, "id"))[0]
        if key is not None:
            names.setdefault(key, set()).add(json.dumps(record_field(record, "file_name")))
    return {key for key, files in names.items() if len(files) > 1}


def record_field(record, name):
    """A field of what should be a record, or None."""
    return record.get(name) if isinstance(record, dict) else None
