"""An evaluation as text, HTML, JSON and tables: numbers first, then threshold, classes, errors, labels, images."""

import csv
import io
import json
import platform
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dino_nb.charts import COLORS, Bars, Curves, Images, Matrix, Section
from dino_nb.errors import UserError, did_you_mean, disk_errors, printable
from dino_nb.evaluation.analysis import KINDS
from dino_nb.evaluation.coco import METRICS
from dino_nb.evaluation.drawing import crop, draw_found
from dino_nb.evaluation.labels import label_rows, labels_to_check
from dino_nb.evaluation.stream import write_results
from dino_nb.files import write_text
from dino_nb.printer import Block, Lines, Printed, Table, counted, to_page, to_text
from dino_nb.version import __version__

_COLUMNS = ("images", "objects", "AP", "AP50", "AP75", "AR100")
_RATES = ("precision", "recall", "f1")
_NOTHING = "There are no annotations, so nothing was scored."
_CLASSES, _CELLS, _CROPS, _LABELS, _WORST = 20, 12, 6, 24, 6  # shown at most, which bounds the size of the page


class Part(Printed):
    """A piece of the report, to print or to show in a notebook."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._blocks = list(blocks)

    def blocks(self) -> list[Block]:
        return self._blocks


def part(result: Any, name: str) -> Part:
    """One of ``PARTS``."""
    if name not in PARTS:
        raise UserError(f"the report has no part {name!r}.{did_you_mean(name, PARTS)} It has {', '.join(PARTS)}.")
    return Part(PARTS[name](result) if _objects(result) or name in _ALWAYS else [Lines([_NOTHING])])


def short(result: Any) -> list[Block]:
    """What an ``EvalResult`` prints: numbers and classes."""
    return [*numbers(result), *([_class_table(result)] if _objects(result) else [])]


def numbers(result: Any) -> list[Block]:
    """The 12 numbers, and how they came about."""
    settings, matched = result.settings, _matched_ap(result)
    size = " / ".join(map(str, settings.get("input_size", [])))
    lines = [
        f"{result.dataset.image_dir}: {counted(len(result.image_ids), 'image')}, {counted(_objects(result), 'object')}",
        f"{settings.get('checkpoint')} on {settings.get('device')}, images resized to {size}",
        *str(result.match).split("\n"),
    ]
    if result.match.missing and matched >= 0:
        lines.append(f"AP of the matched classes alone: {matched:.3f}")
    if published := settings.get("published"):
        differs = f"; measured with {', '.join(published['differs'])}" if published["differs"] else ""
        lines.append(f"published AP of {published['name']}: {published['AP']:.3f}{differs}")
    steps = ", ".join(f"{step} {ms:.1f}" for step, ms in (result.milliseconds or {}).items())
    rate = f"{result.images_per_second:.2f} images/s" + (f" (ms per image: {steps})" if steps else "")
    found = f"{len(result.scores.found):,} detections in {result.seconds:.1f} s"
    lines.append(f"{found}, {rate}; scored by {result.scores.library}")
    if result.output_dir is not None:
        lines.append(f"written to {result.output_dir}: results.json, report.html, .txt, .json, per_class.csv")
    if not _objects(result):
        return [Lines([*lines, _NOTHING])]
    return [Lines(lines), Table(("metric", "", ""), [(name, v, METRICS[name]) for name, v in result.metrics.items()])]


def threshold(result: Any) -> list[Block]:
    """Which score to cut at, and whether scores can be believed."""
    found = result.thresholds
    lines = [f"At {found.used:.3f}: precision {found.precision:.3f}, recall {found.recall:.3f}, F1 {found.f1:.3f}."]
    lines += [f"The best F1, {found.best_f1:.3f}, is at {found.best:.3f}."] if found.used != found.best else []
    named = {name: name.replace("f1", "F1") for name in _RATES}
    series = [(named[k], found.curves["score"], found.curves[k], color) for k, color in zip(_RATES, COLORS)]
    rows = [(r["name"], *(r[k] for k in (*_RATES, "threshold", "best_f1"))) for r in found.rows]
    heads = ("class", "precision", "recall", "F1", "own best threshold", "F1 there")
    certain, right = ([b[k] for b in found.reliability] for k in ("score", "right"))
    bins = [("found", certain, right, COLORS[1]), ("exact", [0, 1], [0, 1], "currentColor")]
    return [
        Lines(lines),
        Curves("All classes, over the threshold", series, "threshold (dashed: the one in use)", found.used),
        Table(heads, rows, 1000),
        Lines([found.calibration()]),
        Curves("Share of detections that are right, over the score", bins, "score"),
    ]


def classes(result: Any) -> list[Block]:
    """AP of the classes, and their curves of precision over recall."""
    order = [i for _, i in sorted((r["AP"], i) for i, r in enumerate(result.per_class) if r["objects"])]
    precision, recall = result.scores.precision[0], np.linspace(0, 1, 101).tolist()
    few = len(order) <= len(COLORS)
    named = order if few else order[:3] + order[-3:]
    series = [("", recall, precision[:, i].tolist(), "#8888") for i in order if i not in named]
    series += [(result.per_class[i]["name"], recall, precision[:, i].tolist(), c) for i, c in zip(named, COLORS)]
    series += [("mean", recall, precision[:, order].mean(1).tolist(), "currentColor")]
    title = f"Precision over recall at IoU 0.5{'' if few else ': worst and best three named'}"
    return [_class_table(result), Curves(title, series, "recall")]


def errors(result: Any) -> list[Block]:
    """Kinds of errors, and where the AP is low."""
    found = result.analysis
    told = f"Correct from score {found.threshold:.3f} on: {counted(found.counts['correct'], 'detection')}. Wrong ones:"
    bars = [
        (f"{kind}: {meaning}", found.cost[kind], f"{found.counts[kind]:,}, AP50 +{found.cost[kind]:.3f} without")
        for kind, (_, meaning) in KINDS.items()
    ]
    where = [tuple(row.values()) for row in found.where]
    return [Lines([told]), Bars(bars), Table(("AP by", "", "number", "AP", "AP50"), where)]


def confusion(result: Any) -> list[Block]:
    """Which classes are taken for which, and crops of the most frequent mistakes."""
    found = result.analysis
    counts, k = found.confusion, len(result.per_class)
    wrong = counts - np.diag(np.diag(counts))
    most = np.argsort(-(wrong.sum(0) + wrong.sum(1))[:k], kind="stable")[:_CLASSES]
    shown = [*np.sort(most).tolist(), k]
    names = [row["name"] for row in result.per_class] + ["background"]
    cells = [divmod(int(i), k + 1) for i in np.argsort(-wrong, axis=None, kind="stable")[:_CELLS]]
    cells = [(i, j) for i, j in cells if wrong[i, j] and i in shown and j in shown]
    links = {(shown.index(i), shown.index(j)): f"cell-{i}-{j}" for i, j in cells}
    which = f" The {_CLASSES} classes with the most mistakes of {k}." if k > _CLASSES else ""
    told = f"Rows: what is there; columns: what was found, from score {found.threshold:.3f} at IoU 0.5.{which}"
    labels = [names[i] for i in shown]
    blocks: list[Block] = [
        Lines([told, "Dashed: the object; solid: the detection."]),
        Matrix("object", labels, labels, counts[np.ix_(shown, shown)].tolist(), links),
    ]
    for i, j in cells:
        title = f"{names[i]} {'missed' if j == k else 'found as ' + names[j]} ({wrong[i, j]:,})"
        crops = [("", partial(crop, result, a, b, 110)) for a, b in found.cell(i, j)[:_CROPS].tolist()]
        blocks.append(Images(title, crops, 110, anchor=f"cell-{i}-{j}"))
    return blocks


def labels(result: Any) -> list[Block]:
    """Annotations that may be wrong, most certain first."""
    rows = label_rows(result)
    if not rows:
        return [Lines(["No label looks wrong."])]
    told = (
        f"{counted(len(rows), 'label')} to look at, in label_errors.csv and labels_to_check.json (COCO); "
        "save_labels(folder) writes them for LabelMe. Dashed: the label."
    )
    crops = []
    for row, c in zip(rows[:_LABELS], result.analysis.label_errors):
        about = -1 if c["object"] is None else c["object"]
        caption = f"{row['file']}: {row['question']} {row['certainty']:.2f}"
        crops.append((caption, partial(crop, result, about, c["detection"])))
    return [Lines([told]), Images("The most certain", crops, 160, True)]


def worst(result: Any) -> list[Block]:
    """The images with the most errors, ground truth beside detections."""
    found = result.analysis
    blocks: list[Block] = []
    for image_id in found.worst(_WORST):
        counts = ", ".join(f"{found.images[image_id][kind]} {kind}" for kind in ("missed", "wrong", "correct"))
        sides = [
            ("ground truth", partial(draw_found, result, image_id)),
            ("found", partial(draw_found, result, image_id, found.threshold)),
        ]
        blocks.append(Images(f"{result.path(image_id).name}: {counts}", sides, 440, True))
    return blocks or [Lines(["No image has an error."])]


def settings(result: Any) -> list[Block]:
    """What was measured with."""
    return [Table(("", ""), [(k, str(v)) for k, v in {**result.settings, **_versions()}.items()])]


PARTS = {
    **{"numbers": numbers, "threshold": threshold, "classes": classes, "errors": errors, "confusion": confusion},
    **{"labels": labels, "worst": worst, "settings": settings},
}
_ALWAYS = ("numbers", "settings")  # also where nothing is annotated
_TITLES = {"labels": "Labels to check", "worst": "Worst images", "confusion": "Confused classes"}


def sections(result: Any) -> list[Block]:
    """The whole report."""
    chosen = PARTS if _objects(result) else _ALWAYS
    return [Section(_TITLES.get(n, n.capitalize()), PARTS[n](result), n != "settings") for n in chosen]


def to_dict(result: Any) -> dict[str, Any]:
    """Every number of the report as plain values; undefined numbers are -1, as in COCO's own tools."""
    data, match, names = result.dataset, result.match, [row["name"] for row in result.per_class] + ["background"]
    report = {
        "version": __version__,
        "data": {
            **{"folder": str(data.image_dir.parent), "split": data.split, "images": len(result.image_ids)},
            **{"objects": _objects(result), "classes": len(result.per_class)},
        },
        "metrics": result.metrics,
        "per_class": _class_rows(result),
        "AP_of_matched_classes": _matched_ap(result),
        "classes": {
            "matched": match.how,
            "not_known_to_the_model": match.missing,
            "known_to_the_model_only": match.unused,
        },
        "detections": len(result.scores.found),
        "seconds": round(result.seconds, 3),
        "images_per_second": round(result.images_per_second, 3),
        "milliseconds_per_image": result.milliseconds,
        "scored_by": result.scores.library,
        "versions": _versions(),
        **result.settings,
    }
    if not _objects(result):
        return report
    found, thresholds = result.analysis, vars(result.thresholds)
    cells = [
        {"object": names[i], "found": names[j], "count": int(row[j]), "share": float(row[j] / row.sum())}
        for i, row in enumerate(found.confusion)
        for j in np.flatnonzero(row)
    ]
    return report | {
        "threshold": {k: thresholds[k] for k in ("used", *_RATES, "best", "best_f1", "curves")},
        "calibration": {"error": thresholds["calibration_error"], "bins": thresholds["reliability"]},
        "errors": {"counts": found.counts, "cost_in_AP50": found.cost, "AP50": found.ap50},
        "where": found.where,
        "confusion": cells,
        "label_errors": label_rows(result),
        "worst_images": [{"image_id": i, **found.images[i]} for i in found.worst(_WORST)],
    }


@disk_errors()
def write(result: Any, folder: str | Path) -> None:
    """Write results, report and tables to ``folder``, each atomically."""
    folder = Path(folder)
    result.output_dir = folder
    write_results(folder / "results.json", result.scores.found)
    write_text(folder / "report.json", json.dumps(to_dict(result), indent=1))
    write_text(folder / "report.txt", to_text(short(result)) + "\n")
    title = f"Evaluation of {Path(str(result.settings.get('checkpoint'))).name} on {result.dataset.split}"
    write_text(folder / "report.html", to_page(sections(result), title))
    write_text(folder / "per_class.csv", _csv(_class_rows(result)))
    if _objects(result):
        write_text(folder / "label_errors.csv", _csv(label_rows(result)))
        write_text(folder / "labels_to_check.json", json.dumps(labels_to_check(result)))


def _csv(rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["nothing"])
    writer.writeheader()
    writer.writerows({key: _tame(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _tame(value):
    """Text for a cell of a spreadsheet, which would run what begins like a formula; other values as they are."""
    text = printable(value, 200) if isinstance(value, str) else ""
    return value if not text else f"'{text}" if text[0] in "=+-@" else text


def _class_rows(result):
    own = ("threshold", "best_f1", *_RATES)
    rows = [{**row, "matched": row["id"] in result.match.label_of} for row in result.per_class]
    known = result.thresholds.rows if _objects(result) else []
    return [{**row, **{k: t[k] for k in own}} for row, t in zip(rows, known)] or rows


def _class_table(result):
    known = result.match.label_of
    names = [row["name"] + ("" if row["id"] in known else " (not known)") for row in result.per_class]
    rows = [(name, *(row[c] for c in _COLUMNS)) for name, row in zip(names, result.per_class)]
    return Table(("class", *_COLUMNS), rows, 1000)


def _versions():
    from hotcoco import __version__ as hotcoco

    return {"dino_nb": __version__, "torch": torch.__version__, "hotcoco": hotcoco, "python": platform.python_version()}


def _objects(result):
    return sum(row["objects"] for row in result.per_class)


def _matched_ap(result):
    values = [row["AP"] for row in result.per_class if row["id"] in result.match.label_of and row["AP"] >= 0]
    return sum(values) / len(values) if values else -1.0
