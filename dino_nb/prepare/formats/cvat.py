"""CVAT for images 1.1: one XML of all images, with boxes, rotated boxes, polygons, ellipses and masks."""

import math
from typing import Any
from xml.etree.ElementTree import Element

from dino_nb.prepare.formats.source import Options, Source
from dino_nb.prepare.formats.values import bounds, finite, image_size, split_of
from dino_nb.prepare.formats.xml_file import parse, root_tag, text
from dino_nb.prepare.table import Annotations, ImageRow

_SHAPES = ("box", "polygon", "polyline", "points", "ellipse", "mask")


def find(source: Source) -> list[str]:
    """Keys of the XML files whose root is ``annotations``."""
    return [key for key in source.ending(".xml") if root_tag(source.head(key)[:4096]) == "annotations"]


def read(source: Source, files: list[str], options: Options) -> Annotations:
    """All ``files``; an image's ``subset`` is its split, else the folder is."""
    images: list[ImageRow] = []
    categories: dict[str, Any] = {}
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
        for entry in root.findall("image"):
            where = f"{key}:{lines[entry]}"
            subset = split_of(f"{entry.get('subset') or ''}/x") or split
            file = source.find_image(entry.get("name") or "", near=key, where=where, split=subset)
            if file is None:
                continue
            size = image_size(entry.get("width"), entry.get("height"))
            image = ImageRow(file, where, [], subset or split_of(file), size, source=key, id=entry.get("id"))
            for shape in entry:
                if shape.tag in _SHAPES:
                    place, unnamed = f"{key}:{lines[shape]}", f"the {shape.tag} has no label."
                    source.add_box(image, place, shape.get("label"), _corners(shape), unnamed, "wrong coordinates")
            images.append(image)
    used = {box.name for image in images for box in image.boxes}
    return Annotations(images, categories | dict.fromkeys(sorted(used - set(categories))) if categories else None)


def _corners(shape: Element) -> Any:
    degrees = finite([shape.get("rotation") or 0], 1)
    if degrees is None:
        return None
    cos, sin = abs(math.cos(math.radians(degrees[0]))), abs(math.sin(math.radians(degrees[0])))
    if shape.tag == "box":
        box = finite([shape.get(k) for k in ("xtl", "ytl", "xbr", "ybr")], 4)
        if box is None or not degrees[0]:
            return box
        x1, y1, x2, y2 = box
        w, h = (x2 - x1) / 2, (y2 - y1) / 2
        return _around((x1 + x2) / 2, (y1 + y2) / 2, w * cos + h * sin, w * sin + h * cos)
    if shape.tag == "ellipse":
        ellipse = finite([shape.get(k) for k in ("cx", "cy", "rx", "ry")], 4)
        if ellipse is None:
            return None
        cx, cy, rx, ry = ellipse
        return _around(cx, cy, math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos))
    if shape.tag == "mask":
        mask = finite([shape.get(k) for k in ("left", "top", "width", "height")], 4)
        return mask and (mask[0], mask[1], mask[0] + mask[2], mask[1] + mask[3])
    points = [finite(point.split(","), 2) for point in (shape.get("points") or "").split(";") if point.strip()]
    return bounds(points) if points and all(points) else None


def _around(cx, cy, w, h):
    return cx - w, cy - h, cx + w, cy + h
