"""A data set at a glance: its classes, how many boxes, their sizes and shapes, and some images with their boxes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from dino_nb import fonts
from dino_nb.data.images import open_image
from dino_nb.draw import class_colors, draw_boxes
from dino_nb.errors import UserError, printable
from dino_nb.files import leaves_folder
from dino_nb.prepare.check import read_splits
from dino_nb.prepare.check_images import Folder, known_sizes, look_at_images
from dino_nb.prepare.findings import Findings
from dino_nb.prepare.layout import guess_layout, to_xywh

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT, BAR = "#22303c", "#8a97a3", "#4c8bb8"
COCO_AREAS = (32**2, 96**2)  # square pixels: where COCO's small and medium objects end
SHOWN_CLASSES = 20
MOST_NAMED = 12  # boxes of one image
_SIDE = 340  # pixels of an image on the contact sheet


def summary_figure(cocodir: str | Path, split: str = "train", *, images: int = 12, seed: int = 0) -> "Figure":
    """Class histogram, boxes per image, sizes, shapes, and a contact sheet with the boxes drawn, as one figure.

    Args:
        cocodir: folder with ``{split}2017/`` and ``annotations/``.
        split: ``train``, ``val`` or ``test``.
        images: on the contact sheet; chosen at random so that each class is seen, the same for the same ``seed``.

    Returns:
        ``matplotlib.figure.Figure``. Boxes in a layout other than COCO's are shown as they seem to be meant (the check
        names the layout). Raises ``UserError`` if the split cannot be read at all.
    """
    from matplotlib import pyplot as plt

    data = _read(cocodir, split)
    boxes, sizes = _boxes(data)
    chosen = _choose(data, images, np.random.default_rng(seed))
    columns = 6
    rows = -(-len(chosen) // columns)
    with plt.rc_context(
        {"font.family": fonts.families(_names(data)), "font.size": 9, "text.color": INK, "axes.labelcolor": INK}
    ):
        figure = plt.figure(figsize=(15, 7 + 2.35 * rows), layout="constrained", facecolor="white")
        halves: Any = figure.subfigures(2, 1, height_ratios=(6.4, max(0.3, 2.35 * rows)))
        top, bottom = halves
        left, right = top.subfigures(1, 2, width_ratios=(1, 2))
        _draw_classes(left.subplots(), data)
        (counts, areas), (shapes, extents) = right.subplots(2, 2)
        _draw_counts(counts, data)
        _draw_areas(areas, boxes)
        _draw_shapes(shapes, boxes)
        _draw_extents(extents, boxes, sizes, data)
        _draw_sheet(bottom, data, boxes, chosen, rows, columns)
        n = f"{len(data.image_ids):,} images, {len(data.rows):,} boxes, {len(set(data.category.tolist())):,} classes"
        figure.suptitle(f"{data.name}: {n}", fontsize=14, fontweight="bold", x=0.008, ha="left")
        plt.close(figure)  # a notebook shows what a cell returns, and would show an open figure once more
    return figure


def _read(cocodir, split):
    name, findings = str(split).removesuffix("2017"), Findings()
    found = read_splits(cocodir, [name], findings)
    if not found or not found[0].image_ids:
        text = "\n".join(str(f) for f in findings.values() if f.level == "error")
        raise UserError(f"there is nothing to show of {name} in {cocodir}.\n{text}")
    return found[0]


def _boxes(data):
    """Boxes in pixels as x, y, width, height ``(n, 4)``, and the width and height of the image of each ``(n, 2)``."""
    sizes = data.image_sizes
    if not np.isfinite(sizes).all():
        sizes = known_sizes(data, look_at_images(data, Folder(data.folder), full=False, progress=False))
    sizes = sizes[data.image]
    return to_xywh(data.boxes, sizes, *guess_layout(data.boxes, sizes)), sizes


def _names(data):
    return [printable(name, 28) for name in data.categories.values()]


def _colors(data):
    return class_colors(_names(data))


def _usable(boxes):
    return boxes[np.isfinite(boxes).all(1) & (boxes[:, 2:] > 0).all(1)]


def _style(axes, title, x, y):
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#c3ccd4")
    axes.tick_params(colors=INK, length=3)
    axes.set_axisbelow(True)


def _nothing(axes):
    axes.text(0.5, 0.5, "no boxes", transform=axes.transAxes, ha="center", va="center", color=FAINT)


def _draw_classes(axes, data):
    counts = np.bincount(data.category, minlength=len(data.categories))
    names, colors = _names(data), _colors(data)
    order = np.argsort(-counts, kind="stable")
    shown, rest = order[:SHOWN_CLASSES], order[SHOWN_CLASSES:]
    labels = [names[i] for i in shown]
    values = [int(counts[i]) for i in shown]
    paints = [colors[names[i]] for i in shown]
    if len(rest):
        labels.append(f"{len(rest)} more classes")
        values.append(int(counts[rest].sum()))
        paints.append("#c3ccd4")
    at = np.arange(len(labels))
    axes.barh(at, values, color=paints, height=0.72)
    axes.set_yticks(at, labels, parse_math=False)
    axes.set_ylim(max(len(labels), 5) - 0.4, -0.6)
    total = max(1, int(counts.sum()))
    for y, value in zip(at, values):
        axes.text(value, y, f" {value:,} ({value / total:.0%})", va="center", fontsize=8, color=INK)
    axes.set_xlim(0, max([1, *values]) * 1.28)
    _style(axes, "Boxes of each class", "boxes", "")
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=5)
    axes.grid(axis="x", color="#e8ecef")


def _draw_counts(axes, data):
    counts = np.bincount(data.image, minlength=len(data.image_ids))
    width = max(1, -(-int(counts.max()) // 40))
    edges = np.arange(0, counts.max() + width + 1, width) - 0.5
    axes.hist(counts, edges, color=BAR, edgecolor="white", linewidth=0.6)
    _style(axes, "Boxes per image", "boxes", "images")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y", color="#e8ecef")
    empty = int((counts == 0).sum())
    _remark(axes, f"median {np.median(counts):g}, most {counts.max():,}\n{empty:,} without any")


def _draw_areas(axes, boxes):
    _style(axes, "Sizes, and what COCO calls them", "square root of the area, pixels", "boxes")
    sides = np.sqrt(_usable(boxes)[:, 2:].prod(1))
    if not len(sides):
        return _nothing(axes)
    low, high = min(sides.min(), 20.0), max(sides.max(), 140.0)
    axes.set_xscale("log")
    limits = [low * 0.8, *np.sqrt(COCO_AREAS), high * 1.25]
    shares = np.histogram(sides, [0, *np.sqrt(COCO_AREAS), np.inf])[0] / len(sides)
    for name, shade, start, end, share in zip(
        ("small", "medium", "large"), ("#fbe9d7", "#fdf6df", "#e6f2ea"), limits, limits[1:], shares
    ):
        axes.axvspan(start, end, color=shade, lw=0)
        middle = np.sqrt(start * end)
        axes.text(middle, 0.97, f"{name}\n{share:.0%}", transform=axes.get_xaxis_transform(), ha="center", va="top")
    axes.hist(sides, np.geomspace(limits[0], limits[-1], 41), color=BAR, edgecolor="white", linewidth=0.6)
    axes.set_xlim(limits[0], limits[-1])
    axes.set_ylim(0, axes.get_ylim()[1] * 1.3)
    ticks = [t for t in (1, 2, 4, 8, 16, 32, 96, 256, 512, 1024, 2048, 4096) if limits[0] <= t <= limits[-1]]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()


def _draw_shapes(axes, boxes):
    _style(axes, "Shapes", "width : height", "boxes")
    good = _usable(boxes)
    if not len(good):
        return _nothing(axes)
    ratios = np.log2(good[:, 2] / good[:, 3])
    edge = float(np.clip(np.abs(ratios).max() * 1.05, 1.2, 6))
    axes.hist(np.clip(ratios, -edge, edge), np.linspace(-edge, edge, 42), color=BAR, edgecolor="white", linewidth=0.6)
    ticks = np.arange(-int(edge), int(edge) + 1)
    axes.set_xticks(ticks, [f"{2**t}:1" if t >= 0 else f"1:{2**-t}" for t in ticks.tolist()])
    axes.axvline(0, color=INK, lw=0.8, ls=":")
    axes.grid(axis="y", color="#e8ecef")
    axes.yaxis.get_major_locator().set_params(integer=True)
    _remark(axes, f"taller than wide: {np.mean(ratios < 0):.0%}", left=True)


def _draw_extents(axes, boxes, sizes, data):
    """Width against height as shares of the image: labels of the whole image sit in the corner at the top."""
    _style(axes, "Width and height", "share of the image's width", "share of its height")
    shares = boxes[:, 2:] / sizes
    drawn = np.isfinite(shares).all(1) & (shares > 0).all(1)
    shares = shares[drawn]
    if not len(shares):
        return _nothing(axes)
    shares = np.clip(shares, 0, 1)
    if len(shares) <= 3000:
        names, colors = _names(data), _colors(data)
        paints = [colors[names[c]] for c in data.category[drawn]]
        axes.scatter(*shares.T, s=9, c=paints, alpha=0.55, linewidths=0)
    else:
        axes.hexbin(*shares.T, gridsize=36, bins="log", cmap="Blues", mincnt=1, extent=(0, 1, 0, 1))
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.grid(color="#e8ecef")


def _remark(axes, text, left=False):
    x, side = (0.02, "left") if left else (0.98, "right")
    axes.text(x, 0.96, text, transform=axes.transAxes, ha=side, va="top", color=FAINT)


def _choose(data, n, rng):
    """Positions of up to ``n`` images: first one of each class, rare classes first, then others with boxes."""
    order = rng.permutation(len(data.image_ids))
    counts = np.bincount(data.image, minlength=len(order))
    has = np.unique(np.stack([data.category, data.image], 1), axis=0)
    chosen = []
    for category in sorted(np.unique(has[:, 0]), key=lambda c: (has[:, 0] == c).sum()):
        of_class = set(has[has[:, 0] == category, 1].tolist())
        if len(chosen) < n and not of_class & set(chosen):
            chosen.append(next(int(i) for i in order if i in of_class))
    rest = [int(i) for i in (*order[counts[order] > 0], *order[counts[order] == 0]) if i not in chosen]
    return (chosen + rest)[:n]


def _draw_sheet(figure, data, boxes, chosen, rows, columns):
    names, colors = _names(data), _colors(data)
    grid = figure.subplots(max(1, rows), columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, i in zip(grid.flat, chosen):
        mine = np.flatnonzero((data.image == i) & np.isfinite(boxes).all(1))
        x, y, w, h = boxes[mine].T
        # Many names would hide the image; the colours are those of the class histogram.
        labels = [names[c] if len(mine) <= MOST_NAMED else "" for c in data.category[mine]]
        paints = [colors[names[c]] for c in data.category[mine]]
        title = printable(data.image_names[i], 26)
        try:
            image, scale = _small_image(data, i)
            corners = np.stack([x, y, x + w, y + h], 1) * scale
            axes.imshow(np.asarray(draw_boxes(image, corners, labels, colors=paints)))
        except UserError:
            axes.text(0.5, 0.5, "cannot be read", transform=axes.transAxes, ha="center", va="center", color="#c0392b")
        axes.set_title(f"{title}  ({len(mine)})", fontsize=8, color=INK, parse_math=False)


def _small_image(data, i):
    """The image as large as the sheet shows it, and by how much it was scaled: names drawn on it stay readable."""
    if leaves_folder(data.image_names[i]):
        raise UserError("the name leads out of the folder.")
    image = open_image(data.folder / data.image_names[i])
    scale = _SIDE / max(image.size)
    size = [max(1, round(side * scale)) for side in image.size]
    return image.resize(size, Image.Resampling.LANCZOS), scale
