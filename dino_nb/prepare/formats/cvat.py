"""CVAT for images 1.1: one XML of all pictures, with boxes, rotated boxes, polygons, ellipses and masks."""

import math

from dino_nb.prepare.formats.source import Box, Labels, Picture, bounds, class_name, finite, split_of
from dino_nb.prepare.formats.xml_file import parse, root_tag, text

_SHAPES = ("box", "polygon", "polyline", "points", "ellipse", "mask")


def find(source):
    """Keys of the XML files whose root is ``annotations``."""
    return [key for key in source.ending(".xml") if root_tag(source.head(key)[:4096]) == "annotations"]


def read(source, files, options):
    """`Labels` of all ``files``; a picture's ``subset`` is its split, else the folder is."""
    pictures, categories = [], {}
    for key in files:
        parsed = parse(source, key)
        if parsed is None:
            continue
        root, lines = parsed
        if root.find("track") is not None:
            source.fault(key, "these are tracks in a video: export the task as 'CVAT for images 1.1'.")
            continue
        for label in root.iterfind("meta//labels/label"):
            if not text(label, "parent") and text(label, "name"):  # a part of a skeleton is no class
                categories.setdefault(text(label, "name"), None)
        split = split_of(key, is_file=True)
        for image in root.findall("image"):
            where = f"{key}:{lines[image]}"
            subset = split_of(f"{image.get('subset') or ''}/x") or split
            file = source.find_image(image.get("name") or "", near=key, where=where, split=subset)
            size = finite((image.get("width"), image.get("height")), 2)
            size = tuple(map(int, size)) if size and min(size) > 0 else None
            picture = Picture(file, where, split=subset or split_of(file or ""), size=size, id=image.get("id"))
            for shape in image:
                if shape.tag in _SHAPES:
                    _add(source, picture, shape, f"{key}:{lines[shape]}")
            if file:
                pictures.append(picture)
    used = [box.name for picture in pictures for box in picture.boxes]
    return Labels(pictures, categories | dict.fromkeys(sorted(set(used) - set(categories))) if categories else None)


def _add(source, picture, shape, where):
    name, corners = class_name(shape.get("label")), _corners(shape)
    if not name:
        source.fault(where, f"the {shape.tag} has no label.")
    elif corners is None:
        source.fault(where, f"the {shape.tag} of {name!r} has missing or wrong coordinates.")
    else:
        picture.boxes.append(Box(name, *corners, where))


def _corners(shape):
    if shape.tag == "box":
        box = finite([shape.get(k) for k in ("xtl", "ytl", "xbr", "ybr")], 4)
        turn = finite([shape.get("rotation") or 0], 1)
        return box and turn and _turned(*box, turn[0])
    if shape.tag == "ellipse":
        values = finite([shape.get(k) for k in ("cx", "cy", "rx", "ry")], 4)
        turn = finite([shape.get("rotation") or 0], 1)
        if not values or not turn:
            return None
        cx, cy, rx, ry = values
        cos, sin = math.cos(math.radians(turn[0])), math.sin(math.radians(turn[0]))
        w, h = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
        return cx - w, cy - h, cx + w, cy + h
    if shape.tag == "mask":
        box = finite([shape.get(k) for k in ("left", "top", "width", "height")], 4)
        return box and (box[0], box[1], box[0] + box[2], box[1] + box[3])
    points = [finite(point.split(","), 2) for point in (shape.get("points") or "").split(";") if point.strip()]
    return bounds(points) if points and all(points) else None


def _turned(x1, y1, x2, y2, degrees):
    """Bounds of a box after a turn around its centre."""
    if not degrees:
        return x1, y1, x2, y2
    cos, sin = (abs(f(math.radians(degrees))) for f in (math.cos, math.sin))
    cx, cy, w, h = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) / 2, (y2 - y1) / 2
    w, h = w * cos + h * sin, w * sin + h * cos
    return cx - w, cy - h, cx + w, cy + h
