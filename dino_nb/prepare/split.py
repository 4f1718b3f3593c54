"""Which image is in train, val or test: given splits are kept, else seeded and stratified by class; never one content
on two sides."""

import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

from dino_nb.errors import UserError
from dino_nb.prepare.formats.source import Source
from dino_nb.prepare.similar import groups_of_similar, same_bytes
from dino_nb.prepare.table import ImageRow
from dino_nb.printer import counted


def divide(
    source: Source, images: list[ImageRow], val_fraction: float, seed: int, resplit: bool
) -> tuple[list[ImageRow], bool]:
    """``(images, own)``: those that stay, with their final ``split``, and whether train and val were divided here.

    See `dino_nb.prepare.convert.convert_dataset` for the options. What was decided is noted in ``source``.
    """
    keys = dict(zip(map(id, images), same_bytes([source.paths[image.file] for image in images], source.progress)))
    if resplit:
        for image in images:
            image.split = None
    taught = any(image.split == "train" for image in images)
    images = _without_leaks(source, images, keys)
    given = {image.split for image in images}
    if taught and "train" not in given:
        raise UserError(
            "each training image is in val or test too, byte for byte, so nothing is left to train on: --resplit "
            "(resplit=True) splits all images again."
        )
    if {"train", "val"} <= given or (given and given <= {"val", "test"}):
        if None in given:
            source.note_images("left out, since they are in no split", [i for i in images if i.split is None])
        elif "train" not in given:
            source.note("the source has no training images: --resplit (resplit=True) splits all images again.")
        return [image for image in images if image.split], False
    if "val" in given and "train" not in given:  # what is not val is there to train on
        for image in images:
            image.split = image.split or "train"
        return images, False
    rows = sorted((image for image in images if image.split != "test"), key=lambda image: image.file)
    files = [image.file for image in rows]
    groups = groups_of_similar([source.paths[file] for file in files], files, source.progress)
    same: dict[Hashable, int] = {}  # equal bytes belong together even where they tell nothing, as in a flat image
    groups = [same.setdefault(keys[id(image)], group) for image, group in zip(rows, groups)]
    if twins := len(groups) - len(set(groups)):
        source.note(f"on one side of train and val with images that look nearly the same: {counted(twins, 'image')}.")
    val = stratified([(g, {box.name for box in i.boxes}) for g, i in zip(groups, rows)], val_fraction, seed)
    for i, image in enumerate(rows):
        image.split = "val" if i in val else "train"
    if "train" in given and val:
        source.note(f"the source has no val split: train gives {counted(len(val), 'image')}.")
    wanted = round(len(rows) * val_fraction)
    if len(val) > max(wanted, 1):
        source.note(f"val has {counted(len(val), 'image')} instead of {wanted:,}: each class needs one.")
    if val_fraction and rows and not val:
        why = "there is one image" if len(same) == 1 else "each image is the only one of a class"
        source.note(f"there is no val split, since {why}: training needs one, so label more images.")
    return images, True


def _without_leaks(source: Source, images: list[ImageRow], keys: dict[int, Hashable]) -> list[ImageRow]:
    """Without images whose content a stricter split has too: test keeps it, then val, then train."""
    order = (None, "train", "val", "test")
    strictest: dict[Hashable, ImageRow] = {}
    for image in sorted(images, key=lambda image: order.index(image.split)):
        strictest[keys[id(image)]] = image
    left = [image for image in images if image.split != strictest[keys[id(image)]].split]
    if left:
        shown = ", ".join(f"{image.file} (= {strictest[keys[id(image)]].file})" for image in left[:3])
        source.note(
            "left out, since a stricter split has them too, byte for byte, and nothing may be tested on what was "
            f"trained on: {counted(len(left), 'image')}, such as {shown}."
        )
    return [image for image in images if image.split == strictest[keys[id(image)]].split]


def stratified(items: Sequence[tuple[Hashable, set[str]]], val_fraction: float, seed: int = 0) -> set[int]:
    """The indices of ``items`` that go to val.

    Args:
        items: a list of ``(content, classes)``: items of equal ``content`` stay together; ``classes`` is a set of
            names, empty for an image without objects.
        val_fraction: share of val, 0..1 (exclusive); val has ``round(n * val_fraction)`` images, at least one if
            it is above 0 and there are two. It gets a few more where it needs them to have every class.
        seed: the same seed and items give the same split.

    A class that two images (of different content) have is on both sides, unless each of these is the only one of
    another class; a class of one image is in train.
    """
    by_content: dict[Hashable, list[int]] = defaultdict(list)
    for i, (content, _) in enumerate(items):
        by_content[content].append(i)
    groups = list(by_content.values())
    if val_fraction == 0 or len(groups) < 2:
        return set()
    random.Random(seed).shuffle(groups)
    classes = [set[str | None]().union(*(items[i][1] for i in group)) or {None} for group in groups]
    wanted = min(max(round(len(items) * val_fraction), 1), len(items) - 1)
    having = defaultdict(list)  # class -> its groups, in shuffled order
    for g, names in enumerate(classes):
        for name in names:
            having[name].append(g)
    in_val: Counter[str | None] = Counter()  # groups of a class
    val: set[int] = set()

    def take(g: int) -> bool:
        if groups[g][0] in val or any(len(having[name]) - in_val[name] < 2 for name in classes[g]):
            return False
        val.update(groups[g])
        in_val.update(classes[g])
        return True

    rarest = sorted(having, key=lambda name: (len(having[name]), name is None, name or ""))
    for name in rarest:  # every class once
        if name is not None and not in_val[name]:
            any(take(g) for g in having[name])
    for name in rarest:  # then each its share
        for g in having[name]:
            if in_val[name] < round(len(having[name]) * val_fraction) and len(val) + len(groups[g]) <= wanted:
                take(g)
    for g in range(len(groups)):  # rounding leaves some over
        if len(val) + len(groups[g]) <= wanted:
            take(g)
    return val
