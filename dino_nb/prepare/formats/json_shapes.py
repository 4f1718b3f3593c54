"""JSON files of labelling tools, an image's shapes turned into boxes: LabelMe, VIA, CreateML and Supervisely.

Each `Tool` says how its files look and what is in them; reading is the same for all.
"""

import math
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from dino_nb.prepare.formats.source import Options, Source
from dino_nb.prepare.formats.values import bounds, finite, image_size, split_of
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

    def read(self, source: Source, files: list[str], options: Options) -> Annotations:
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
                file = self._file(source, key, where, name)
                if file is None:
                    continue
                split = split_of(key, is_file=where != key) or split_of(file)
                image = ImageRow(file, where, [], split, image_size(*size), self.layout, key)
                for place, label, corners in shapes:
                    source.add_box(image, place, label, corners, "the shape has no label.", "missing or wrong points")
                images.append(image)
        return Annotations(images)

    @staticmethod
    def _file(source: Source, key: str, where: str, name: Any) -> str | None:
        named = source.images_named(name, near=key) if isinstance(name, str) and name else []
        if len(named) == 1:
            return named[0]
        stem = posixpath.splitext(key)[0]
        own = source.images_named(stem, near="") if where == key else []  # renamed with its image: a stale name inside
        return own[0] if len(own) == 1 else source.find_image(str(name or stem), near=key, where=where)


def _labelme(document: Any, key: str) -> Iterator[tuple]:
    def corners(shape: dict) -> Any:
        points = _points(shape.get("points"))
        if shape.get("shape_type") == "circle":  # its centre and a point of its edge
            return _circle(points[0][0], points[0][1], math.dist(*points)) if points and len(points) == 2 else None
        return points and bounds(points)

    if not isinstance(document["shapes"], list):
        raise TypeError
    size = document.get("imageWidth"), document.get("imageHeight")
    shapes = [(f"{key}, shapes[{i}]", s.get("label"), corners(s)) for i, s in enumerate(map(_dict, document["shapes"]))]
    yield key, document.get("imagePath"), size, shapes


def _supervisely(document: Any, key: str) -> Iterator[tuple]:
    size = _dict(document.get("size"))
    shapes = []
    for i, entry in enumerate(map(_dict, document["objects"])):
        points = _points(_dict(entry.get("points")).get("exterior"))
        shapes.append((f"{key}, objects[{i}]", entry.get("classTitle"), points and bounds(points)))
    name = re.sub(r"\.json$", "", posixpath.basename(key), flags=re.I)  # 1.jpg.json
    yield key, name, (size.get("width"), size.get("height")), shapes


def _createml(document: Any, key: str) -> Iterator[tuple]:
    for i, entry in enumerate(map(_dict, document)):
        where, shapes = f"{key}, entry {i + 1}", []
        for annotation in map(_dict, entry.get("annotations") or []):
            at = _dict(annotation.get("coordinates"))
            shapes.append((where, annotation.get("label"), _four(at, "x", "y", "width", "height")))
        yield where, entry.get("image") or entry.get("imagefilename"), (None, None), shapes


def _via(document: Any, key: str) -> Iterator[tuple]:
    images = document.get("_via_img_metadata", document) if isinstance(document, dict) else document
    for i, entry in enumerate(map(_dict, images.values() if isinstance(images, dict) else images)):
        if not entry.get("filename"):
            continue  # settings, in some versions
        where, regions = f"{key}, image {i + 1}", entry.get("regions") or []
        regions = regions.values() if isinstance(regions, dict) else regions
        shapes = []
        for j, region in enumerate(map(_dict, regions)):
            labels = _dict(region.get("region_attributes"))
            usual = [
                v for k, v in labels.items() if k.strip().lower() in ("class", "label", "name", "type", "category")
            ]
            label = next(iter(usual or labels.values()), None)
            if isinstance(label, dict):  # a checkbox: {"cat": true}
                label = next((name for name, on in label.items() if on), None)
            shapes.append((f"{where}, region {j + 1}", label, _via_corners(_dict(region.get("shape_attributes")))))
        yield where, entry["filename"], (None, None), shapes


def _via_corners(shape: dict) -> Any:
    if "width" in shape:
        box = _four(shape, "x", "y", "width", "height")
        return box and (box[0], box[1], box[0] + box[2], box[1] + box[3])
    if "cx" in shape:
        values = finite([shape[k] for k in ("cx", "cy", "rx", "ry", "r") if k in shape], 4 - ("r" in shape))
        return values and _circle(values[0], values[1], values[2], values[-1])
    xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
    points = _points([list(p) for p in zip(xs, ys)] if isinstance(xs, list) and isinstance(ys, list) else None)
    return points and bounds(points)


def _dict(value: Any) -> dict:
    return value if isinstance(value, dict) else {}


def _four(values: dict, *keys: str) -> list[float] | None:
    return finite([values.get(key) for key in keys], 4)


def _points(values: Any) -> list[Any] | None:
    points = [finite(p, 2) if isinstance(p, list) else None for p in values] if isinstance(values, list) else []
    return points if points and all(points) else None


def _circle(cx: float, cy: float, rx: float, ry: float | None = None) -> tuple[float, float, float, float]:
    ry = rx if ry is None else ry
    return cx - rx, cy - ry, cx + rx, cy + ry


# LabelMe's imageData may be megabytes of text, with the shapes behind
LABELME = Tool(re.compile(r'"shapes"\s*:\s*\[|"imageData"\s*:\s*(null|")'), _labelme)
SUPERVISELY = Tool(
    re.compile(r'"(classTitle|geometryType)"\s*:|^\s*\{.{0,300}"size"\s*:\s*\{\s*"(height|width)"', re.S), _supervisely
)
CREATEML = Tool(re.compile(r'"coordinates"\s*:\s*\{'), _createml, "cxcywh")
VIA = Tool(re.compile(r'"(_via_img_metadata|shape_attributes|region_attributes)"\s*:'), _via)
