"""Repairing a COCODIR, step one: one list of categories for all splits."""

from collections import Counter

from dino_nb.prepare.check_records import spelling
from dino_nb.prepare.check_splits import count_classes
from dino_nb.prepare.repair_log import free_ids


def repair_categories(splits, log):
    """One list of categories for all splits: ``(records, {split name: {old id: new id}})``.

    Classes of one name, or of names that differ only in spelling, become one, under the commonest spelling and the
    id that the first split gives it. Ids that are no integers, or are taken, are numbered anew. Changes are noted in
    ``log``.
    """
    boxes = sum((count_classes(split) for split in splits), Counter())
    names, ids = {}, {}  # by spelling, in order of appearance
    for split in splits:
        for key, name in split.categories.items():
            names.setdefault(spelling(name), {})[name] = boxes[name]
            ids.setdefault(spelling(name), []).append(key)
    numbers = _number(ids)
    records = {like: {"id": numbers[like], "name": max(n, key=n.get)} for like, n in names.items()}
    for like, text in _supercategories(splits).items():
        if like in records:
            records[like]["supercategory"] = text
    for split in splits:
        _note_changes(split, records, log)
    maps = {split.name: {k: numbers[spelling(n)] for k, n in split.categories.items()} for split in splits}
    return sorted(records.values(), key=lambda record: record["id"]), maps


def _number(ids):
    """Spelling -> id: the first that a split gives it and no class before has, else a free one."""
    numbers, spare = {}, free_ids(key for keys in ids.values() for key in keys)
    for like, keys in ids.items():
        taken = set(numbers.values())
        numbers[like] = next((k for k in keys if isinstance(k, int) and k not in taken), None)
        if numbers[like] is None:
            numbers[like] = next(spare)
    return numbers


def _supercategories(splits):
    found = {}
    for split in splits:
        for record in split.json.document["categories"]:
            if isinstance(record, dict) and isinstance(record.get("supercategory"), str):
                found.setdefault(spelling(str(record.get("name"))), record["supercategory"])
    return found


def _note_changes(split, records, log):
    for key, name in split.categories.items():
        new = records[spelling(name)]
        if (key, name) != (new["id"], new["name"]):
            fault = "category-spelling" if name != new["name"] else "categories-disagree"
            log.note(fault, split, f"category {key!r} {name!r} is now category {new['id']} {new['name']!r}")
    has = {spelling(name) for name in split.categories.values()}
    for like, new in records.items():
        if like not in has:
            log.note("categories-missing", split, f"category {new['id']} {new['name']!r} is now listed here too")
