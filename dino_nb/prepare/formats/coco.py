"""COCO: one JSON, a JSON a split, or Roboflow's ``_annotations.coco.json`` in each split's folder."""

import posixpath
import re

from dino_nb.prepare.formats.boxes import as_corners
from dino_nb.prepare.formats.source import Box, Labels, Picture, bounds, class_name, finite, split_of

_KEYS = re.compile(r'"(images|annotations|categories)"\s*:\s*\[')
_SHAPES = re.compile(r'"shapes"\s*:\s*\[')  # LabelMe's
_ROBOFLOW = "_annotations.coco"


def find(source):
    """Keys of the COCO files; of the published set's many only ``instances_*``."""
    found = []
    for key in source.ending(".json"):
        head = source.head(key)
        if (_KEYS.search(head) and not _SHAPES.search(head)) or _ROBOFLOW in key:
            found.append(key)
    instances = [key for key in found if posixpath.basename(key).startswith("instances_")]
    return instances or found


def read(source, files, options):
    """`Labels` of all ``files``; categories are joined by name, in order of their ids."""
    splits = {key: split_of(key, is_file=True) for key in files}
    if any(splits.values()) and not all(splits.values()):
        left = [key for key in files if splits[key] is None]
        files = [key for key in files if splits[key]]
        source.note(f"{', '.join(left)} left out: {', '.join(files)} hold the splits.")
    documents = [(key, _document(source, key)) for key in files]
    documents = [(key, document) for key, document in documents if document]
    used = {str(a.get("category_id")) for _, d in documents for a in d["annotations"] if isinstance(a, dict)}
    categories, pictures = {}, []
    for key, document in documents:
        names = _names(source, key, document, used)
        for name, original in names.values():
            if categories.setdefault(name, original) != original:
                source.note(f"{key} gives class {name!r} the id {original!r}, another file {categories[name]!r}.")
        pictures += _pictures(source, key, document, names, splits[key], options.box_format)
    return Labels(pictures, categories)


def _document(source, key):
    document = source.json(key)
    if document is None:
        return None
    if not isinstance(document, dict):
        source.fault(key, f"a COCO file is an object with images and annotations, not a {type(document).__name__}.")
        return None
    document.setdefault("annotations", [])
    for part in ("images", "annotations", "categories"):
        if not isinstance(document.get(part), list):
            source.fault(key, f"the list {part!r} is missing: this is not a whole COCO file.")
            return None
    return document


def _names(source, key, document, used):
    """``{str(id): (name, id)}``, ids rising, without a placeholder class."""
    names, entries = {}, []
    for i, entry in enumerate(document["categories"]):
        name = class_name(entry.get("name")) if isinstance(entry, dict) else ""
        if not name or "id" not in entry:
            source.fault(f"{key}, categories[{i}]", "a category needs an id and a name.")
        elif str(entry["id"]) in names:
            source.fault(f"{key}, categories[{i}]", f"category id {entry['id']!r} is there twice.")
        else:
            names[str(entry["id"])] = (name, entry["id"])
            entries.append(entry)
    for entry in entries:
        if _is_placeholder(entry, entries, _ROBOFLOW in key) and "0" not in used:
            name, original = names.pop(str(entry["id"]))
            source.note(f"{key}: placeholder category {original!r} {name!r} has no annotations and is left out.")
    seen = {}
    for name, original in names.values():
        if name in seen:
            source.note(f"{key}: categories {seen[name]!r} and {original!r} are both named {name!r} and become one.")
        seen.setdefault(name, original)
    return dict(sorted(names.items(), key=lambda item: (not item[0].lstrip("-").isdigit(), _as_number(item[0]))))


def _is_placeholder(entry, entries, roboflow):
    """Roboflow lists the project as class 0, above the real ones; others a background."""
    if str(entry["id"]) != "0" or len(entries) < 2:
        return False
    background = str(entry.get("name")).strip().strip("_").lower() in ("background", "placeholder", "none")
    return roboflow or background or all(e.get("supercategory") == entry.get("name") for e in entries if e is not entry)


def _as_number(text):
    return (int(text), "") if text.lstrip("-").isdigit() else (0, text)


def _pictures(source, key, document, names, split, box_format):
    pictures, loose = {}, 0
    for i, entry in enumerate(document["images"]):
        where = f"{key}, images[{i}]"
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name or "id" not in entry:
            source.fault(where, "an image needs an id and a file_name.")
            continue
        if str(entry["id"]) in pictures:
            source.fault(where, f"image id {entry['id']!r} is there twice: give each picture its own.")
            continue
        file = source.find_image(name, near=key, where=where, split=split)
        size = finite((entry.get("width"), entry.get("height")), 2)
        size = tuple(map(int, size)) if size and min(size) > 0 else None
        pictures[str(entry["id"])] = file and Picture(file, where, [], split, size, id=entry["id"])
    for i, entry in enumerate(document["annotations"]):
        where = f"{key}, annotations[{i}]"
        if not isinstance(entry, dict):
            source.fault(where, "an annotation is an object.")
            continue
        where += f" (id {entry['id']!r})" if "id" in entry else ""
        image, category = str(entry.get("image_id")), str(entry.get("category_id"))
        box = _box(source, entry, where)
        if image not in pictures:
            source.fault(where, f"image_id {entry.get('image_id')!r} is not among the images.")
        elif category not in names:
            source.fault(where, f"category_id {entry.get('category_id')!r} is not among the categories.")
        elif box and pictures[image]:
            area = finite([entry.get("area")], 1)
            crowd = int(entry.get("iscrowd") in (1, True, "1"))
            box = Box(names[category][0], *box, where, crowd, area and area[0], entry.get("id"))
            pictures[image].boxes.append(box)
            loose += not isinstance(entry["image_id"], type(pictures[image].id))
    if loose:
        source.note(f"{key}: {loose:,} annotations write ids as text where others are numbers; they were matched.")
    found = [picture for picture in pictures.values() if picture]
    return as_corners(key, found, box_format)


def _box(source, entry, where):
    """``[a, b, c, d]`` as written; from the polygons where there is no box."""
    box = finite(entry.get("bbox") or (), 4)
    polygons = entry.get("segmentation")
    if box is None and not entry.get("bbox") and isinstance(polygons, list):
        flat = [v for polygon in polygons if isinstance(polygon, list) for v in polygon]
        flat = finite(flat, len(flat) // 2 * 2)
        if flat:
            x1, y1, x2, y2 = bounds(zip(flat[::2], flat[1::2]))
            box = [x1, y1, x2 - x1, y2 - y1]
    if box is None:
        source.fault(where, f"bbox must be four finite numbers x, y, width, height, not {entry.get('bbox')!r}.")
    return box
