"""Which picture is in train, val or test: given splits are kept, else seeded and stratified by class; never one content
on two sides."""

import random
from collections import Counter, defaultdict

from dino_nb.prepare.measure import contents

SPLITS = ("train", "val", "test")


def divide(source, pictures, val_fraction=0.2, seed=0, resplit=False, progress=True):
    """``(pictures, own)``: those that stay, with their final ``split``, and whether train and val were divided here.

    See `dino_nb.prepare.convert.convert_dataset` for the options. What was decided is noted in ``source``.
    """
    keys = contents([source.paths[picture.file] for picture in pictures], progress)
    if resplit:
        for picture in pictures:
            picture.split = None
    pictures, keys = _no_leaks(source, pictures, keys)
    given = {picture.split for picture in pictures}
    if {"train", "val"} <= given or (given == {"test"}) or (given and given <= {"val", "test"}):
        if None in given:
            left = [picture for picture in pictures if picture.split is None]
            source.note(f"{len(left):,} pictures are in no split and are left out: {left[0].file}, ...")
        elif "train" not in given:
            source.note("the source has no training pictures.")
        return [picture for picture in pictures if picture.split], False
    if given <= {"val", "test", None} and "val" in given:  # what is not val is there to train on
        for picture in pictures:
            picture.split = picture.split or "train"
        return pictures, False
    open_ = [i for i, picture in enumerate(pictures) if picture.split != "test"]
    order = sorted(open_, key=lambda i: pictures[i].file)
    items = [(keys[i], {box.name for box in pictures[i].boxes}) for i in order]
    val = {order[i] for i in stratified(items, val_fraction, seed)}
    for i in open_:
        pictures[i].split = "val" if i in val else "train"
    if "train" in given:
        source.note(f"the source has no val split: {len(val):,} pictures were taken from train.")
    wanted = round(len(order) * val_fraction)
    if len(val) > max(wanted, 1):
        source.note(f"val has {len(val):,} pictures instead of {wanted:,}, so that every class is in it.")
    return pictures, True


def _no_leaks(source, pictures, keys):
    """Without pictures whose content a stricter split has too: test keeps it, then val, then train."""
    strictest = {}
    rank = {None: 0, "train": 1, "val": 2, "test": 3}
    for picture, key in zip(pictures, keys):
        strictest[key] = max(strictest.get(key, 0), rank[picture.split])
    kept = [i for i, (p, key) in enumerate(zip(pictures, keys)) if rank[p.split] == strictest[key]]
    if len(kept) < len(pictures):
        kept_files = {keys[i]: pictures[i].file for i in kept}
        left = [i for i in range(len(pictures)) if rank[pictures[i].split] < strictest[keys[i]]]
        shown = ", ".join(f"{pictures[i].file} (= {kept_files[keys[i]]})" for i in left[:3])
        source.note(
            f"{len(left):,} pictures are byte for byte in a stricter split too and left out of their own, so that "
            f"nothing is tested on what was trained on: {shown}{', ...' if len(left) > 3 else ''}."
        )
    return [pictures[i] for i in kept], [keys[i] for i in kept]


def stratified(items, val_fraction, seed=0):
    """The indices of ``items`` that go to val, as a set.

    Args:
        items: a list of ``(content, classes)``: items of equal ``content`` stay together; ``classes`` is a set of
            names, empty for a picture without objects.
        val_fraction: share of val, 0..1 (exclusive); val has ``round(n * val_fraction)`` pictures, at least one if
            it is above 0 and there are two. It gets a few more where it needs them to have every class.
        seed: the same seed and items give the same split.

    A class that two pictures (of different content) have is on both sides, unless each of these is the only one of
    another class; a class of one picture is in train.
    """
    groups = defaultdict(list)
    for i, (content, _) in enumerate(items):
        groups[content].append(i)
    groups = list(groups.values())
    random.Random(seed).shuffle(groups)
    classes = [set().union(*(items[i][1] for i in group)) or {None} for group in groups]
    wanted = round(len(items) * val_fraction)
    if val_fraction == 0 or len(groups) < 2:
        return set()
    wanted = min(max(wanted, 1), len(items) - 1)
    return _choose(groups, classes, wanted, val_fraction)


def _choose(groups, classes, wanted, fraction):
    having = defaultdict(list)  # class -> its groups, in shuffled order
    for g, names in enumerate(classes):
        for name in names:
            having[name].append(g)
    left = {name: len(members) for name, members in having.items()}  # groups of a class that are in train
    in_val, pictures, chosen = Counter(), 0, set()

    def take(g):
        nonlocal pictures
        if g in chosen or any(left[name] < 2 for name in classes[g]):
            return False
        chosen.add(g)
        pictures += len(groups[g])
        for name in classes[g]:
            left[name] -= 1
            in_val[name] += 1
        return True

    rarest = sorted(having, key=lambda name: (len(having[name]), name is None, name or ""))
    for name in rarest:  # every class once
        if name is not None and not in_val[name]:
            any(take(g) for g in having[name])
    for name in rarest:  # then each its share
        share = round(len(having[name]) * fraction)
        for g in having[name]:
            if in_val[name] >= share or pictures >= wanted:
                break
            if pictures + len(groups[g]) <= wanted:
                take(g)
    for g in range(len(groups)):  # rounding leaves some over
        if pictures < wanted and pictures + len(groups[g]) <= wanted:
            take(g)
    return {i for g in chosen for i in groups[g]}
