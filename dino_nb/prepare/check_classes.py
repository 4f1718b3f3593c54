"""The classes of a data set: their names, whether splits agree on them, and whether each split has boxes of them."""

from collections import Counter
from collections.abc import Sequence

from dino_nb.data.classes import normalise
from dino_nb.data.coco_file import CocoFile, Problem
from dino_nb.data.coco_values import Id, brief, id_of
from dino_nb.prepare.findings import Findings

FEW = 10  # training boxes of a class


def spelling(name: str) -> str:
    """What is common to all spellings of a class name; itself where nothing would be left."""
    return normalise(name) or name


def report_names(split: CocoFile, findings: Findings) -> None:
    """Findings about classes of one split that are named alike."""
    rows = {id_of(record.get("id"))[0]: row for row, record in reversed(list(split.records("categories")))}
    by_name: dict[str, Id] = {}
    by_spelling: dict[str, str] = {}
    for key, name in split.categories.items():
        if name in by_name:
            fault, what = "category-duplicate-names", f"{brief(name)} is also category {brief(by_name[name])}"
        elif (first := by_spelling.get(spelling(name))) is not None:
            fault, what = "category-spelling", f"{brief(name)} is also spelled {brief(first)}"
        else:
            what = ""
        if what:
            findings.report(Problem(fault, what, split, "categories", rows[key]))
        by_name.setdefault(name, key)
        by_spelling.setdefault(spelling(name), name)


def report_categories(splits: Sequence[CocoFile], findings: Findings) -> None:
    """Findings where splits give one class different ids, or do not list the same classes."""
    reference = splits[0]
    ids = {name: key for key, name in reversed(reference.categories.items())}
    alike = {spelling(name): name for name in reversed(ids)}
    for split in splits[1:]:
        for key, name in split.categories.items():
            twin = name if name in ids else alike.get(spelling(name))
            other = reference.categories.get(key)
            what = ""
            if twin is None and other is not None:
                what = f"id {brief(key)} is {name!r} in {split.name} and {other!r} in {reference.name}"
            elif twin is not None and ids[twin] != key:
                what = f"{name!r} is {brief(key)} in {split.name} and {brief(ids[twin])} in {reference.name}"
            if what:
                findings.add("categories-disagree", what, split.label, key)
            if twin not in (None, name):
                what = f"{name!r} in {split.name} is spelled {twin!r} in {reference.name}"
                findings.add("category-spelling", what, split.label, key)
        for has, lacks in ((reference, split), (split, reference)):
            known = set(map(spelling, lacks.categories.values()))
            for name in has.categories.values():
                if spelling(name) not in known:
                    what = f"{name!r} is listed in {has.name} and not in {lacks.name}"
                    findings.add("categories-missing", what, lacks.label)


def report_classes(splits: Sequence[CocoFile], findings: Findings) -> None:
    """Findings about the number of boxes of each class in each split."""
    counts = {split.name: found for split in splits if (found := count_classes(split))}
    listed: dict[str, CocoFile] = {}
    for split in splits:
        listed |= {name: split for name in split.categories.values() if name not in listed}
    for name, first in listed.items():
        of = {split: count[name] for split, count in counts.items()}
        what = f"{name!r} has {', '.join(f'{n:,} in {split}' for split, n in of.items())}"
        if not any(of.values()):
            findings.add("class-unused", f"{name!r}", first.label)
            continue
        if any(n == 0 for split, n in of.items() if split != "test"):
            findings.add("class-absent", what, first.label)
        if 0 < of.get("train", 0) < FEW:
            findings.add("class-few", what, first.label)


def count_classes(split: CocoFile) -> Counter[str]:
    """Class name -> number of boxes, for the classes that have any."""
    names = list(split.categories.values())
    return Counter(names[i] for i in split.category.tolist())
