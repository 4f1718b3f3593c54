"""What only shows when splits are seen side by side: classes that disagree, classes without boxes, shared pictures."""

from collections import Counter

import numpy as np

from dino_nb.prepare.check_records import spelling

FEW = 10  # training boxes of a class


def report_categories(splits, findings):
    """Findings where splits give one class different ids, or do not list the same classes."""
    reference = splits[0]
    ids = {name: key for key, name in reversed(reference.categories.items())}
    alike = {spelling(name): name for name in reversed(ids)}
    for split in splits[1:]:
        where = {"file": split.json.label}
        for key, name in split.categories.items():
            twin = name if name in ids else alike.get(spelling(name))
            if twin is None and key in reference.categories:
                what = f"id {key!r} is {name!r} in {split.name} and {reference.categories[key]!r} in {reference.name}"
                findings.add("categories-disagree", what, **where, id=key)
            elif twin is not None and ids[twin] != key:
                what = f"{name!r} is {key!r} in {split.name} and {ids[twin]!r} in {reference.name}"
                findings.add("categories-disagree", what, **where, id=key)
            if twin not in (None, name):
                what = f"{name!r} in {split.name} is spelt {twin!r} in {reference.name}"
                findings.add("category-spelling", what, **where, id=key)
        for has, lacks in ((reference, split), (split, reference)):
            known = {spelling(name) for name in lacks.categories.values()}
            for name in has.categories.values():
                if spelling(name) not in known:
                    what = f"{name!r} is listed in {has.name} and not in {lacks.name}"
                    findings.add("categories-missing", what, file=lacks.json.label)


def report_classes(splits, findings):
    """Findings about the number of boxes of each class in each split."""
    counts = {split.name: count_classes(split) for split in splits}
    listed = {}
    for split in splits:
        for name in split.categories.values():
            listed.setdefault(name, split)
    for name, first in listed.items():
        of = {split: count[name] for split, count in counts.items() if count}
        if not sum(of.values()):
            findings.add("class-unused", f"{name!r}", file=first.json.label)
            continue
        spread = ", ".join(f"{n:,} in {split}" for split, n in of.items())
        if any(n == 0 for split, n in of.items() if split != "test"):
            findings.add("class-absent", f"{name!r} has {spread}", file=first.json.label)
        if 0 < of.get("train", 0) < FEW:
            findings.add("class-few", f"{name!r} has {spread}", file=first.json.label)


def report_same_pictures(splits, groups, findings):
    """Findings from ``check_images.same_pictures``: within a split, and (worse) in two."""
    for group in groups:
        first_split, first = group[0]
        original = f"{splits[first_split].folder.name}/{splits[first_split].image_names[first]}"
        for s, i in group[1:]:
            fault = "image-duplicate-content" if s == first_split else "split-leak"
            split = splits[s]
            what = f"{split.image_names[i]!r} is the same picture as {original}"
            split.add(findings, fault, "images", split.image_rows[i], what)


def count_classes(split):
    """Class name -> number of boxes, for the classes that have any."""
    names = list(split.categories.values())
    numbers = np.bincount(split.category, minlength=len(names))
    counts = Counter()
    for name, n in zip(names, numbers):
        if n:
            counts[name] += int(n)
    return counts
