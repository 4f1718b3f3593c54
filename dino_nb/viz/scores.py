"""An evaluation to look at: precision and recall, classes, the cost of each kind of error, the worst pictures."""

from collections import defaultdict

import numpy as np

from dino_nb.data.images import open_image
from dino_nb.draw import class_colors, draw_boxes
from dino_nb.errors import UserError
from dino_nb.evaluation.errors import KINDS, analyse_errors
from dino_nb.prepare.findings import printable
from dino_nb.viz.sheet import grid

SHOWN_CLASSES = 20
_NAMED_CURVES = 8  # more colours than this cannot be told apart in one plot
_DRAWN_AT = 600  # pixels of the long side at least, so that names can be read
_STYLE = {"font.family": "DejaVu Sans", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
_MEANING = {
    "missed": "not found at all",
    "confused": "good box, wrong class",
    "localisation": "right class, loose box",
    "both": "wrong class, loose box",
    "duplicate": "found twice",
    "background": "nothing there",
}


def evaluation_figure(result, errors=None):
    """Precision over recall, AP of the classes, and what each kind of error costs, as one ``matplotlib`` figure.

    Args:
        result: what ``dino_nb.evaluate`` returned.
        errors: what ``analyse_errors`` returned; None leaves out the third panel.
    """
    from matplotlib import pyplot as plt

    rows = _scored(result)
    with plt.rc_context(
        {"font.family": "DejaVu Sans", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    ):
        panels = 2 + (errors is not None)
        figure, axes = plt.subplots(1, panels, figsize=(4.8 * panels, 4.2), layout="constrained", facecolor="white")
        _draw_curves(axes[0], result, rows)
        _draw_classes(axes[1], rows)
        if errors is not None:
            _draw_errors(axes[2], errors)
    plt.close(figure)  # a notebook shows what a cell returns; open figures would be shown twice
    return figure


def worst_pictures(result, errors=None, n=4, width=1100):
    """A sheet of the pictures with the most errors: truth dashed, detections solid with their scores.

    Args:
        result: what ``dino_nb.evaluate`` returned.
        errors: what ``analyse_errors`` returned; its threshold decides which detections are drawn. Made if None.
        n: pictures at most; those without an error never come in.

    Returns:
        PIL picture, or None if no picture has an error.
    """
    coco = result.dataset.coco()
    errors = errors or analyse_errors(coco, result.results, result.image_ids)
    chosen = errors.worst(n)
    if not chosen:
        return None
    names = {c["id"]: c["name"] for c in result.dataset.categories}
    colors = class_colors(list(names.values()))
    found = defaultdict(list)
    for record in result.results:
        if record["score"] >= errors.threshold:
            found[record["image_id"]].append(record)
    position = {image_id: i for i, image_id in enumerate(result.image_ids)}
    pictures = []
    for image_id in chosen:
        picture = open_image(result.dataset.path(position[image_id]))
        factor = max(1.0, _DRAWN_AT / max(picture.size))
        picture = picture.resize([round(side * factor) for side in picture.size])
        picture = _draw(picture, factor, coco.imgToAnns[image_id], names, colors, line="dashed")
        pictures.append(_draw(picture, factor, found[image_id], names, colors))
    titles = [_title(result.dataset.file_names[position[i]], errors.images[i]) for i in chosen]
    return grid(pictures, columns=2, titles=titles, width=width)


def _draw(picture, factor, records, names, colors, line="solid"):
    boxes = np.array([r["bbox"] for r in records], np.float64).reshape(-1, 4) * factor
    boxes[:, 2:] += boxes[:, :2]
    labels = [names[r["category_id"]] for r in records]
    if line == "dashed":  # names stand on the detections; of the truth the colour is enough
        return draw_boxes(picture, boxes, colors=[colors[name] for name in labels], line=line)
    return draw_boxes(picture, boxes, labels, [r["score"] for r in records], colors)


def _title(file_name, counts):
    return f"{file_name}: " + ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])


def _scored(result):
    rows = [{**row, "index": i} for i, row in enumerate(result.per_class) if row["AP"] >= 0]
    if not rows:
        raise UserError("the split has no annotations, so there are no scores to draw.")
    return rows


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
    kinds = KINDS[::-1]
    axis.barh(range(len(kinds)), [errors.cost[kind] for kind in kinds], color="#D55E00")
    for place, kind in enumerate(kinds):
        axis.text(errors.cost[kind], place, f"  {errors.counts[kind]:,}", va="center")
    axis.set_yticks(range(len(kinds)), [f"{kind}\n{_MEANING[kind]}" for kind in kinds])
    axis.set(title="What each kind of error costs", xlabel=f"AP50 lost (number from score {errors.threshold:g})")
    axis.set_xlim(0, max(0.05, 1.2 * max(errors.cost.values())))
