"""COCO: one JSON, a JSON a split, or Roboflow's ``_annotations.coco.json`` in each split's folder."""

import posixpath
import re
from collections import Counter
from typing import Any

from dino_nb.data.coco_file import HARMLESS, CocoFile, Problem, parse_coco
from dino_nb.data.coco_values import brief, id_of, number
from dino_nb.prepare.formats.source import SHOWN, Source, told
from dino_nb.prepare.formats.values import class_name, image_size, split_of
from dino_nb.prepare.table import Annotations, BoxRow, ImageRow

_KEYS = re.compile(r'"(images|annotations|categories)"\s*:\s*\[')
_SHAPES = re.compile(r'"shapes"\s*:\s*\[')  # LabelMe's
_ROBOFLOW = "_annotations.coco"


def find(source: Source) -> list[str]:
    """Keys of the COCO files; of the published set's many only ``instances_*``."""
    heads = ((key, source.head(key)) for key in source.ending(".json"))
    found = [
        key
        for key, head in heads
        if _ROBOFLOW in key or (_KEYS.search(head) and not _SHAPES.search(head) and head.lstrip()[:1] == "{")
    ]
    return [key for key in found if posixpath.basename(key).startswith("instances_")] or found


def read(source: Source, files: list[str]) -> Annotations:
    """All ``files``; categories are joined by name, in order of their ids."""
    splits = {key: split_of(key, is_file=True) for key in files}
    if any(splits.values()) and not all(splits.values()):
        left = [key for key in files if splits[key] is None]
        files = [key for key in files if splits[key]]
        source.note(f"{', '.join(left[:5])} left out: {', '.join(files[:5])} hold the splits.")
    faulty: dict[str, Counter] = {key: Counter() for key in files}  # boxes that each image lost
    parsed = {key: coco for key in files if (coco := _parsed(source, key, faulty[key])).usable}
    scored = [
        k for k, c in parsed.items() if any("score" in c.record("annotations", row) for row in c.rows[:20].tolist())
    ]
    parsed = source.without_predictions(parsed, scored)
    used = {list(coco.categories)[c] for coco in parsed.values() for c in set(coco.category.tolist())}
    categories: dict[str, Any] = {}
    images: list[ImageRow] = []
    for key, coco in parsed.items():
        names = _names(source, key, coco, used)
        for name, original in names.values():
            if categories.setdefault(name, original) != original:
                both = f"{brief(original)}, another file {brief(categories[name])}"
                source.note(f"{key} gives class {name!r} the id {both}.")
        images += _images(source, key, coco, names, splits[key], faulty[key])
    return Annotations(images, categories)


def _parsed(source: Source, key: str, faulty: Counter) -> CocoFile:
    loose = 0

    def tell(problem: Problem) -> None:
        nonlocal loose
        if problem.kind == "json-encoding":
            source.note_oddity(key, problem.text, problem.row)
        elif not problem.section and problem.kind != "json-bom":
            source.fault(*told(key, problem.text.removeprefix("it is not a COCO file: "), problem.row))
        elif problem.kind == "id-mismatch":
            loose += 1
        elif problem.kind not in HARMLESS:
            place, text = told(key, problem.text, problem.line() if source.fault_count < SHOWN else None)
            source.fault(f"{place}, {_entry(problem.file, problem.section, problem.row)}", text)
            if problem.section == "annotations":
                faulty[id_of(problem.file.record("annotations", problem.row).get("image_id"))[0]] += 1

    coco = parse_coco(source.paths[key], tell, label=key, needs_annotations=False)
    if loose:
        source.note(f"{key}: {loose:,} annotations write ids as text where others are numbers; they were matched.")
    return coco


def _entry(coco: CocoFile, section: str, row: int | None) -> str:
    own = coco.record(section, row).get("id")
    return f"{section}[{row}]" + (f" (id {brief(own)})" if own is not None and section == "annotations" else "")


def _names(source: Source, key: str, coco: CocoFile, used: set) -> dict[Any, tuple[str, Any]]:
    """``{id: (name, id as written)}``, ids rising, without a placeholder class."""
    records = {id_of(record.get("id"))[0]: record for _, record in reversed([*coco.records("categories")])}
    names = {id: (class_name(name), records[id]["id"]) for id, name in coco.categories.items()}
    if 0 in names and 0 not in used and _is_placeholder(records, _ROBOFLOW in key):
        name, original = names.pop(0)
        source.note(f"{key}: placeholder category {original!r} {name!r} has no annotations and is left out.")
    seen: dict[str, Any] = {}
    for name, original in names.values():
        if name in seen:
            ids = f"{brief(seen[name])} and {brief(original)}"
            source.note(f"{key}: categories {ids} are both named {name!r} and become one.")
        seen.setdefault(name, original)
    return dict(sorted(names.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def _is_placeholder(records: dict, roboflow: bool) -> bool:
    """Roboflow lists the project as class 0, above the real ones; others a background."""
    if len(records) < 2:
        return False
    own = records[0].get("name")
    background = str(own).strip().strip("_").lower() in ("background", "placeholder", "none")
    return roboflow or background or all(r.get("supercategory") == own for id, r in records.items() if id != 0)


def _images(
    source: Source, key: str, coco: CocoFile, names: dict, split: str | None, faulty: Counter
) -> list[ImageRow]:
    rows: list[ImageRow | None] = []
    for row, name, size in zip(coco.image_rows, coco.image_names, coco.image_sizes.tolist()):
        where, id = f"{key}, images[{row}]", coco.record("images", row)["id"]
        file, lost = source.find_image(name, near=key, where=where, split=split), faulty[id_of(id)[0]]
        image = ImageRow(file or "", where, [], split, image_size(*size), source.box_format, key, id, lost)
        rows.append(image if file else None)
    classes = list(coco.categories)
    around: dict[int, ImageRow] = {}  # boxes from polygons: x, y, width, height whatever those of this file are
    columns = (coco.rows, coco.image, coco.category, coco.crowd, coco.derived, coco.boxes)
    for row, i, category, crowd, derived, (x1, y1, x2, y2) in zip(*(column.tolist() for column in columns)):
        target, known = rows[i], names.get(classes[category])
        if target is None or known is None:
            continue
        if derived and source.box_format:
            twin = ImageRow(target.file, target.where, [], split, target.size, "xywh", key, target.id)
            target = around.setdefault(i, twin)
        record, where = coco.record("annotations", row), f"{key}, {_entry(coco, 'annotations', row)}"
        area = number(record.get("area"))
        target.boxes.append(BoxRow(known[0], x1, y1, x2, y2, where, int(crowd), area, record.get("id")))
    return [row for row in rows if row] + list(around.values())
