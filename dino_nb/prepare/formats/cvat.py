"""CVAT for images 1.1: one XML of all images, with boxes, rotated boxes, polygons, ellipses and masks."""

import math
from typing import Any
from xml.etree.ElementTree import Element

from dino_nb.prepare.formats.source import Source
from dino_nb.prepare.formats.values import around, bounds, finite, four, image_size, split_of
from dino_nb.prepare.formats.xml_file import parse, text, with_root
from dino_nb.prepare.table import Annotations, ImageRow

_SHAPES = ("box", "polygon", "polyline", "points", "ellipse", "mask")


def find(source: Source) -> list[str]:
    """Keys of the XML files whose root is ``annotations``."""
    return with_root(source, "annotations")


def read(source: Source, files: list[str]) -> Annotations:
    """All ``files``; an image's ``subset`` is its split, else the folder is."""
    images: list[ImageRow] = []
    categories: dict[str, Any] = {}
    for key in files:
        if (parsed := parse(source, key)) is None:
            continue
        root, lines = parsed
        if root.find("track") is not None:
            source.fault(key, "these are tracks in a video: export the task as 'CVAT for images 1.1'.")
            continue
        for label in root.iterfind("meta//labels/label"):
            if not text(label, "parent") and text(label, "name"):  # a part of a skeleton is no class
                categories[text(label, "name")] = None
        for entry in root.findall("image"):
            where = f"{key}:{lines[entry]}"
            split = split_of(f"{entry.get('subset') or ''}/x") or split_of(key, is_file=True)
            file = source.find_image(entry.get("name") or "", near=key, where=where, split=split)
            if file is None:
                continue
            size = image_size(entry.get("width"), entry.get("height"))
            image = ImageRow(file, where, [], split or split_of(file), size, source=key, id=entry.get("id"))
            images.append(image)
            for shape in entry:
                if shape.tag in _SHAPES:
                    place, unnamed = f"{key}:{lines[shape]}", f"the {shape.tag} has no label."
                    source.add_box(image, place, shape.get("label"), _corners(shape), unnamed, "has wrong coordinates")
    used = {box.name for image in images for box in image.boxes}
    return Annotations(images, categories | dict.fromkeys(sorted(used - set(categories))) if categories else None)


def _corners(shape: Element) -> Any:
    degrees = finite([shape.get("rotation") or 0], 1)
    if degrees is None:
        return None
    cos, sin = abs(math.cos(math.radians(degrees[0]))), abs(math.sin(math.radians(degrees[0])))
    if shape.tag == "box":
        box = four(shape.get, "xtl ytl xbr ybr")
        if box is None or not degrees[0]:
            return box
        x1, y1, x2, y2 = box
        w, h = (x2 - x1) / 2, (y2 - y1) / 2
        return around((x1 + x2) / 2, (y1 + y2) / 2, w * cos + h * sin, w * sin + h * cos)
    if shape.tag == "ellipse":
        if (ellipse := four(shape.get, "cx cy rx ry")) is None:
            return None
        cx, cy, rx, ry = ellipse
        return around(cx, cy, math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos))
    if shape.tag == "mask":
        mask = four(shape.get, "left top width height")
        return mask and (mask[0], mask[1], mask[0] + mask[2], mask[1] + mask[3])
    return bounds([point.split(",") for point in (shape.get("points") or "").split(";") if point.strip()])
