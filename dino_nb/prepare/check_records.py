"""From the records of one annotation file to columns: what is usable becomes arrays, the rest findings."""

import math
import reprlib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from dino_nb.data.classes import normalise
from dino_nb.prepare.check_json import JsonFile

FAR = 1e12  # pixels: a coordinate beyond is as good as infinite
ID_LIMIT = 2**53  # the largest integer that survives JavaScript and pandas


_ANNOTATION_IDS = ("id", "image_id", "category_id")
_brief = reprlib.Repr()
_brief.maxstring, _brief.maxlist, _brief.maxlevel = 100, 8, 2


def brief(value):
    """``repr`` of a value of unknown size and depth, cut short."""
    return _brief.repr(value)


@dataclass
class Split:
    """The usable records of one split. ``rows`` index the lists of ``json.document``.

    Attributes:
        categories: id -> name.
        image_ids, image_names, image_rows: lists of one length; ids are unique.
        image_sizes: (images, 2) width and height of the JSON, NaN where missing.
        rows: (boxes,) rows of the annotations; ``image`` (boxes,) positions in the image lists; ``category``
            (boxes,) positions in ``list(categories)``; ``boxes`` (boxes, 4) the finite bboxes as written; ``crowd``
            (boxes,) bool.
    """

    name: str
    folder: Path
    json: JsonFile
    categories: dict = field(default_factory=dict)
    image_ids: list = field(default_factory=list)
    image_names: list = field(default_factory=list)
    image_rows: list = field(default_factory=list)
    image_sizes: np.ndarray = None
    rows: np.ndarray = None
    image: np.ndarray = None
    category: np.ndarray = None
    boxes: np.ndarray = None
    crowd: np.ndarray = None

    def add(self, findings, fault, section, row, text):
        """One finding about record ``row`` of ``section``, with its file, line and id."""
        record = self.json.document[section][row]
        id = key_of(record.get("id"))[0] if isinstance(record, dict) else None
        who = {"images": "image", "annotations": "annotation", "categories": "category"}[section]
        who = f"{who} {id}" if id is not None else f"{who} number {row + 1} of the list"
        findings.add(fault, f"{who}: {text}", file=self.json.label, line=lambda: self.json.line(section, row), id=id)

    def add_boxes(self, findings, fault, mask, describe):
        """Findings about the boxes of ``mask`` (boxes,); ``describe(i)`` says what is wrong with box ``i``."""
        for i in np.flatnonzero(mask):
            if not findings.count(fault, 0):
                findings.count(fault, int(np.count_nonzero(mask[i:])))
                return
            self.add(findings, fault, "annotations", int(self.rows[i]), self.place(i) + describe(i))

    def place(self, i):
        """Picture and class of box ``i``, to begin a sentence with."""
        return f"{self.image_names[self.image[i]]}, class {list(self.categories.values())[self.category[i]]!r}, "


def key_of(value):
    """``(key, well_typed)`` of an id: the integer that it is or spells, a text, or None if it cannot be an id."""
    if type(value) is int:  # not a bool
        return (value, True) if abs(value) < ID_LIMIT else (None, False)
    if isinstance(value, float) and value.is_integer() and abs(value) < ID_LIMIT:
        return int(value), False
    if isinstance(value, str) and value.strip():
        text = value.strip()
        plain = len(text) < 16 and text.isascii() and text.removeprefix("-").isdigit() and str(int(text)) == text
        return (int(text) if plain else text), False
    return None, False


def number(value):
    """``value`` as a float (NaN and infinity included), or None where it is not a JSON number."""
    if type(value) is float:
        return value
    if type(value) is not int:  # a bool is none
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def unsafe(name):
    """Whether a file name is absolute or climbs out of its folder, on any system."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or name[1:2] == ":" or "\0" in name


def spelling(name):
    """What is common to all spellings of a class name; itself where nothing would be left."""
    return normalise(name) or name


def read_split(name, folder, json, findings):
    """The ``Split`` of a ``JsonFile`` that has a document; everything that cannot be used is a finding."""
    split = Split(name, Path(folder), json)
    _read_categories(split, findings)
    _read_images(split, findings)
    _read_annotations(split, findings)
    where = {"file": json.label}
    if not split.categories:
        findings.add("no-categories", f"{name} has {len(json.document['categories'])} category records", **where)
    if not split.image_ids:
        findings.add("no-images", f"{name} has {len(json.document['images'])} image records", **where)
    if not len(split.rows) and name != "test":
        records = len(json.document["annotations"])
        findings.add("no-annotations", f"{name} has {records:,} annotation records, none usable", **where)
    return split


def _check_id(split, findings, section, row, field, value):
    key, well_typed = key_of(value)
    if key is not None and not well_typed:
        split.add(findings, "id-type", section, row, f"{field} is {brief(value)}, not an integer")


def _read_categories(split, findings):
    by_name, by_spelling = {}, defaultdict(list)
    for row, record in enumerate(split.json.document["categories"]):
        value = record.get("id") if isinstance(record, dict) else None
        name = record.get("name") if isinstance(record, dict) else None
        key = key_of(value)[0]
        if key is None or not isinstance(name, str) or not name.strip():
            what = f"the name is {brief(name)}" if key is not None else f"the id is {brief(value)}"
            split.add(findings, "category-malformed", "categories", row, what)
            if key is None:
                continue
            name = f"class {key}"
        _check_id(split, findings, "categories", row, "id", value)
        if key in split.categories:
            what = f"is {brief(name)}, and {brief(split.categories[key])} before"
            split.add(findings, "category-duplicate-ids", "categories", row, what)
            continue
        if name in by_name:
            what = f"{brief(name)} is also category {by_name[name]}"
            split.add(findings, "category-duplicate-names", "categories", row, what)
        elif by_spelling[spelling(name)]:
            what = f"{brief(name)} is also spelt {brief(by_spelling[spelling(name)][0])}"
            split.add(findings, "category-spelling", "categories", row, what)
        by_name.setdefault(name, key)
        by_spelling[spelling(name)].append(name)
        split.categories[key] = name


def _read_images(split, findings):
    seen, files, sizes = {}, {}, []
    for row, record in enumerate(split.json.document["images"]):
        fields = record if isinstance(record, dict) else {}
        key, name = key_of(fields.get("id"))[0], fields.get("file_name")
        if key is None or not isinstance(name, str) or not name.strip():
            what = f"id {brief(fields.get('id'))}, file_name {brief(name)}"
            what = what if fields else f"the record is {brief(record)}"
            split.add(findings, "image-malformed", "images", row, what)
            continue
        _check_id(split, findings, "images", row, "id", fields["id"])
        if key in seen:
            split.add(findings, "image-duplicate-ids", "images", row, f"{brief(name)}, and {brief(seen[key])} before")
            continue
        if name in files:
            split.add(findings, "image-duplicate-files", "images", row, f"{brief(name)} is also image {files[name]}")
        size = [number(fields.get(side)) for side in ("width", "height")]
        if not all(s is not None and math.isfinite(s) and s >= 1 for s in size):
            what = f"{brief(name)} has width {brief(fields.get('width'))}, height {brief(fields.get('height'))}"
            split.add(findings, "image-size-missing", "images", row, what)
            size = [math.nan, math.nan]
        seen[key] = name
        files.setdefault(name, key)
        split.image_ids.append(key)
        split.image_names.append(name)
        split.image_rows.append(row)
        sizes.append(size)
    split.image_sizes = np.array(sizes, dtype=np.float64).reshape(-1, 2)


def _read_annotations(split, findings):
    image_at = {key: i for i, key in enumerate(split.image_ids)}
    category_at = {key: i for i, key in enumerate(split.categories)}
    written = {
        "image_id": {key_of(v)[0]: v for v in _raw_ids(split, "images")},
        "category_id": {key_of(v)[0]: v for v in _raw_ids(split, "categories")},
    }
    seen, columns = set(), []
    for row, record in enumerate(split.json.document["annotations"]):
        fields = record if isinstance(record, dict) else {}
        (id, good), (image, known), (category, listed) = (key_of(fields.get(n)) for n in _ANNOTATION_IDS)
        if not (good and known and listed):
            for name in _ANNOTATION_IDS:
                _check_id(split, findings, "annotations", row, name, fields.get(name))
        if image is None or category is None:
            what = f"image_id {brief(fields.get('image_id'))}, category_id {brief(fields.get('category_id'))}"
            what = what if fields else f"the record is {brief(record)}"
            split.add(findings, "annotation-malformed", "annotations", row, what)
            continue
        if id is None or id in seen:
            what = "the id is not unique" if id is not None else f"the id is {brief(fields.get('id'))}"
            split.add(findings, "annotation-duplicate-ids", "annotations", row, what)
        seen.add(id)
        _check_extras(split, findings, row, fields)
        box = _read_box(split, findings, row, fields.get("bbox"))
        if image not in image_at:
            split.add(findings, "unknown-image", "annotations", row, f"image_id {brief(image)} is not in images")
        if category not in category_at:
            split.add(findings, "unknown-category", "annotations", row, f"category_id {brief(category)} is not listed")
        for name, key in (("image_id", image), ("category_id", category)):
            if written[name].get(key, fields[name]) != fields[name]:
                what = f"{name} is {brief(fields[name])}, the id that it means {brief(written[name][key])}"
                split.add(findings, "id-mismatch", "annotations", row, what)
        if box is not None and image in image_at and category in category_at:
            crowd = number(fields.get("iscrowd")) == 1 or fields.get("iscrowd") is True
            columns.append((row, image_at[image], category_at[category], crowd, *box))
    table = np.array(columns, dtype=np.float64).reshape(-1, 8)
    split.rows, split.image, split.category = table[:, :3].astype(np.int64).T
    split.crowd, split.boxes = table[:, 3] == 1, table[:, 4:]


def _raw_ids(split, section):
    """Ids as written, the first of each last, so that it wins in a dict."""
    return [record.get("id") for record in reversed(split.json.document[section]) if isinstance(record, dict)]


def _check_extras(split, findings, row, fields):
    area = number(fields.get("area"))
    if area is None or not math.isfinite(area) or area <= 0:
        split.add(findings, "missing-area", "annotations", row, f"area is {brief(fields.get('area'))}")
    if fields.get("iscrowd") not in (0, 1):
        split.add(findings, "missing-iscrowd", "annotations", row, f"iscrowd is {brief(fields.get('iscrowd'))}")


def _read_box(split, findings, row, bbox):
    """Four finite floats, or None."""
    box = [number(v) for v in bbox] if isinstance(bbox, list) and len(bbox) == 4 else [None]
    if None in box:
        split.add(findings, "box-malformed", "annotations", row, f"bbox is {brief(bbox)}")
        return None
    if not all(map(math.isfinite, box)) or max(map(abs, box)) > FAR:
        split.add(findings, "box-not-finite", "annotations", row, f"bbox is {brief(bbox)}")
        return None
    return box
