"""The embedded sample: small images of coloured shapes, the same bytes at every run, in COCO, VOC or YOLO form.

python -c "from dino_nb.prepare.sample import make_sample; make_sample('sample')"
"""

import contextlib
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from dino_nb.errors import UserError, did_you_mean, disk_errors
from dino_nb.prepare.folders import SAMPLE_MARK
from dino_nb.prepare.formats.write import Labelled, image_path, write

CLASSES = ("red circle", "blue square", "green triangle", "yellow diamond", "purple ring")
FORMATS = ("coco", "voc", "yolo")
_COLOURS = ((205, 45, 40), (45, 75, 210), (40, 150, 60), (225, 195, 45), (150, 60, 175))
_LEAST_VISIBLE = 0.7  # share of a shape that later ones may not cover


@disk_errors()
def make_sample(folder: str | Path, n_train: int = 64, n_val: int = 16, seed: int = 0, format: str = "coco") -> Path:
    """Write the sample below ``folder`` and return it as a ``Path``.

    Images are 160 x 128 to 240 x 200 pixels with 1 to 4 shapes each, from 18 pixels to over half the image, some
    overlapping a little; ``CLASSES`` names the five kinds, each present in every split of five images or more. Boxes
    are whole pixels, tight around the whole shape. ``format`` is ``coco`` (a finished COCODIR), ``voc`` or ``yolo``.
    A sample already there is replaced; any other folder that is not empty is a ``UserError``.
    """
    folder = Path(folder)
    if format not in FORMATS:
        raise UserError(
            f"the sample is written as {', '.join(FORMATS)}, not {format!r}.{did_you_mean(format, FORMATS)}"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not (folder / SAMPLE_MARK).is_file():
        raise UserError(f"{folder} holds something else than a sample: name a new or empty folder.")
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / SAMPLE_MARK).write_text("A generated sample; it is replaced when made again.\n", encoding="utf-8")
    splits: dict[str, list[Labelled]] = {}
    number = 0
    for split, count in (("train", n_train), ("val", n_val)):
        splits[split] = []
        for i in range(count):
            number += 1
            rng = np.random.default_rng([seed, number])
            pixels, boxes = _image(rng, first_class=i % len(CLASSES))
            path = image_path(folder, format, split, f"shapes_{number:04d}.jpg")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, quality=92)
            splits[split].append(Labelled(path.name, pixels.shape[1], pixels.shape[0], boxes))
    return write(folder, format, CLASSES, splits)


def _image(rng, first_class):
    """``(H, W, 3)`` uint8 pixels and ``(class, x1, y1, x2, y2)`` boxes in whole pixels."""
    width, height = int(rng.integers(160, 241)), int(rng.integers(128, 201))
    canvas = _background(rng, width, height)
    wanted = [first_class, *rng.integers(0, len(CLASSES), int(rng.integers(0, 4)))]
    owner = np.full((height, width), -1)  # which shape is seen at a pixel
    areas, boxes = [], []
    for label in map(int, wanted):
        for _ in range(20):
            mask = _shape(rng, label, width, height)
            after = np.where(mask, len(areas), owner)
            visible = [np.count_nonzero(after == i) for i in range(len(areas))]
            if all(seen >= _LEAST_VISIBLE * area for seen, area in zip(visible, areas)):
                break
        else:
            continue
        owner = after
        areas.append(np.count_nonzero(mask))
        colour = np.array(_COLOURS[label]) + rng.integers(-18, 19, 3)
        canvas[mask] = colour + rng.normal(0, 6, (areas[-1], 3))
        rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
        boxes.append((label, int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
    return canvas.round().clip(0, 255).astype(np.uint8), boxes


def _background(rng, width, height):
    """Grey-brown waves and grain, ``(H, W, 3)`` float."""
    y, x = np.mgrid[:height, :width]
    waves = sum(
        rng.uniform(4, 12) * np.sin(x * rng.uniform(-0.2, 0.2) + y * rng.uniform(-0.2, 0.2) + rng.uniform(0, 6))
        for _ in range(3)
    )
    tone = np.array([128.0, 122.0, 112.0]) + rng.uniform(-35, 35)
    return tone + waves[..., None] + rng.normal(0, 8, (height, width, 3))


def _shape(rng, label, width, height):
    """``(H, W)`` bool mask of one shape of class ``label`` at a random place and size, whole inside the image."""
    side = np.exp(rng.uniform(np.log(20), np.log(0.6 * min(width, height))))
    aspect = rng.uniform(0.85, 1.18)
    w, h = side * aspect, side / aspect
    x1, y1 = rng.uniform(0, width - w), rng.uniform(0, height - h)
    y, x = np.mgrid[:height, :width]
    u, v = (x + 0.5 - x1) / w * 2 - 1, (y + 0.5 - y1) / h * 2 - 1  # -1..1 across the shape
    radius = np.hypot(u, v)
    if label == 0:
        return radius <= 1
    if label == 1:
        return np.maximum(abs(u), abs(v)) <= 1
    if label == 2:
        return (abs(v) <= 1) & (abs(u) <= (v + 1) / 2)
    if label == 3:
        return abs(u) + abs(v) <= 1
    return (radius <= 1) & (radius >= 0.55)
