"""The embedded sample: images of coloured shapes, or drawn scenes, the same bytes at every run, in any format.

python -c "from dino_nb.prepare.sample import make_sample; make_sample('sample')"
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dino_nb.errors import UserError, did_you_mean, disk_errors
from dino_nb.files import sha256, write_text
from dino_nb.prepare.folders import SAMPLE_MARK, new_folder
from dino_nb.prepare.formats.write import FORMATS, Labelled, image_path, write
from dino_nb.prepare.scenes import SCENES, bounds, draw_scene

# the packaged dino-tiny knows the first five: their order and colours, and every draw of chance, stay as they are
SHAPES = {
    "red circle": (205, 45, 40),
    "blue square": (45, 75, 210),
    "green triangle": (40, 150, 60),
    "yellow diamond": (225, 195, 45),
    "purple ring": (150, 60, 175),
    "orange star": (235, 130, 30),
    "cyan cross": (40, 190, 200),
    "white crescent": (236, 236, 230),
}
CLASSES = tuple(SHAPES)[:5]
KINDS = ("shapes", *SCENES)
_LEAST_VISIBLE = 0.7  # share of a shape that later ones may not cover


@disk_errors()
def make_sample(
    folder: str | Path,
    n_train: int = 64,
    n_val: int = 16,
    seed: int = 0,
    format: str = "coco",
    *,
    kind: str = "shapes",
    classes: Sequence[str] | None = None,
) -> Path:
    """Write the sample below ``folder`` and return it as a ``Path``.

    Args:
        folder: a new or empty folder, or that of a sample, which is replaced (what else is in it stays). A sample
            made with the same arguments is left as it is.
        n_train, n_val: images per split.
        seed: the same arguments give the same bytes.
        format: ``coco`` (a finished COCODIR), ``voc``, ``yolo``, ``labelme`` or ``cvat``.
        kind: ``shapes``: images of 160 x 128 to 240 x 200 pixels with 1 to 4 shapes each, from 18 pixels to over half
            the image, some overlapping a little. ``aerial``: cars, trucks, houses and trees from above. ``cells``: a
            blood smear of three kinds of cells. Both of 320 x 240 to 400 x 304 pixels.
        classes: which of ``SHAPES`` to draw, in this order; ``CLASSES``, which dino-tiny knows, if None.

    Every class is in every split that has as many images. Boxes are whole pixels, tight around the whole object.
    """
    folder = Path(folder).expanduser()
    for what, value, choices in (("format", format, FORMATS), ("kind", kind, KINDS)):
        if value not in choices:
            known = ", ".join(choices)
            raise UserError(f"a sample's {what} is one of {known}, not {value!r}.{did_you_mean(value, choices)}")
    names = tuple(SCENES.get(kind, classes or CLASSES))
    if unknown := [name for name in names if kind == "shapes" and name not in SHAPES]:
        near = did_you_mean(unknown[0], SHAPES)
        raise UserError(f"the sample has no class {unknown[0]!r}.{near} It can draw {', '.join(SHAPES)}.")
    about = f"A generated sample; it is replaced when made again: {(n_train, n_val, seed, format, kind, names)}"
    said, ours = _listed(folder)
    if said is None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} holds something else than a sample: name a new or empty folder.")
    if said == about and all(_digest(folder / file) == digest for file, digest in ours.items()):
        return folder
    with new_folder(folder, ours={SAMPLE_MARK, *ours}) as new:
        splits: dict[str, list[Labelled]] = {"train": [], "val": []}
        for i in range(n_train + n_val):
            split, at = ("train", i) if i < n_train else ("val", i - n_train)
            rng = np.random.default_rng([seed, i + 1])
            first = at % len(names)
            pixels, boxes = _image(rng, first, names) if kind == "shapes" else draw_scene(rng, kind, first)
            path = image_path(new, format, split, f"{kind}_{i + 1:04d}.jpg")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, quality=92)
            splits[split].append(Labelled(path.name, pixels.shape[1], pixels.shape[0], boxes))
        write(new, format, names, splits)
        files = sorted(path for path in new.rglob("*") if path.is_file())
        lines = [f"{_digest(path)} {path.relative_to(new).as_posix()}" for path in files]
        write_text(new / SAMPLE_MARK, "\n".join([about, *lines, ""]))
    return folder


def _listed(folder: Path) -> tuple[str | None, dict[str, str]]:
    """What the mark of the sample in ``folder`` says of it, None without a sample; and ``{file: digest}``."""
    if not (folder / SAMPLE_MARK).is_file():
        return None, {}
    said, *lines = (folder / SAMPLE_MARK).read_text(encoding="utf-8").splitlines() or [""]
    if not lines:  # of a version that did not list its files
        lines = [f"- {path.relative_to(folder).as_posix()}" for path in folder.rglob("*.*") if path.is_file()]
    return said, {file: digest for digest, _, file in (line.partition(" ") for line in lines)}


def _digest(path: Path) -> str:
    return sha256(path)[:16] if path.is_file() else ""


def _image(rng, first_class, names=CLASSES):
    """``(H, W, 3)`` uint8 pixels and ``(class, x1, y1, x2, y2)`` boxes in whole pixels."""
    width, height = int(rng.integers(160, 241)), int(rng.integers(128, 201))
    canvas = _background(rng, width, height)
    wanted = [first_class, *rng.integers(0, len(names), int(rng.integers(0, 4)))]
    owner = np.full((height, width), -1)  # which shape is seen at a pixel
    areas, boxes = [], []
    for label in map(int, wanted):
        for _ in range(20):
            mask = _shape(rng, names[label], width, height)
            after = np.where(mask, len(areas), owner)
            if all(np.count_nonzero(after == i) >= _LEAST_VISIBLE * area for i, area in enumerate(areas)):
                break
        else:
            continue
        owner = after
        areas.append(np.count_nonzero(mask))
        colour = np.array(SHAPES[names[label]]) + rng.integers(-18, 19, 3)
        canvas[mask] = colour + rng.normal(0, 6, (areas[-1], 3))
        boxes.append((label, *bounds(mask)))
    return canvas.round().clip(0, 255).astype(np.uint8), boxes


def _background(rng, width, height):
    """Grey-brown waves and grain, ``(H, W, 3)`` float."""
    y, x = np.mgrid[:height, :width]
    waves = 0.0
    for _ in range(3):
        strength, across, down = rng.uniform(4, 12), rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2)
        waves = waves + strength * np.sin(x * across + y * down + rng.uniform(0, 6))
    tone = np.array([128.0, 122.0, 112.0]) + rng.uniform(-35, 35)
    return tone + waves[..., None] + rng.normal(0, 8, (height, width, 3))


def _shape(rng, name, width, height):
    """``(H, W)`` bool mask of one shape at a random place and size, whole inside the image."""
    side = np.exp(rng.uniform(np.log(20), np.log(0.6 * min(width, height))))
    aspect = rng.uniform(0.85, 1.18)
    w, h = side * aspect, side / aspect
    x1, y1 = rng.uniform(0, width - w), rng.uniform(0, height - h)
    y, x = np.mgrid[:height, :width]
    u, v = (x + 0.5 - x1) / w * 2 - 1, (y + 0.5 - y1) / h * 2 - 1  # -1..1 across the shape
    radius, square = np.hypot(u, v), np.maximum(abs(u), abs(v)) <= 1
    tip = abs((np.arctan2(u, -v) / (2 * np.pi) * 5) % 1 * 2 - 1)  # 1 at the five tips of a star, 0 between
    return {
        "circle": radius <= 1,
        "square": square,
        "triangle": (abs(v) <= 1) & (abs(u) <= (v + 1) / 2),
        "diamond": abs(u) + abs(v) <= 1,
        "ring": (radius <= 1) & (radius >= 0.55),
        "star": radius <= 0.42 + 0.58 * tip**1.6,
        "cross": square & (np.minimum(abs(u), abs(v)) <= 0.34),
        "crescent": (radius <= 1) & (np.hypot(u - 0.5, v) > 0.85),
    }[name.split()[-1]]
