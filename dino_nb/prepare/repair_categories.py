"""Repairing a COCODIR, step one: one list of categories for all splits."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from dino_nb.data.coco_file import CocoFile
from dino_nb.data.coco_values import Id, brief
from dino_nb.prepare.check_classes import count_classes, spelling
from dino_nb.prepare.repair_log import Log, free_ids

ID_LIMIT = 2**53  # the largest integer that survives JavaScript and pandas


def repair_categories(splits: Sequence[CocoFile], log: Log) -> tuple[list[dict], dict[str, dict[Id, int]]]:
    """One list of categories for all splits: ``(records, {split name: {old id: new id}})``.

    Classes of one name, or of names that differ only in spelling, become one, under the most common spelling and the
    id that the first split gives it. Ids that are no integers, or are taken, get new numbers.
    """
    boxes = sum((count_classes(split) for split in splits), Counter())
    names: dict[str, dict[str, int]] = {}  # by spelling, in order of appearance
    ids: dict[str, list[Id]] = {}
    for split in splits:
        for key, name in split.categories.items():
            names.setdefault(spelling(name), {})[name] = boxes[name]
            ids.setdefault(spelling(name), []).append(key)
    numbers = _number(ids)
    records: dict[str, dict[str, Any]] = {
        like: {"id": numbers[like], "name": max(spelled, key=lambda name: spelled[name])}
        for like, spelled in names.items()
    }
    for split in splits:
        for _, record in split.records("categories"):
            if (above := record.get("supercategory")) and isinstance(above, str):
                records.get(spelling(str(record.get("name"))), {}).setdefault("supercategory", above)
        _note_changes(split, records, log)
    maps = {split.name: {k: numbers[spelling(n)] for k, n in split.categories.items()} for split in splits}
    return sorted(records.values(), key=lambda record: record["id"]), maps


def _number(ids: dict[str, list[Id]]) -> dict[str, int]:
    """Spelling -> id: the first that a split gives it and no class before has, else a free one."""
    numbers: dict[str, int] = {}
    spare = free_ids(key for keys in ids.values() for key in keys)
    for like, keys in ids.items():
        taken = set(numbers.values())
        good = (k for k in keys if isinstance(k, int) and abs(k) < ID_LIMIT and k not in taken)
        first = next(good, None)
        numbers[like] = next(spare) if first is None else first
    return numbers


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
