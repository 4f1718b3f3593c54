"""Repairing a COCODIR, step one: one list of categories for all splits. Every change is logged."""

from dataclasses import dataclass

from dino_nb.data.check_records import spelling
from dino_nb.data.check_splits import count_classes


@dataclass(frozen=True)
class Change:
    """One repair: the ``fault`` it answers, the annotation ``file``, and what was done to which record."""

    fault: str
    file: str
    text: str

    def __str__(self):
        return f"{self.file}: {self.text} [{self.fault}]"


class Log(list):
    """``Change`` objects, in order."""

    def note(self, fault, split, text):
        self.append(Change(fault, split.json.label, text))


def repair_categories(splits, log):
    """One list of categories for all splits: ``(records, {split name: {old id: new id}})``.

    Classes of one name, or of names that differ only in spelling, become one, under the commonest spelling and the
    id that the first split gives it. Ids that are no integers, or are taken, are numbered anew.
    """
    boxes, spellings, ids = {}, {}, {}
    for split in splits:
        for name, n in count_classes(split).items():
            boxes[name] = boxes.get(name, 0) + n
        for key, name in split.categories.items():
            spellings.setdefault(spelling(name), []).append(name)
            ids.setdefault(spelling(name), []).append(key)
    records, taken = {}, set()
    for like, names in spellings.items():
        free = [key for key in ids[like] if isinstance(key, int) and key not in taken]
        number = free[0] if free else max((i for keys in ids.values() for i in keys if isinstance(i, int)), default=0)
        while number in taken or (not free and any(number in keys for keys in ids.values())):
            number += 1
        taken.add(number)
        records[like] = {"id": number, "name": max(dict.fromkeys(names), key=lambda n: boxes.get(n, 0))}
    extras = {}
    for split in splits:
        for record in split.json.document["categories"]:
            if isinstance(record, dict) and isinstance(record.get("supercategory"), str):
                extras.setdefault(spelling(str(record.get("name"))), record["supercategory"])
    maps = {split.name: {k: records[spelling(n)]["id"] for k, n in split.categories.items()} for split in splits}
    for split in splits:
        for key, name in split.categories.items():
            new = records[spelling(name)]
            if (key, name) != (new["id"], new["name"]):
                fault = "category-spelling" if name != new["name"] else "categories-disagree"
                text = f"category {key!r} {name!r} is now category {new['id']} {new['name']!r}"
                log.note(fault, split, text)
        has = {spelling(name) for name in split.categories.values()}
        for like, new in records.items():
            if like not in has:
                log.note("categories-missing", split, f"category {new['id']} {new['name']!r} is now listed here too")
    finished = [r | ({"supercategory": extras[like]} if like in extras else {}) for like, r in records.items()]
    return sorted(finished, key=lambda r: r["id"]), maps
