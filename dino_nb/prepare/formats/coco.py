"""COCO: one JSON, a JSON a split, or Roboflow's ``_annotations.coco.json`` in each split's folder."""

import posixpath
import re
from collections import Counter
from typing import Any

from dino_nb.data.coco_file import HARMLESS, CocoFile, Problem, parse_coco
from dino_nb.data.coco_values import brief, id_of, number
from dino_nb.prepare.formats.source import SHOWN, Options, Source, told
from dino_nb.prepare.formats.values import class_name, image_size, split_of
from dino_nb.prepare.table import Annotations, BoxRow, ImageRow

_KEYS = re.compile(r'"(images|annotations|categories)"\s*:\s*\[')
_SHAPES = re.compile(r'"shapes"\s*:\s*\[')  # LabelMe's
_ROBOFLOW = "_annotations.coco"


def find(source: Source) -> list[str]:
    """Keys of the COCO files; of the published set's many only ``instances_*``."""
    found = []
    for key in source.ending(".json"):
        head = source.head(key)
        if (_KEYS.search(head) and not _SHAPES.search(head) and head.lstrip()[:1] == "{") or _ROBOFLOW in key:
            found.append(key)
    instances = [key for key in found if posixpath.basename(key).startswith("instances_")]
    return instances or found


def read(source: Source, files: list[str], options: Options) -> Annotations:
    """All ``files``; categories are joined by name, in order of their ids."""
    splits = {key: split_of(key, is_file=True) for key in files}
    if any(splits.values()) and not all(splits.values()):
        left = [key for key in files if splits[key] is None]
        files = [key for key in files if splits[key]]
        source.note(f"{', '.join(left[:5])} left out: {', '.join(files[:5])} hold the splits.")
    faulty: dict[str, Counter] = {key: Counter() for key in files}  # boxes that each image lost
    parsed = {key: coco for key in files if (coco := _parsed(source, key, faulty[key])).usable}
    parsed = source.without_predictions(parsed, [key for key, coco in parsed.items() if _has_scores(coco)])
    used = {list(coco.categories)[c] for coco in parsed.values() for c in set(coco.category.tolist())}
    categories: dict[str, Any] = {}
    images: list[ImageRow] = []
    for key, coco in parsed.items():
        names = _names(source, key, coco, used)
        for name, original in names.values():
            if categories.setdefault(name, original) != original:
                both = f"{brief(original)}, another file {brief(categories[name])}"
                source.note(f"{key} gives class {name!r} the id {both}.")
        images += _images(source, key, coco, names, splits[key], options.box_format, faulty[key])
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
            source.fault(f"{place}, {_entry(problem)}", text)
            if problem.section == "annotations":
                faulty[id_of(problem.file.record("annotations", problem.row).get("image_id"))[0]] += 1

    coco = parse_coco(source.paths[key], tell, label=key, needs_annotations=False)
    if loose:
        source.note(f"{key}: {loose:,} annotations write ids as text where others are numbers; they were matched.")
    return coco


def _entry(problem: Problem) -> str:
    own = problem.file.record(problem.section, problem.row).get("id")
    id = f" (id {brief(own)})" if own is not None and problem.section == "annotations" else ""
    return f"{problem.section}[{problem.row}]{id}"


def _has_scores(coco: CocoFile) -> bool:
    return any("score" in coco.record("annotations", row) for row in coco.rows[:20].tolist())


def _names(source: Source, key: str, coco: CocoFile, used: set) -> dict[Any, tuple[str, Any]]:
    """``{id: (name, id as written)}``, ids rising, without a placeholder class."""
    entries = coco.document["categories"]
    records = {id_of(e.get("id"))[0]: e for e in reversed(entries) if isinstance(e, dict)}
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
    source: Source, key: str, coco: CocoFile, names: dict, split: str | None, box_format: str | None, faulty: Counter
) -> list[ImageRow]:
    rows: list[ImageRow | None] = []
    for row, name, (width, height) in zip(coco.image_rows, coco.image_names, coco.image_sizes.tolist()):
        where = f"{key}, images[{row}]"
        file = source.find_image(name, near=key, where=where, split=split)
        id, size = coco.record("images", row)["id"], image_size(width, height)
        lost = faulty[id_of(id)[0]]
        rows.append(ImageRow(file, where, [], split, size, box_format, key, id, lost) if file else None)
    found = [row for row in rows if row]
    classes = list(coco.categories)
    around: dict[int, ImageRow] = {}
    columns = (coco.rows, coco.image, coco.category, coco.crowd, coco.derived, coco.boxes)
    for row, image, category, crowd, derived, (x, y, w, h) in zip(*(column.tolist() for column in columns)):
        target = rows[image]
        if target is None:
            continue
        if derived and box_format:  # from polygons: x, y, width, height whatever the boxes of this file are
            if image not in around:
                around[image] = ImageRow(target.file, target.where, [], split, target.size, "xywh", key, target.id)
            target = around[image]
        record = coco.record("annotations", row)
        where = f"{key}, annotations[{row}]" + (f" (id {brief(record['id'])})" if "id" in record else "")
        box_name = names.get(classes[category])
        if box_name:
            area = number(record.get("area"))
            target.boxes.append(BoxRow(box_name[0], x, y, w, h, where, int(crowd), area, record.get("id")))
    return found + list(around.values())
