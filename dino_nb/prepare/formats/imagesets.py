"""The lists ``ImageSets/Main/{train,val,test,trainval}.txt``: Pascal VOC's, but found beside other formats too."""

import posixpath
from collections import defaultdict

from dino_nb.data.images import is_image
from dino_nb.prepare.formats.source import Source
from dino_nb.prepare.formats.values import path_parts

_LISTS = {"train": "train", "val": "val", "valid": "val", "test": "test", "trainval": "trainval"}


class ImageSets(dict):
    """``{stem: split}``; the split is None for those that only ``trainval`` lists."""

    def find(self, stem: str) -> str | None:
        """The entry that a file's path without its ending belongs to: the longest end of the path that is listed."""
        parts = stem.split("/")
        return next((end for i in range(len(parts)) if (end := "/".join(parts[i:])) in self), None)


def image_sets(source: Source) -> ImageSets:
    """The lists of ``source``, empty without any."""
    lists: dict[str, list[str]] = defaultdict(list)
    known: set[str] = set()  # names without ending, of images and XML files
    for key in source.ending(".txt"):
        folder, name = posixpath.split(key.lower())
        if name[:-4] in _LISTS and f"/{folder}".endswith(("/imagesets/main", "/imagesets")):
            files = () if known else (*source.images, *source.ending(".xml"))
            known |= {posixpath.splitext(posixpath.basename(file))[0] for file in files}
            lines = (source.text(key) or "").splitlines()
            lists[_LISTS[name[:-4]]] += [_entry(line.strip(), known) for line in lines if line.strip()]
    if "train" in lists and set(lists["train"]) in (set(lists.get("val", ())), set(lists.get("test", ()))):
        source.note("ImageSets/Main: train lists the same images as val or test, so the lists tell no splits.")
        return ImageSets(dict.fromkeys(stem for stems in lists.values() for stem in stems))
    sets, twice = ImageSets(), []
    # trainval's rest is val where train is listed; an image listed twice stays with what is tested on
    rest = "val" if "train" in lists and "val" not in lists else None
    for name, split in (("trainval", rest), ("train", "train"), ("val", "val"), ("test", "test")):
        for stem in lists.get(name, ()):
            if split and split != "train" and sets.get(stem, split) not in (split, None):
                twice.append((stem, sets[stem], split))
            sets[stem] = split
    if twice:
        stem, first, second = twice[0]
        more = f"; so for {len(twice) - 1:,} more" if len(twice) > 1 else ""
        source.note(f"ImageSets/Main lists {stem} in both {first} and {second}; {second} keeps it{more}.")
    return sets


def _entry(line: str, known: set[str]) -> str:
    """What a line lists: a name, which may have spaces, perhaps with a path, an ending, or a class list's 1 or -1."""
    *start, flag = line.rsplit(None, 1)
    flagless = start[0] if start and flag in ("1", "-1", "0") else line
    stems = [_stem(text) for text in (line, flagless, line.split()[0])]
    return next((stem for stem in stems if posixpath.basename(stem) in known), stems[1])


def _stem(name: str) -> str:
    path = name.replace("\\", "/")
    stem, ending = posixpath.splitext(path)
    path = stem if ending.lower() == ".xml" or is_image(path) else path
    # /content/set/JPEGImages/a/1.jpg: what is below the folder of images tells
    parts = path_parts(path)
    for i, part in enumerate(parts[:-1]):
        if part.lower() in ("jpegimages", "annotations", "images"):
            return "/".join(parts[i + 1 :])
    return parts[-1] if parts and path.startswith("/") else "/".join(parts)
