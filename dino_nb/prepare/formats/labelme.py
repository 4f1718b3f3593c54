"""LabelMe: a JSON a picture, its shapes turned into boxes."""

import math
import re

from dino_nb.prepare.formats.source import Box, Labels, Picture, bounds, class_name, finite, split_of

_SHAPES = re.compile(r'"shapes"\s*:\s*\[')


def find(source):
    """Keys of the JSON files that have a list of shapes."""
    return [key for key in source.ending(".json") if _SHAPES.search(source.head(key))]


def read(source, files, options):
    """`Labels` of all ``files``."""
    pictures = []
    for key in source.each(files):
        document = source.json(key)
        if document is None:
            continue
        shapes = document.get("shapes") if isinstance(document, dict) else None
        if not isinstance(shapes, list):
            source.fault(key, "a LabelMe file is an object with a list of shapes.")
            continue
        name = document.get("imagePath")
        stem = key.removesuffix(".json").removesuffix(".JSON")
        own = source.images_named(stem, near="")  # renamed together with its picture, it keeps a stale imagePath
        named = source.images_named(name, near=key) if isinstance(name, str) and name else []
        file = named[0] if len(named) == 1 else own[0] if len(own) == 1 else source.find_image(name or stem, near=key)
        size = finite((document.get("imageWidth"), document.get("imageHeight")), 2)
        size = tuple(map(int, size)) if size and min(size) > 0 else None
        picture = Picture(file, key, split=split_of(key), size=size)
        for i, shape in enumerate(shapes):
            where = f"{key}, shapes[{i}]"
            name = class_name(shape.get("label")) if isinstance(shape, dict) else ""
            corners = _corners(shape) if name else None
            if not name:
                source.fault(where, "the shape has no label.")
            elif corners is None:
                source.fault(where, f"the {name!r} has missing or wrong points.")
            else:
                picture.boxes.append(Box(name, *corners, where))
        if file:
            pictures.append(picture)
    return Labels(pictures)


def _corners(shape):
    points = shape.get("points")
    points = [finite(p, 2) if isinstance(p, list) else None for p in points] if isinstance(points, list) else []
    if not points or not all(points):
        return None
    if shape.get("shape_type") == "circle":  # its centre and a point of its edge
        if len(points) != 2:
            return None
        (cx, cy), edge = points
        r = math.hypot(edge[0] - cx, edge[1] - cy)
        return cx - r, cy - r, cx + r, cy + r
    return bounds(points)
