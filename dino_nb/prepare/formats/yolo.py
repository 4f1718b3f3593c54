"""YOLO: ``class cx cy w h`` or ``class x1 y1 x2 y2 ...`` (polygon) a line, all relative; data.yaml or classes.txt."""

import posixpath
import re
from pathlib import PurePosixPath

from dino_nb.errors import UserError
from dino_nb.prepare.formats.source import Box, Labels, Picture, bounds, class_name, finite, split_of

_ROW = re.compile(r"\s*\d+(\.0*)?(\s+[-+]?[\d.]+([eE][-+]?\d+)?){4,}\s*(\n|$)")
_NAME_FILES = ("classes.txt", "obj.names", "classes.names", "_darknet.labels", "labels.txt", "names.txt")
_LOOK_AT = 40  # label files that are looked at to tell the format
_SLACK = 0.02  # beyond 0..1 that rounding excuses


def find(source):
    """Keys of the label files and of the data.yaml, if there are any that look like it."""
    named = [key for key in source.ending(".yaml", ".yml") if re.search(r"^names\s*:", source.head(key), re.M)]
    labels = [key for key in source.ending(".txt") if posixpath.basename(key).lower() not in _NAME_FILES]
    filled = [key for key in labels if source.paths[key].stat().st_size][:_LOOK_AT]
    if any(_ROW.match(source.head(key)) for key in filled):
        return named + labels
    return named if named and source.images else []


def read(source, files, options):
    """`Labels` of all pictures: one without a label file is background."""
    yamls = [key for key in files if key.lower().endswith((".yaml", ".yml"))]
    settings = _settings(source, yamls)
    names = list(options.class_names or ()) or _names(source, yamls, settings)
    folders = _split_folders(source, settings, yamls)
    labels = {key for key in files if key.lower().endswith(".txt")}
    by_stem = {}
    for key in labels:
        by_stem.setdefault(posixpath.splitext(posixpath.basename(key))[0].lower(), []).append(key)
    keypoints = "kpt_shape" in settings
    pictures, used, background, outside = [], set(), 0, 0
    for image in source.each(source.images):
        split = _split(image, folders)
        if folders and split is None:
            outside += 1
            continue
        label = _label_of(image, labels, by_stem)
        picture = Picture(image, label or image, split=split, relative=True)
        if label:
            used.add(label)
            picture.boxes = list(_boxes(source, label, names, keypoints))
        background += label is None
        pictures.append(picture)
    if background:
        source.note(f"{background:,} of {len(pictures):,} pictures have no label file: taken as background.")
    if outside:
        source.note(f"{outside:,} pictures are in no folder that {yamls[0]} names and are left out.")
    taken = {split_of(key) for key in used} | {None}
    for key in sorted(labels - used):
        if split_of(key) in taken and _ROW.match(source.head(key)):
            source.fault(key, "there is no picture of this name for the label file.")
    return Labels(pictures, dict(zip(names, range(len(names)))))


def _settings(source, yamls):
    import yaml

    if not yamls:
        return {}
    key = min(
        yamls, key=lambda k: (posixpath.basename(k).lower() not in ("data.yaml", "dataset.yaml"), k.count("/"), k)
    )
    if len(yamls) > 1:
        source.note(f"{len(yamls)} YAML files name classes; {key} is used.")
    text = source.text(key)
    try:
        settings = yaml.safe_load(text or "") or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{key}:{mark.line + 1}" if mark else key
        raise UserError(f"{place}: not correct YAML ({getattr(error, 'problem', None) or 'damaged'}).") from None
    except RecursionError:
        raise UserError(f"{key}: brackets are nested too deeply for a YAML file of classes.") from None
    if not isinstance(settings, dict):
        raise UserError(f"{key}: a YOLO file has lines such as 'names:' and 'train:', not a {type(settings).__name__}.")
    return settings


def _names(source, yamls, settings):
    names = settings.get("names")
    if isinstance(names, dict):
        if sorted(map(str, names)) != sorted(map(str, range(len(names)))):
            raise UserError(f"{yamls[0]}: names must be numbered 0 to {len(names) - 1} without a gap.")
        names = [names[i] if i in names else names[str(i)] for i in range(len(names))]
    where = yamls[0] if yamls else ""
    if not names:
        found = [key for name in _NAME_FILES for key in source.ending(name) if posixpath.basename(key).lower() == name]
        if not found:
            raise UserError(
                "the labels give classes by number, and no file names them: put a classes.txt (one name a line) or a "
                "data.yaml with 'names' into the source, or say --classes NAME,NAME,... in the order of the numbers."
            )
        where = found[0]
        names = [line.strip() for line in (source.text(where) or "").splitlines()]
        while names and not names[-1]:
            names.pop()
    names = [class_name(name) for name in names] if isinstance(names, list) else []
    if not names or not all(names) or len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        fault = f"{', '.join(map(repr, twice))} twice" if any(twice) else "none, or an empty one"
        raise UserError(f"{where}: every class needs its own name, and there is {fault}.")
    return names


def _split_folders(source, settings, yamls):
    """``{folder or image key: split}`` as the YAML says; empty where it names none that exist."""
    folders = {}
    for word in ("train", "val", "valid", "test"):
        entries = settings.get(word)
        for entry in entries if isinstance(entries, list) else [entries]:
            if not isinstance(entry, str) or not entry.strip():
                continue
            split, found = "val" if word == "valid" else word, _inside(source, entry)
            if found is None:
                source.note(f"{yamls[0]}: {word}: {entry} is not in the source; folder names tell the splits.")
                return {}
            if len(found) == 1 and folders.get(found[0], split) != split:
                source.note(f"{yamls[0]} names the same folder for {folders[found[0]]} and {split}: told apart here.")
                return {}
            folders |= dict.fromkeys(found, split)
    return folders


def _inside(source, entry):
    """Keys for a path of a YAML, which may be relative to somewhere else: the longest ending that is here."""
    parts = [p for p in entry.replace("\\", "/").strip().split("/") if p not in ("", ".", "..")]
    folders = {parent.as_posix() for key in source.images for parent in PurePosixPath(key).parents}
    for start in range(len(parts) + 1):
        key = "/".join(parts[start:]) or "."
        if key in folders and (start < len(parts) or not parts):
            return [key]
        if key in source.paths and key.lower().endswith(".txt"):
            lines = (source.text(key) or "").splitlines()
            found = [
                source.find_image(line.strip(), where=f"{key}:{i}") for i, line in enumerate(lines, 1) if line.strip()
            ]
            return [image for image in found if image]
    return None


def _split(image, folders):
    if not folders:
        return split_of(image)
    above = (parent.as_posix() for parent in PurePosixPath(image).parents)
    return next((folders[key] for key in (image, *above) if key in folders), None)


def _label_of(image, labels, by_stem):
    """The key of the label file of a picture, or None."""
    stem = posixpath.splitext(image)[0]
    parts = stem.split("/")
    for i in range(len(parts) - 2, -1, -1):  # .../images/... beside .../labels/...
        if parts[i].lower() in ("images", "imgs", "img", "jpegimages", "obj_train_data"):
            key = "/".join([*parts[:i], "labels", *parts[i + 1 :]]) + ".txt"
            if key in labels:
                return key
    if f"{stem}.txt" in labels:
        return f"{stem}.txt"
    split = split_of(image)
    found = [key for key in by_stem.get(parts[-1].lower(), ()) if split_of(key) == split]
    return found[0] if len(found) == 1 else None


def _boxes(source, key, names, keypoints):
    for number, line in enumerate((source.text(key) or "").splitlines(), 1):
        where, cells = f"{key}:{number}", line.split()
        if not cells:
            continue
        values = finite(cells, len(cells))
        if values is None:
            source.fault(where, f"a line is 'class cx cy w h' in numbers, not {line.strip()[:60]!r}.")
            continue
        label, *values = values
        if label != int(label) or not 0 <= label < len(names):
            source.fault(where, f"class {cells[0]} is not one of the {len(names)} classes, 0 to {len(names) - 1}.")
            continue
        values = values[:4] if keypoints else values
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            source.fault(where, f"{len(cells)} columns: a box has 5, a polygon an odd number from 7.")
        elif min(values) < -_SLACK or max(values) > 1 + _SLACK:
            worst = max(values, key=lambda v: abs(v - 0.5))
            source.fault(where, f"{worst:g} is not a fraction 0..1 of the picture (pixels?).")
        else:
            if len(values) == 4:
                cx, cy, w, h = values
                corners = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
            else:
                corners = bounds(zip(values[::2], values[1::2]))
            yield Box(names[int(label)], *corners, where)
