"""An evaluation as text, HTML and JSON."""

import html
import json
from pathlib import Path

from dino_nb.files import write_text
from dino_nb.prepare.findings import printable
from dino_nb.version import __version__

_MEANING = {
    "AP": "IoU 0.50:0.95",
    "AP50": "IoU 0.50",
    "AP75": "IoU 0.75",
    "APs": "small objects, below 32 x 32 pixels",
    "APm": "medium objects, up to 96 x 96",
    "APl": "large objects",
    "AR1": "recall, 1 detection a picture and class",
    "AR10": "recall, 10 detections",
    "AR100": "recall, 100 detections",
    "ARs": "recall, small objects",
    "ARm": "recall, medium objects",
    "ARl": "recall, large objects",
}
_COLUMNS = ("images", "objects", "AP", "AP50", "AP75", "AR100")


def to_dict(result):
    """The report as plain dicts, lists, strings and numbers; undefined numbers are -1, as in COCO's own tools."""
    match = result.match
    return {
        "version": __version__,
        "data": {
            "folder": str(result.dataset.image_dir.parent),
            "split": result.dataset.split,
            "images": len(result.image_ids),
            "objects": _objects(result),
            "classes": len(result.per_class),
        },
        "metrics": result.metrics,
        "per_class": [{**row, "matched": row["id"] in match.label_of} for row in result.per_class],
        "AP_of_matched_classes": _matched_ap(result),
        "classes": {
            "matched": match.how,
            "not_known_to_the_model": match.missing,
            "known_to_the_model_only": match.unused,
        },
        "detections": len(result.results),
        "seconds": round(result.seconds, 3),
        "images_per_second": round(result.images_per_second, 3),
        "scored_by": result.scores.library,
        **result.settings,
    }


def to_text(result):
    """The report for a terminal."""
    lines = [*_head(result), ""]
    if _objects(result):
        lines += [f"{name:6}{_number(value):>7}  {_MEANING[name]}" for name, value in result.metrics.items()]
        lines += ["", *_class_table(result), "", *_notes(result)]
    else:
        lines += [*_notes(result), "There are no annotations, so nothing was scored."]
    return "\n".join(lines)


def to_html(result):
    """The report as an HTML fragment; names of classes and files are escaped."""
    rows = [
        f"<tr><td><b>{name}</b></td><td style='text-align:right'>{_number(value)}</td>"
        f"<td style='text-align:left'>{_MEANING[name]}</td></tr>"
        for name, value in result.metrics.items()
    ]
    heads = "".join(f"<th>{h}</th>" for h in ("class", *_COLUMNS))
    classes = [
        f"<tr><td style='text-align:left'>{html.escape(printable(_class_name(result, row), 60))}</td>"
        + "".join(f"<td style='text-align:right'>{_cell(row[c])}</td>" for c in _COLUMNS)
        + "</tr>"
        for row in result.per_class
    ]
    text = "<br>".join(html.escape(line) for line in [*_head(result), *_notes(result)])
    if not _objects(result):
        return f"<div>{text}<br>There are no annotations, so nothing was scored.</div>"
    return (
        f"<div>{text}<table><tbody>{''.join(rows)}</tbody></table>"
        f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(classes)}</tbody></table></div>"
    )


def write(result, folder):
    """Write ``results.json`` and ``report.{txt,html,json}`` to ``folder``, each atomically."""
    folder = Path(folder)
    result.output_dir = folder
    write_text(folder / "results.json", json.dumps(result.results))
    write_text(folder / "report.json", json.dumps(to_dict(result), indent=2))
    write_text(folder / "report.txt", to_text(result) + "\n")
    title = html.escape(f"Evaluation: {result.dataset.split}")
    head = f'<!doctype html><meta charset="utf-8"><title>{title}</title><style>body{{font-family:sans-serif}}</style>'
    write_text(folder / "report.html", head + to_html(result))


def _head(result):
    settings, data = result.settings, result.dataset
    size = " / ".join(map(str, settings["input_size"]))
    return [
        printable(f"{data.image_dir}: {len(result.image_ids):,} pictures, {_objects(result):,} objects", 300),
        printable(f"{settings['checkpoint']} on {settings['device']}, pictures resized to {size}", 300),
    ]


def _notes(result):
    lines = [printable(line, 1000) for line in str(result.match).split("\n")]
    if result.match.missing and _matched_ap(result) >= 0:
        lines.append(f"AP of the matched classes alone: {_number(_matched_ap(result))}")
    lines.append(
        f"{len(result.results):,} detections in {result.seconds:.1f} s, {result.images_per_second:.2f} images/s "
        f"(reading and network); scored by {result.scores.library}"
    )
    if result.output_dir is not None:
        lines.append(f"written to {printable(result.output_dir, 300)}: results.json and report.txt, .html, .json")
    return lines


def _class_table(result):
    names = [printable(_class_name(result, row), 40) for row in result.per_class]
    width = max(map(len, ["class", *names]))
    lines = ["class".ljust(width) + "".join(f"{c:>9}" for c in _COLUMNS)]
    for name, row in zip(names, result.per_class):
        lines.append(name.ljust(width) + "".join(f"{_cell(row[c]):>9}" for c in _COLUMNS))
    return lines


def _class_name(result, row):
    return row["name"] + ("" if row["id"] in result.match.label_of else " (not known)")


def _cell(value):
    return _number(value) if isinstance(value, float) else f"{value:,}"


def _number(value):
    return "-" if value < 0 else f"{value:.3f}"


def _objects(result):
    return sum(row["objects"] for row in result.per_class)


def _matched_ap(result):
    values = [row["AP"] for row in result.per_class if row["id"] in result.match.label_of and row["AP"] >= 0]
    return sum(values) / len(values) if values else -1.0
