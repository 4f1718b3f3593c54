"""A data set at a glance: its classes, how many boxes, their sizes and shapes, and some images with their boxes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dino_nb import fonts
from dino_nb.data.images import open_image
from dino_nb.draw import class_colors, draw_boxes
from dino_nb.errors import UserError, printable
from dino_nb.files import leaves_folder
from dino_nb.prepare.check import read_splits
from dino_nb.prepare.check_images import Folder, known_sizes, look_at_images
from dino_nb.prepare.findings import Findings
from dino_nb.prepare.layout import guess_layout, to_xywh
from dino_nb.printer import counted
from dino_nb.viz.judged import reduced

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT, BAR, LINES, REST = "#22303c", "#8a97a3", "#4c8bb8", "#e8ecef", "#c3ccd4"
COCO_SIDES = (32, 96)  # pixels: where COCO's small and medium objects end, as square roots of their areas
SHOWN_CLASSES = 20
MOST_NAMED = 12  # boxes of one image
_COLUMNS, _SIDE = 6, 340  # images per row of the contact sheet, and the pixels of each


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
    names = [printable(name, 28) for name in data.categories.values()]
    colors = class_colors(names)
    paints = [colors[name] for name in names]
    boxes, sizes = _boxes(data)
    usable = boxes[np.isfinite(boxes).all(1) & (boxes[:, 2:] > 0).all(1)]
    chosen = _choose(data, images, np.random.default_rng(seed))
    height = 2.35 * -(-len(chosen) // _COLUMNS)
    style: Any = {"font.family": fonts.families(names), "font.size": 9, "text.color": INK, "axes.labelcolor": INK}
    with plt.rc_context(style):
        figure = plt.figure(figsize=(15, 7 + height), layout="constrained", facecolor="white")
        halves: Any = figure.subfigures(2, 1, height_ratios=(6.4, max(0.3, height)))
        left, right = halves[0].subfigures(1, 2, width_ratios=(1, 2))
        _draw_classes(left.subplots(), np.bincount(data.category, minlength=len(names)), names, paints)
        (counts, areas), (shapes, extents) = right.subplots(2, 2)
        _draw_counts(counts, np.bincount(data.image, minlength=len(data.image_ids)))
        _draw_areas(areas, np.sqrt(usable[:, 2:].prod(1)))
        _draw_shapes(shapes, np.log2(usable[:, 2] / usable[:, 3]))
        _draw_extents(extents, boxes[:, 2:] / sizes, [paints[c] for c in data.category])
        _draw_sheet(halves[1], data, boxes, chosen, names, paints)
        parts = (len(data.image_ids), "image"), (len(data.rows), "box", "boxes")
        told = ", ".join(counted(*part) for part in (*parts, (len(set(data.category.tolist())), "class", "classes")))
        figure.suptitle(f"{data.name}: {told}", fontsize=14, fontweight="bold", x=0.008, ha="left")
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


def _style(axes, title, x, y, along="y"):
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(REST)
    axes.tick_params(colors=INK, length=3)
    axes.set_axisbelow(True)
    axes.grid(axis=along, color=LINES)


def _histogram(axes, values, edges):
    """Whether there is anything to draw."""
    if len(values):
        axes.hist(values, edges, color=BAR, edgecolor="white", linewidth=0.6)
        axes.yaxis.get_major_locator().set_params(integer=True)
    else:
        _note(axes, 0.5, 0.5, "no boxes")
    return len(values) > 0


def _note(axes, x, y, text, color=FAINT):
    side = "left" if x < 0.1 else "right" if x > 0.9 else "center"
    axes.text(x, y, text, transform=axes.transAxes, ha=side, va="top" if y > 0.9 else "center", color=color)


def _draw_classes(axes, counts, names, paints):
    order = np.argsort(-counts, kind="stable")
    shown, rest = order[:SHOWN_CLASSES], order[SHOWN_CLASSES:]
    bars = [(names[i], int(counts[i]), paints[i]) for i in shown]
    bars += [(f"{len(rest)} more classes", int(counts[rest].sum()), REST)] if len(rest) else []
    labels, values, colors = zip(*bars) if bars else ((), (), ())
    at = np.arange(len(bars))
    axes.barh(at, values, color=colors, height=0.72)
    _style(axes, "Boxes of each class", "boxes", "", "x")
    axes.set_yticks(at, labels, parse_math=False)
    axes.set_ylim(max(len(bars), 5) - 0.4, -0.6)
    for y, value in zip(at, values):
        share = value / max(1, sum(values))
        axes.text(value, y, f" {value:,} ({share:.0%})", va="center", fontsize=8, color=INK)
    axes.set_xlim(0, max([1, *values]) * 1.28)
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=5)


def _draw_counts(axes, counts):
    _style(axes, "Boxes per image", "boxes", "images")
    width = max(1, -(-int(counts.max()) // 40))
    _histogram(axes, counts, np.arange(0, counts.max() + width + 1, width) - 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.3)
    told = f"median {np.median(counts):g}, most {counts.max():,}\n{(counts == 0).sum():,} without any"
    _note(axes, 0.98, 0.96, told)


def _draw_areas(axes, sides):
    _style(axes, "Sizes, and what COCO calls them", "square root of the area, pixels", "boxes", "both")
    axes.grid(False)
    low, high = 0.8 * sides.min(initial=20.0), 1.25 * sides.max(initial=140.0)
    if not _histogram(axes, sides, np.geomspace(low, high, 41)):
        return
    axes.set_xscale("log")
    limits = [low, *COCO_SIDES, high]
    shares = np.histogram(sides, [0, *COCO_SIDES, np.inf])[0] / len(sides)
    for name, shade, start, end, share in zip(
        ("small", "medium", "large"), ("#fbe9d7", "#fdf6df", "#e6f2ea"), limits, limits[1:], shares
    ):
        axes.axvspan(start, end, color=shade, lw=0, zorder=0)
        told, where = f"{name}\n{share:.0%}", axes.get_xaxis_transform()
        axes.text(np.sqrt(start * end), 0.97, told, transform=where, ha="center", va="top")
    axes.set_xlim(low, high)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.3)
    ticks = [t for t in (1, 2, 4, 8, 16, 32, 96, 256, 512, 1024, 2048, 4096) if low <= t <= high]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()


def _draw_shapes(axes, ratios):
    _style(axes, "Shapes", "width : height", "boxes")
    edge = float(np.clip(np.abs(ratios).max(initial=0) * 1.05, 1.2, 6))
    if not _histogram(axes, np.clip(ratios, -edge, edge), np.linspace(-edge, edge, 42)):
        return
    ticks = np.arange(-int(edge), int(edge) + 1)
    axes.set_xticks(ticks, [f"{2**t}:1" if t >= 0 else f"1:{2**-t}" for t in ticks.tolist()])
    axes.axvline(0, color=INK, lw=0.8, ls=":")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.15)
    _note(axes, 0.02, 0.96, f"taller than wide: {np.mean(ratios < 0):.0%}")


def _draw_extents(axes, shares, paints):
    """Width against height as shares of the image: labels of the whole image sit in the corner at the top."""
    _style(axes, "Width and height", "share of the image's width", "share of its height", "both")
    drawn = np.flatnonzero(np.isfinite(shares).all(1) & (shares > 0).all(1))
    width, height = np.clip(shares[drawn], 0, 1).T
    if not len(drawn):
        return _note(axes, 0.5, 0.5, "no boxes")
    if len(drawn) <= 3000:
        axes.scatter(width, height, s=9, c=[paints[i] for i in drawn], alpha=0.55, linewidths=0)
    else:
        axes.hexbin(width, height, gridsize=36, bins="log", cmap="Blues", mincnt=1, extent=(0, 1, 0, 1))
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)


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


def _draw_sheet(figure, data, boxes, chosen, names, paints):
    grid = figure.subplots(max(1, -(-len(chosen) // _COLUMNS)), _COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, i in zip(grid.flat, chosen):
        name = data.image_names[i]
        mine = np.flatnonzero((data.image == i) & np.isfinite(boxes).all(1))
        corners = np.concatenate([boxes[mine, :2], boxes[mine, :2] + boxes[mine, 2:]], 1)
        of = data.category[mine]
        # many names would hide the image; the colours are those of the class histogram
        labels = [names[c] for c in of] if len(mine) <= MOST_NAMED else None
        try:
            if leaves_folder(name):
                raise UserError("the name leads out of the folder.")
            image, scale = reduced(open_image(data.folder / name), _SIDE)  # as it is shown: names stay readable
            axes.imshow(np.asarray(draw_boxes(image, corners * scale, labels, colors=[paints[c] for c in of])))
        except UserError:
            _note(axes, 0.5, 0.5, "cannot be read", "#c0392b")
        axes.set_title(f"{printable(name, 26)}  ({len(mine)})", fontsize=8, color=INK, parse_math=False)
