"""Repairing a COCODIR, step one: one list of categories for all splits."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from dino_nb.data.coco_file import CocoFile
from dino_nb.data.coco_values import Id, brief, free_ids, is_plain
from dino_nb.prepare.check_classes import count_classes, spelling
from dino_nb.prepare.findings import Log


def repair_categories(splits: Sequence[CocoFile], log: Log) -> tuple[list[dict], dict[str, dict[Id, int]]]:
    """One list of categories for all splits: ``(records, {split name: {old id: new id}})``.

    Classes of one name, or of names that differ only in spelling, become one, under the most common spelling and the
    first id that a split gives it and no class before has. Ids that are no integers, or are taken, get new numbers.
    """
    boxes = sum((count_classes(split) for split in splits), Counter())
    names: dict[str, list[str]] = {}  # by spelling, in order of appearance
    ids: dict[str, list[Id]] = {}
    for split in splits:
        for key, name in split.categories.items():
            names.setdefault(spelling(name), []).append(name)
            ids.setdefault(spelling(name), []).append(key)
    spare = free_ids(key for keys in ids.values() for key in keys)
    records: dict[str, dict[str, Any]] = {}
    taken: set[Id] = set()
    for like, keys in ids.items():
        new = next((key for key in keys if is_plain(key) and key not in taken), None)
        new = next(spare) if new is None else new
        taken.add(new)
        records[like] = {"id": new, "name": max(names[like], key=lambda name: boxes[name])}
    for split in splits:
        for _, record in split.records("categories"):
            if (above := record.get("supercategory")) and isinstance(above, str):
                records.get(spelling(str(record.get("name"))), {}).setdefault("supercategory", above)
        _note_changes(split, records, log)
    maps = {s.name: {key: records[spelling(name)]["id"] for key, name in s.categories.items()} for s in splits}
    return sorted(records.values(), key=lambda record: record["id"]), maps


def _note_changes(split: CocoFile, records: dict[str, dict], log: Log) -> None:
    for key, name in split.categories.items():
        new = records[spelling(name)]
        if (key, name) != (new["id"], new["name"]):
            fault = "category-spelling" if name != new["name"] else "categories-disagree"
            log.note(fault, split, f"category {brief(key)} {name!r} is now category {new['id']} {new['name']!r}")
    has = {spelling(name) for name in split.categories.values()}
    for like, new in records.items():
        if like not in has:
            log.note("categories-missing", split, f"category {new['id']} {new['name']!r} is now listed here too")
