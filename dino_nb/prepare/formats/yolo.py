"""YOLO: ``class cx cy w h`` or ``class x1 y1 x2 y2 ...`` (polygon) a line, all relative; data.yaml or classes.txt."""

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from dino_nb.errors import UserError, printable
from dino_nb.prepare.formats.source import Source
from dino_nb.prepare.formats.values import around, bounds, class_name, finite, path_parts, split_of
from dino_nb.prepare.table import Annotations, BoxRow, ImageRow
from dino_nb.printer import counted

_ROW = re.compile(r"\s*\d+(\.0*)?(\s+[-+]?[\d.]+([eE][-+]?\d+)?){4,}\s*(\n|$)")
_NAME_FILES = ("classes.txt", "obj.names", "classes.names", "_darknet.labels", "labels.txt", "names.txt")
_IMAGE_FOLDERS = ("images", "imgs", "img", "jpegimages", "obj_train_data")
_YAML = (".yaml", ".yml")
_LOOK_AT = 40  # label files that are looked at to tell the format
_LONGEST_YAML = 1_000_000  # characters; YAML is read slowly
_SLACK = 0.02  # beyond 0..1 that rounding excuses in a box
_FAR = 1.0  # beyond 0..1 that a polygon or an oriented box may reach over the border


def find(source: Source) -> list[str]:
    """Keys of the label files and of the data.yaml, if there are any that look like it."""
    named = [key for key in source.ending(*_YAML) if re.search(r"^names\s*:", source.head(key), re.M)]
    labels = [key for key in source.ending(".txt") if posixpath.basename(key).lower() not in _NAME_FILES]
    filled = islice((head for key in labels if (head := source.head(key))), _LOOK_AT)
    if any(_ROW.match(head) for head in filled):
        return named + labels
    return named if named and source.images else []


def read(source: Source, files: list[str]) -> Annotations:
    """All images: one without a label file is background."""
    yaml, settings = _settings(source, [key for key in files if key.lower().endswith(_YAML)])
    names = list(source.class_names) or _names(source, yaml, settings)
    folders = _split_folders(source, settings, yaml)
    keys = [key for key in files if key.lower().endswith(".txt")]
    labels = {key.lower(): key for key in keys} | {key: key for key in keys}
    by_stem: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        by_stem[_stem(key)].append(key)
    images, used = [], set()
    told: dict[str, list[str]] = defaultdict(list)
    for file in source.each(source.images):
        above = (parent.as_posix() for parent in PurePosixPath(file).parents)
        listed = next((folders[key] for key in (file, *above) if key in folders), None)
        split, label = listed if folders else split_of(file), _label_of(file, labels, by_stem)
        if folders and split is None:
            told[f"left out, since they are in no folder that {yaml} names"].append(file)
            continue
        if label is None and "runs" in file.lower().split("/")[:-1]:  # plots of a training
            told["left out, since they have no labels and are in a folder 'runs', as a training makes it"].append(file)
            continue
        image = ImageRow(file, label or file, split=split, layout="xyxy-relative", source=label or "")
        if label:
            used.add(label)
            image.boxes = list(_boxes(source, label, names, "kpt_shape" in settings, image))
        else:
            told["taken as background, since they have no label file"].append(file)
        images.append(image)
    unread = []
    taken, stems = {None, *map(split_of, used)}, set(map(_stem, source.images))
    for key in sorted(set(keys) - used):
        if split_of(key) in taken and _ROW.match(source.head(key)):
            if _stem(key) in stems:
                unread.append(key)
            else:
                source.fault(key, "there is no image of this name for the label file.")
    for what, keys in told.items():
        source.note_images(what, keys)
    source.note_images("not read, as second labels of an image or those of an image left out", unread, "file")
    return Annotations(images, dict(zip(names, range(len(names)))))


def _stem(key: str) -> str:
    return posixpath.splitext(posixpath.basename(key))[0].lower()


def _settings(source: Source, yamls: list[str]) -> tuple[str, dict[str, Any]]:
    """The YAML file that is used, and its content."""
    import yaml

    if not yamls:
        return "", {}
    usual = ("data.yaml", "dataset.yaml")
    key = min(yamls, key=lambda k: (posixpath.basename(k).lower() not in usual, k.count("/"), k))
    if len(yamls) > 1:
        source.note(f"{len(yamls)} YAML files name classes; {key} is used.")
    text = source.text(key) or ""
    if len(text) > _LONGEST_YAML:
        raise UserError(f"{key}: {len(text):,} characters are too many for a YAML file of classes.")
    if tag := re.search(r"(?<![^\s\[,{:-])!!?(python|<)", text):
        raise UserError(f"{key}:{text.count(chr(10), 0, tag.start()) + 1}: refused, since it asks to run code.")
    try:
        settings = yaml.load(text, Loader=yaml.BaseLoader) or {}  # texts: `no`, 007, 2024-01-01 are names like cat
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{key}:{mark.line + 1}" if mark else key
        raise UserError(f"{place}: not correct YAML ({getattr(error, 'problem', None) or 'damaged'}).") from None
    except RecursionError:
        raise UserError(f"{key}: brackets are nested too deeply for a YAML file of classes.") from None
    if not isinstance(settings, dict):
        raise UserError(f"{key}: a YOLO file has lines such as 'names:' and 'train:', not a {type(settings).__name__}.")
    return key, settings


def _names(source: Source, yaml: str, settings: dict[str, Any]) -> list[str]:
    names, where = settings.get("names"), yaml
    if isinstance(names, dict):
        if set(names) != set(map(str, range(len(names)))):
            raise UserError(f"{yaml}: names must be numbered 0 to {len(names) - 1} without a gap.")
        names = [names[str(i)] for i in range(len(names))]
    if not names:
        found = [key for name in _NAME_FILES for key in source.ending(name) if posixpath.basename(key).lower() == name]
        if not found:
            raise UserError(
                "the labels give classes by number, and no file names them: put a classes.txt (one name a line) or a "
                "data.yaml with 'names' into the source, or say --classes NAME,NAME,... in the order of the numbers."
            )
        where = found[0]
        names = [line.strip() for line in (source.text(where) or "").rstrip().splitlines()]
    names = [class_name(name) for name in names] if isinstance(names, list) else []
    if not names or not all(names) or len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        fault = f"{', '.join(repr(printable(n)) for n in twice[:10])} twice" if any(twice) else "none, or an empty one"
        raise UserError(f"{where}: every class needs its own name, and there is {fault}.")
    return names


def _split_folders(source: Source, settings: dict[str, Any], yaml: str) -> dict[str, str]:
    """``{folder or image key: split}`` as the YAML says; empty where it names none that exist."""
    folders: dict[str, str] = {}
    base = settings.get("path")
    start = [posixpath.dirname(yaml), base if isinstance(base, str) else ""]
    entries = [(word, settings.get(word)) for word in ("train", "val", "valid", "test")]
    for word, entry in ((word, e) for word, some in entries for e in (some if isinstance(some, list) else [some])):
        if not isinstance(entry, str) or not entry.strip():
            continue
        split, found = "val" if word == "valid" else word, _inside(source, start, entry)
        if found is None:
            source.note(f"{yaml}: {word}: {printable(entry)} is not in the source; folder names tell the splits.")
            return {}
        both = [key for key in found if folders.get(key, split) != split]
        if both and len(both) == len(found):
            source.note(f"{yaml} names the same images for {folders[both[0]]} and {split}: divided here.")
            return {}
        if both:
            count = counted(len(both), "image")
            source.note(f"{yaml} names {count} for {folders[both[0]]} and {split}: {split} keeps what both have.")
        folders |= dict.fromkeys(found, split)
    return folders


def _inside(source: Source, start: list[str], entry: str) -> list[str] | None:
    """Keys for a path of a YAML (its folder, its ``path``, the entry), which may be relative to somewhere else: the
    longest ending that is here."""
    above = {parent.as_posix() for key in source.images for parent in PurePosixPath(key).parents}
    folders = {folder.lower(): folder for folder in above}
    files = {key.lower(): key for key in source.ending(".txt")}
    own = path_parts(entry)
    whole = [*path_parts(start[0]), *path_parts(start[1]), *own]
    for tried in (whole[i:] for i in range(len(whole) + 1)):
        key = "/".join(tried).lower() or "."
        if key in folders and (tried or not own):
            return [folders[key]]
        if key in files:
            lines = enumerate((source.text(files[key]) or "").splitlines(), 1)
            found = (source.find_image(line.strip(), where=f"{files[key]}:{i}") for i, line in lines if line.strip())
            return [image for image in found if image]
    return None


def _label_of(image: str, labels: dict[str, str], by_stem: dict[str, list[str]]) -> str | None:
    """The key of the label file of an image, or None."""
    stem = posixpath.splitext(image)[0]
    parts = stem.split("/")
    beside = [i for i in range(len(parts) - 2, -1, -1) if parts[i].lower() in _IMAGE_FOLDERS]
    tries = ["/".join([*parts[:i], "labels", *parts[i + 1 :]]) for i in beside]  # .../images/... beside .../labels/...
    for key in (spelt for path in (*tries, stem) for spelt in (f"{path}.txt", f"{path}.txt".lower())):
        if key in labels:
            return labels[key]
    found = [key for key in by_stem.get(parts[-1].lower(), ()) if split_of(key) == split_of(image)]
    found = [key for key in found if "runs" not in key.lower().split("/")[:-1]] or found
    return found[0] if len(found) == 1 else None


def _boxes(source: Source, key: str, names: list[str], keypoints: bool, image: ImageRow) -> Iterator[BoxRow]:
    for number, line in enumerate((source.text(key) or "").splitlines(), 1):
        where, cells = f"{key}:{number}", line.split()
        if not cells:
            continue
        row = finite(cells, len(cells))
        label, *values = row or (-1.0,)
        values = values[:4] if keypoints else values
        polygon = len(values) != 4
        slack = _FAR if polygon else _SLACK
        if row is None:
            text = printable(line.strip(), 60)
            source.fault(where, f"a line is 'class cx cy w h' in numbers, not {text!r}.", image)
        elif label != int(label) or not 0 <= label < len(names):
            what = f"class {printable(cells[0], 20)} is not one of the {len(names)} classes, 0 to {len(names) - 1}."
            source.fault(where, what, image)
        elif polygon and (len(values) < 6 or len(values) % 2):
            score = " (the sixth a score, as in predictions?)" if len(cells) == 6 else ""
            text = f"{len(cells)} columns{score}: a box has 5, a polygon an odd number from 7."
            source.fault(where, text, image)
        elif min(values) < -slack or max(values) > 1 + slack:
            worst = max(values, key=lambda v: abs(v - 0.5))
            source.fault(where, f"{worst:g} is not a fraction 0..1 of the image (pixels?).", image)
        else:
            cx, cy, w, h = values[:4]
            corners: Any = bounds(list(zip(values[::2], values[1::2]))) if polygon else around(cx, cy, w / 2, h / 2)
            x1, y1, x2, y2 = corners
            yield BoxRow(names[int(label)], x1, y1, x2, y2, where)
