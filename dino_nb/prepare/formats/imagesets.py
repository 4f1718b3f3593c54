"""The lists ``ImageSets/Main/{train,val,test,trainval}.txt``: Pascal VOC's, but found beside other formats too."""

import posixpath

_SETS = {"train": "train", "val": "val", "valid": "val", "test": "test", "trainval": None}


def image_sets(source):
    """``{stem: split}``; None for those that only ``trainval`` lists. Empty without lists."""
    lists = {}
    for key in source.ending(".txt"):
        folder, name = posixpath.split(key.lower())
        if name[:-4] in _SETS and f"/{folder}".endswith(("/imagesets/main", "/imagesets")):
            lines = (source.text(key) or "").splitlines()
            stems = [_stem(line.split()[0]) for line in lines if line.strip()]
            lists.setdefault(name[:-4], []).extend(stems)
    sets = {}
    # trainval's rest is val where train is listed; a picture listed twice stays with what is tested on
    rest = "val" if "train" in lists and not {"val", "valid"} & lists.keys() else None
    for name in ("trainval", "train", "val", "valid", "test"):
        for stem in lists.get(name, ()):
            split = rest if name == "trainval" else _SETS[name]
            if sets.get(stem) and split and sets[stem] != split and name != "train":
                source.note(f"ImageSets/Main lists {stem} in both {sets[stem]} and {split}; {split} keeps it.")
            sets[stem] = split
    return sets


def _stem(name):
    base = posixpath.basename(name.replace("\\", "/"))
    stem, ending = posixpath.splitext(base)
    return stem if ending.lower() in (".xml", ".jpg", ".jpeg", ".png", ".bmp") else base
