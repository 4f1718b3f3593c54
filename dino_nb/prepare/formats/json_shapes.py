"""JSON files of labelling tools, an image's shapes turned into boxes: LabelMe, VIA, CreateML and Supervisely.

Each `Tool` says how its files look and what is in them; reading is the same for all.
"""

import math
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from dino_nb.prepare.formats.source import Source
from dino_nb.prepare.formats.values import around, bounds, finite, four, image_size, split_of
from dino_nb.prepare.table import Annotations, ImageRow

Shape = tuple[str, Any, Any]  # where, class, corners (or None if they are wrong)


@dataclass(frozen=True)
class Tool:
    """One tool's files. ``look``: what is in the first 64 KiB of one; ``images(document, key)`` yields of each image
    ``(where, file name, annotated size, shapes)`` and raises ``TypeError`` for what is no such file."""

    look: re.Pattern[str]
    images: Callable[[Any, str], Iterable[tuple[str, Any, Any, Iterable[Shape]]]]
    layout: str = "xyxy"

    def find(self, source: Source) -> list[str]:
        """Keys of this tool's files."""
        return [key for key in source.ending(".json") if self.look.search(source.head(key))]

    def read(self, source: Source, files: list[str]) -> Annotations:
        """All ``files``."""
        images = []
        for key in source.each(files):
            document = source.json(key)
            try:
                found = list(self.images(document, key)) if document is not None else []
            except (TypeError, AttributeError, LookupError):
                source.fault(key, "it is not built as this format is: a list of shapes of each image is missing.")
                continue
            for where, name, size, shapes in found:
                if (file := _file(source, key, where, name)) is None:
                    continue
                split = split_of(key, is_file=where != key) or split_of(file)
                image = ImageRow(file, where, [], split, image_size(*size), self.layout, key)
                images.append(image)
                for place, label, corners in shapes:
                    wrong = "has missing or wrong points"
                    source.add_box(image, place, label, corners, "the shape has no label.", wrong)
        return Annotations(images)


def _file(source: Source, key: str, where: str, name: Any) -> str | None:
    named = source.images_named(name, near=key) if isinstance(name, str) and name else []
    if len(named) == 1:
        return named[0]
    stem = posixpath.splitext(key)[0]
    own = source.images_named(stem, near="") if where == key else []  # renamed with its image: a stale name inside
    return own[0] if len(own) == 1 else source.find_image(str(name or stem), near=key, where=where)


def _labelme(document: Any, key: str) -> Iterator[tuple]:
    def corners(shape: dict) -> Any:
        points = shape.get("points")
        box: Any = bounds(points)
        if not box or shape.get("shape_type") != "circle":
            return box
        ends: list[Any] = [finite(point, 2) for point in points or ()]  # the centre and a point of the edge
        radius = math.dist(ends[0], ends[-1])
        return around(ends[0][0], ends[0][1], radius, radius) if len(ends) == 2 else None

    if not isinstance(document["shapes"], list):
        raise TypeError
    size = document.get("imageWidth"), document.get("imageHeight")
    shapes = [(f"{key}, shapes[{i}]", s.get("label"), corners(s)) for i, s in enumerate(map(_dict, document["shapes"]))]
    yield key, document.get("imagePath"), size, shapes


def _supervisely(document: Any, key: str) -> Iterator[tuple]:
    size, shapes = _dict(document.get("size")), []
    for i, entry in enumerate(map(_dict, document["objects"])):
        corners = bounds(_dict(entry.get("points")).get("exterior"))
        shapes.append((f"{key}, objects[{i}]", entry.get("classTitle"), corners))
    name = re.sub(r"\.json$", "", posixpath.basename(key), flags=re.I)  # 1.jpg.json
    yield key, name, (size.get("width"), size.get("height")), shapes


def _createml(document: Any, key: str) -> Iterator[tuple]:
    for i, entry in enumerate(map(_dict, document)):
        where, shapes = f"{key}, entry {i + 1}", []
        for annotation in map(_dict, entry.get("annotations") or []):
            box = four(_dict(annotation.get("coordinates")).get, "x y width height")
            shapes.append((where, annotation.get("label"), box))
        yield where, entry.get("image") or entry.get("imagefilename"), (None, None), shapes


def _via(document: Any, key: str) -> Iterator[tuple]:
    images = document.get("_via_img_metadata", document) if isinstance(document, dict) else document
    for i, entry in enumerate(map(_dict, _values(images))):
        if not entry.get("filename"):
            continue  # settings, in some versions
        where, shapes = f"{key}, image {i + 1}", []
        for j, region in enumerate(map(_dict, _values(entry.get("regions") or []))):
            labels = _dict(region.get("region_attributes"))
            usual = [v for k, v in labels.items() if k.strip().lower() in _VIA_LABELS]
            label = next(iter(usual or labels.values()), None)
            if isinstance(label, dict):  # a checkbox: {"cat": true}
                label = next((name for name, on in label.items() if on), None)
            shapes.append((f"{where}, region {j + 1}", label, _via_corners(_dict(region.get("shape_attributes")))))
        yield where, entry["filename"], (None, None), shapes


_VIA_LABELS = ("class", "label", "name", "type", "category")


def _via_corners(shape: dict) -> Any:
    if "width" in shape:
        box = four(shape.get, "x y width height")
        return box and (box[0], box[1], box[0] + box[2], box[1] + box[3])
    if "cx" in shape:
        values = finite([shape[k] for k in ("cx", "cy", "rx", "ry", "r") if k in shape], 4 - ("r" in shape))
        return values and around(values[0], values[1], values[2], values[-1])
    xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
    return bounds(list(zip(xs, ys))) if isinstance(xs, list) and isinstance(ys, list) else None


def _dict(value: Any) -> dict:
    return value if isinstance(value, dict) else {}


def _values(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


# LabelMe's imageData may be megabytes of text, with the shapes behind
LABELME = Tool(re.compile(r'"shapes"\s*:\s*\[|"imageData"\s*:\s*(null|")'), _labelme)
SUPERVISELY = Tool(
    re.compile(r'"(classTitle|geometryType)"\s*:|^\s*\{.{0,300}"size"\s*:\s*\{\s*"(height|width)"', re.S), _supervisely
)
CREATEML = Tool(re.compile(r'"coordinates"\s*:\s*\{'), _createml, "cxcywh")
VIA = Tool(re.compile(r'"(_via_img_metadata|shape_attributes|region_attributes)"\s*:'), _via)
