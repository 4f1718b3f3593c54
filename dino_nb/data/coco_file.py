"""A COCO annotation file: the one place that parses it, for training, check, repair and convert.

coco = parse_coco(path, report=print)   # tolerant: whatever is usable, and each problem to `report`
data = read_coco(path)                  # strict: a dict, or the first problem that matters as a UserError
"""

import contextlib
import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dino_nb.data.coco_values import FAR, Id, box_of, brief, id_of, number
from dino_nb.data.json_file import BadJson, JsonFile, read_json
from dino_nb.errors import UserError, did_you_mean
from dino_nb.files import leaves_folder

_SECTIONS = ("images", "annotations", "categories")
# what others may stumble over, but what is read here without doubt
HARMLESS = {"json-bom", "id-type", "annotation-duplicate-ids", "image-size-missing", "missing-area"}
HARMLESS |= {"missing-iscrowd", "box-derived"}


class Problem(NamedTuple):
    """One thing wrong with a file.

    ``kind`` is the name of a fault, as in `dino_nb.prepare.faults`; ``row`` the position in the list ``section``. For
    what concerns the whole file ``section`` is empty and ``row`` the line (from 1) or None.
    """

    kind: str
    text: str
    file: "CocoFile"
    section: str = ""
    row: int | None = None

    @property
    def id(self) -> Id | None:
        """The id of the record, if it has one."""
        return id_of(self.file.record(self.section, self.row).get("id"))[0] if self.section else None

    @property
    def who(self) -> str:
        """``annotation 5``, ``image number 3 of the list``, or nothing."""
        if not self.section:
            return ""
        one = f"number {(self.row or 0) + 1} of the list" if self.id is None else brief(self.id)
        return f"{self.section.removesuffix('s').replace('ie', 'y')} {one}"

    def line(self) -> int | None:
        """The line, from 1, of the record or fault."""
        return self.file.json.line(self.section, self.row or 0) if self.section and self.file.json else self.row

    def __str__(self) -> str:
        return f"{self.who}: {self.text}" if self.section else self.text


Report = Callable[[Problem], Any]
Complain = Callable[[str, str], None]


class CocoFile:
    r"""The usable records of one annotation file. ``rows`` index the lists of ``document``.

    Attributes:
        path, label: the file, and its name in messages. ``name``, ``folder``: of the split whose file it is.
        usable: False if the file holds no COCO object at all. ``document``: that object, with its three lists.
        categories: id -> name, in the order of the file. Ids here and below are as of `id_of`.
        image_ids, image_names, image_rows: lists of one length; ids are unique, names have ``/`` for ``\\``.
        image_sizes: (images, 2) width and height as the file says, NaN where it does not.
        rows: (boxes,) rows of the annotations; ``image`` (boxes,) positions in the image lists; ``category``
            (boxes,) positions in ``list(categories)``; ``crowd`` (boxes,) bool.
        boxes: (boxes, 4) finite numbers as written: x, y, width, height, if the file keeps to COCO's rule.
        derived: (boxes,) bool: the box was taken from the polygons, so it is x, y, width, height in pixels for sure.
    """

    def __init__(self, path: Path, label: str, name: str) -> None:
        self.path, self.label = path, label
        self.name, self.folder = name, path.parent.parent / f"{name}2017"
        self.json: JsonFile | None = None
        self.usable = False
        self.document: dict[str, list] = {section: [] for section in _SECTIONS}
        self.categories: dict[Id, str] = {}
        self.image_ids: list[Id] = []
        self.image_names: list[str] = []
        self.image_rows: list[int] = []
        self.image_sizes = np.zeros((0, 2))
        self.set_boxes([])

    def set_boxes(self, columns: list[tuple]) -> None:
        """Fill the arrays of boxes: ``(row, image, category, crowd, derived, x, y, w, h)`` of each."""
        table = np.array(columns, dtype=np.float64).reshape(-1, 9)
        self.rows, self.image, self.category = table[:, :3].astype(np.int64).T
        self.crowd, self.derived, self.boxes = table[:, 3] == 1, table[:, 4] == 1, table[:, 5:]

    def record(self, section: str, row: int | None) -> dict[str, Any]:
        """Entry ``row`` of the list ``section``; an empty dict if it is no record."""
        entry = self.document[section][row or 0]
        return entry if isinstance(entry, dict) else {}

    def records(self, section: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """``(row, record)`` of every entry of the list ``section``."""
        return ((row, self.record(section, row)) for row in range(len(self.document[section])))


def parse_coco(
    path: Path | str, report: Report, *, label: str = "", split: str = "", needs_annotations: bool = True
) -> CocoFile:
    """Read what is usable of ``path`` and call ``report`` with a `Problem` for everything that is not as it should be.

    Nothing in the file raises an error here. ``label`` is its name in messages, ``split`` the one of a COCODIR that it
    belongs to. Without ``needs_annotations`` that list may be missing, as in a test split.
    """
    coco = CocoFile(Path(path), label or str(path), split)
    try:
        coco.json = read_json(path)
    except BadJson as error:
        report(Problem(error.kind, str(error), coco, row=error.line))
        return coco
    if odd := coco.json.oddity:
        report(Problem(odd.kind, str(odd), coco, row=odd.line))
    document = coco.json.document
    if not needs_annotations and isinstance(document, dict):
        document.setdefault("annotations", [])
    faults = list(_faults_of_structure(document))
    for text in faults:
        report(Problem("json-structure", f"it is not a COCO file: {text}", coco))
    if not faults:
        coco.document, coco.usable = document, True
        _read_categories(coco, report)
        _read_images(coco, report)
        _read_annotations(coco, report)
    return coco


def read_coco(file: Path | str) -> dict[str, Any]:
    """The annotation file as a dict with lists ``images``, ``annotations`` and ``categories``.

    ``annotations`` may be missing (a test split). Missing ``area`` is filled with the box's, missing ``iscrowd``
    with 0; polygons and masks are dropped, since only boxes are used. What cannot be used is a ``UserError`` that
    names file, line or id.
    """

    def refuse(problem: Problem) -> None:
        if problem.kind not in HARMLESS:
            line = problem.line()
            place = f"{file}, line {line}" if line and problem.section else str(file)
            raise UserError(f"{place}: {str(problem).rstrip('.')}. dino-nb check COCODIR lists all faults.")

    coco = parse_coco(file, refuse, needs_annotations=False)
    images = [coco.record("images", row) for row in coco.image_rows]
    for image in images:
        if leaves_folder(image["file_name"]):
            name = f"image {image['id']!r} has file_name {image['file_name']!r}"
            raise UserError(f"{file}: {name}, which leaves the image folder.")
    annotations = [
        {
            "id": record.get("id", row + 1),
            "image_id": record["image_id"],
            "category_id": record["category_id"],
            "bbox": box,
            "area": area if area is not None and math.isfinite(area) else box[2] * box[3],
            "iscrowd": int(crowd),
        }
        for row, box, crowd in zip(coco.rows.tolist(), coco.boxes.tolist(), coco.crowd.tolist())
        for record in [coco.record("annotations", row)]
        for area in [number(record.get("area"))]
    ]
    categories = [record for _, record in coco.records("categories")]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def split_files(cocodir: Path | str, split: str) -> tuple[Path, Path]:
    """``(image folder, annotation file)`` of one split (``train``, ``val``, ``test``, or with ``2017``)."""
    cocodir, name = Path(cocodir).expanduser(), f"{str(split).removesuffix('2017')}2017"
    if not cocodir.is_dir():
        raise UserError(f"there is no folder {cocodir}.")
    file = annotation_file(cocodir, name)
    if file.is_file():
        return cocodir / name, file
    found = sorted(p.name for p in (cocodir / "annotations").glob("*.json"))
    splits = [f.removesuffix(".json").split("_")[-1].removesuffix("2017") for f in found]
    hint = did_you_mean(split, splits) or (
        f" It has {', '.join(found[:10])}." if found else " dino-nb convert SRC COCODIR makes one of any format."
    )
    raise UserError(f"{cocodir} has no annotations/instances_{name}.json.{hint}")


def annotation_file(cocodir: Path | str, split: str) -> Path:
    """The annotation file of one split, whether or not it is there."""
    name = f"{split.removesuffix('2017')}2017.json"
    file = Path(cocodir) / "annotations" / f"instances_{name}"
    bare = file.with_name(f"image_info_{name}")  # a test split without boxes
    return bare if bare.is_file() and not file.is_file() else file


def to_pycocotools(data: dict[str, Any]) -> Any:
    """A dict as of :func:`read_coco` as a ``pycocotools.coco.COCO`` with its index made, without its messages."""
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = data
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _faults_of_structure(document: Any) -> Iterator[str]:
    if not isinstance(document, dict):
        kind = {list: "a list", str: "a text", bool: "true or false"}.get(type(document), "a number or null")
        first = document[0] if isinstance(document, list) and document else None
        hint = ", as of detections (results, not annotations)" if isinstance(first, dict) and "score" in first else ""
        yield f"it is {kind}{hint}, not an object"
        return
    keys = ", ".join(brief(key[:30]) for key in list(document)[:8]) or "none"
    for section in _SECTIONS:
        if section not in document:
            yield f"the list {section!r} is missing; the keys are {keys}"
        elif not isinstance(document[section], list):
            yield f"{section!r} is not a list; the keys are {keys}"


def _records(coco: CocoFile, section: str, report: Report) -> Iterator[tuple[int, dict, Complain]]:
    """``(row, record, complain(kind, text))`` of each entry of a list."""
    for row, record in coco.records(section):

        def complain(kind: str, text: str, row: int = row) -> None:
            report(Problem(kind, text, coco, section, row))

        yield row, record, complain


def _read_categories(coco: CocoFile, report: Report) -> None:
    for _, record, complain in _records(coco, "categories", report):
        value, name = record.get("id"), record.get("name")
        key, good = id_of(value)
        if key is None:
            complain("category-malformed", f"a category needs an id and a name, its id is {brief(value)}")
            continue
        if type(name) in (int, float):
            name = str(name)
        if not isinstance(name, str) or not name.strip():
            complain("category-malformed", f"a category needs an id and a name, its name is {brief(name)}")
            name = f"class {brief(key)}"
        if not good:
            complain("id-type", f"id is {brief(value)}, not an integer of usual size")
        if key in coco.categories:
            both = f"{brief(coco.categories[key])}, {brief(name)}"
            complain("category-duplicate-ids", f"category id {brief(key)} is there twice: {both}")
            continue
        coco.categories[key] = name


def _read_images(coco: CocoFile, report: Report) -> None:
    seen: dict[Id, str] = {}
    sizes = []
    for row, record, complain in _records(coco, "images", report):
        value, name = record.get("id"), record.get("file_name")
        key, good = id_of(value)
        if key is None or not isinstance(name, str) or not name.strip():
            complain("image-malformed", f"an image needs id and file_name, but has {brief(value)} and {brief(name)}")
            continue
        if not good:
            complain("id-type", f"id is {brief(value)}, not an integer of usual size")
        if key in seen:
            both = f"{brief(seen[key])}, {brief(name)}"
            complain("image-duplicate-ids", f"image id {brief(key)} is there twice: {both}")
            continue
        width, height = number(record.get("width")), number(record.get("height"))
        if not (width and height and 1 <= width < FAR and 1 <= height < FAR):
            said = f"width {brief(record.get('width'))}, height {brief(record.get('height'))}"
            complain("image-size-missing", f"{brief(name)} has {said}")
            width = height = math.nan
        seen[key] = name
        coco.image_ids.append(key)
        coco.image_names.append(name.replace("\\", "/"))
        coco.image_rows.append(row)
        sizes.append((width, height))
    coco.image_sizes = np.array(sizes, dtype=np.float64).reshape(-1, 2)


def _read_annotations(coco: CocoFile, report: Report) -> None:
    image_at = {key: i for i, key in enumerate(coco.image_ids)}
    category_at = {key: i for i, key in enumerate(coco.categories)}
    written = {"image_id": _as_written(coco, "images"), "category_id": _as_written(coco, "categories")}
    seen: set[Id] = set()
    columns = []
    for row, record, complain in _records(coco, "annotations", report):
        fields = ("id", "image_id", "category_id")
        (key, good), (image, known), (category, listed) = (id_of(record.get(n)) for n in fields)
        if not (good and known and listed):
            for name in fields:
                value = record.get(name)
                if id_of(value)[0] is not None and not id_of(value)[1]:
                    complain("id-type", f"{name} is {brief(value)}, not an integer of usual size")
        if image is None or category is None:
            said = f"image_id {brief(record.get('image_id'))}, category_id {brief(record.get('category_id'))}"
            complain("annotation-malformed", f"an annotation needs an image and a category, but has {said}")
            continue
        if key is None or key in seen:
            complain("annotation-duplicate-ids", "the id is missing" if key is None else "the id is there twice")
        else:
            seen.add(key)
        box, derived, kind = box_of(record)
        if kind:
            how = "; the box around its polygons is used" if derived else "; it was read as such" if box else ""
            said = f"not {brief(record.get('bbox'))}{how}"
            complain(kind, f"bbox must be four finite numbers x, y, width, height, {said}")
        area, crowd = number(record.get("area")), record.get("iscrowd")
        if area is None or not 0 < area < math.inf:
            complain("missing-area", f"area is {brief(record.get('area'))}")
        if crowd not in (0, 1):
            complain("missing-iscrowd", f"iscrowd is {brief(crowd)}")
        if image not in image_at:
            complain("unknown-image", f"image_id {brief(record['image_id'])} is not among the images")
        if category not in category_at:
            complain("unknown-category", f"category_id {brief(record['category_id'])} is not among the categories")
        for name, value in (("image_id", image), ("category_id", category)):
            if (meant := written[name].get(value)) is not None and meant != record[name]:
                complain("id-mismatch", f"{name} {brief(record[name])} is {brief(meant)} in the list that it refers to")
        if box is not None and image in image_at and category in category_at:
            crowd = crowd == 1 or crowd in ("1", "true", "True")
            columns.append((row, image_at[image], category_at[category], crowd, derived, *box))
    coco.set_boxes(columns)


def _as_written(coco: CocoFile, section: str) -> dict[Id | None, Any]:
    """Id -> the value that the list has for it, the first one."""
    values = [record.get("id") for _, record in coco.records(section)]
    return {id_of(value)[0]: value for value in reversed(values)}
