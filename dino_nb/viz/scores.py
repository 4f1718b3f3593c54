"""An evaluation to look at: precision and recall, classes, the cost of errors, the worst images, confused classes."""

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from dino_nb import fonts
from dino_nb.draw import class_colors
from dino_nb.errors import UserError, did_you_mean, printable
from dino_nb.evaluation.analysis import KINDS, Analysis
from dino_nb.evaluation.drawing import beside, crop
from dino_nb.evaluation.evaluate import EvalResult
from dino_nb.sheet import grid

if TYPE_CHECKING:
    from ipywidgets import interactive
    from matplotlib.figure import Figure

SHOWN_CLASSES = 20
_NAMED_CURVES = 8  # more colours than this cannot be told apart in one plot


def evaluation_figure(result: EvalResult, errors: Analysis | None = None) -> "Figure":
    """Precision over recall, AP of the classes, and what each kind of error costs, as one ``matplotlib`` figure.

    Args:
        result: what ``dino_nb.evaluate`` returned.
        errors: default: the result's own ``analysis``.
    """
    from matplotlib import pyplot as plt

    rows = [{**row, "index": i} for i, row in enumerate(result.per_class) if row["AP"] >= 0]
    if not rows:
        raise UserError("the split has no annotations, so there are no scores to draw.")
    family = fonts.families([row["name"] for row in rows])
    with plt.rc_context({"font.family": family, "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(1, 3, figsize=(14.4, 4.2), layout="constrained", facecolor="white")
        _draw_curves(axes[0], result, rows)
        _draw_classes(axes[1], rows)
        _draw_errors(axes[2], errors or result.analysis)
    plt.close(figure)  # a notebook shows what a cell returns; open figures would be shown twice
    return figure


def worst_images(
    result: EvalResult, errors: Analysis | None = None, n: int = 4, width: int = 1100
) -> Image.Image | None:
    """A sheet of the images with the most errors: ground truth dashed on the left, detections on the right.

    Args:
        result: what ``dino_nb.evaluate`` returned.
        errors: its threshold decides which detections are drawn. Default: the result's own ``analysis``.
        n: images at most; those without an error never come in.

    Returns:
        PIL image, or None if no image has an error.
    """
    errors = errors or result.analysis
    sides: list[Image.Image] = []
    titles: list[str] = []
    for image_id in errors.worst(n):
        sides += beside(result, image_id, errors.threshold)
        count = errors.images[image_id]
        titles += [f"{result.path(image_id).name}: ground truth", f"{count['missed']} missed, {count['wrong']} wrong"]
    return grid(sides, columns=2, titles=titles, width=width) if sides else None


def confused(
    result: EvalResult, object: str, found: str = "background", n: int = 12, width: int = 1000
) -> Image.Image | None:
    """Crops of objects of one class that were found as another (dashed: the object, solid: the detection).

    ``object`` and ``found`` are class names; ``background`` for an object that was missed, or a detection of nothing.
    Returns None where that never happened.
    """
    names = [row["name"] for row in result.per_class] + ["background"]
    for name in (object, found):
        if name not in names:
            raise UserError(f"there is no class {name!r}.{did_you_mean(name, names)}")
    pairs = result.analysis.cell(names.index(object), names.index(found))[:n].tolist()
    return grid([crop(result, a, b, 240) for a, b in pairs], columns=6, width=width) if pairs else None


def pick_confused(result: EvalResult) -> "interactive":
    """Two lists of classes, and below them the crops that :func:`confused` gives: for a notebook."""
    from IPython.display import display
    from ipywidgets import interactive

    names = [row["name"] for row in result.per_class] + ["background"]
    k = len(names)
    wrong = result.analysis.confusion * (1 - np.eye(k, dtype=int))
    first = divmod(int(wrong.argmax()), k)  # the most frequent mistake

    def show(object: str, found: str) -> None:
        display(confused(result, object, found) or "this never happened")

    lists = [[(name, name), *((n, n) for n in names if n != name)] for name in (names[i] for i in first)]
    return interactive(show, object=lists[0], found=lists[1])


def _draw_curves(axis, result, rows):
    recall = np.linspace(0, 1, 101)
    precision = result.scores.precision[0]
    colors = class_colors([row["name"] for row in rows])
    named = len(rows) <= _NAMED_CURVES
    for row in rows:
        curve = axis.plot(recall, precision[:, row["index"]], color=colors[row["name"]] if named else "#bbb")[0]
        if named:
            curve.set_label(printable(row["name"], 24).lstrip("_"))  # matplotlib leaves out names that begin with _
    mean = precision[:, [row["index"] for row in rows]].mean(1)
    axis.plot(recall, mean, color="#22303c", lw=2.5, label="mean")
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title="Precision over recall at IoU 0.5")
    for text in axis.legend(loc="lower left", frameon=False).get_texts():
        text.set_parse_math(False)  # a class may be called $5


def _draw_classes(axis, rows):
    shown = sorted(rows, key=lambda row: row["AP"])
    if len(shown) > SHOWN_CLASSES:  # the two ends say most
        shown = shown[: SHOWN_CLASSES // 2] + shown[-SHOWN_CLASSES // 2 :]
    places = range(len(shown))
    axis.barh(places, [row["AP50"] for row in shown], color="#c7dcea", label="AP50")
    axis.barh(places, [row["AP"] for row in shown], color="#4c8bb8", height=0.5, label="AP")
    axis.set_yticks(places, [f"{printable(row['name'], 24)} ({row['objects']:,})" for row in shown], parse_math=False)
    which = "" if len(shown) == len(rows) else f", worst and best {SHOWN_CLASSES // 2} of {len(rows)}"
    axis.set(xlim=(0, 1), title=f"Classes (objects){which}")
    axis.legend(loc="lower right")


def _draw_errors(axis, errors):
    kinds = list(KINDS)[::-1]
    axis.barh(range(len(kinds)), [errors.cost[kind] for kind in kinds], color="#D55E00")
    for place, kind in enumerate(kinds):
        axis.text(errors.cost[kind], place, f"  {errors.counts[kind]:,}", va="center")
    axis.set_yticks(range(len(kinds)), [f"{kind}\n{KINDS[kind][1]}" for kind in kinds])
    axis.set(title="What each kind of error costs", xlabel=f"AP50 lost (number from score {errors.threshold:.2f})")
    axis.set_xlim(0, max(0.05, 1.2 * max(errors.cost.values())))
