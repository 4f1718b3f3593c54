"""Annotations that may be wrong: as a table, and as files to correct in a labelling tool."""

from pathlib import Path
from typing import Any

from dino_nb.errors import UserError, did_you_mean, disk_errors
from dino_nb.prepare.export import FORMATS, place_images
from dino_nb.prepare.folders import new_folder
from dino_nb.prepare.formats.write import write

_QUESTIONS = {"wrong class": "{annotated}, or {found}?", "missing box": "no {found}?", "loose box": "{annotated} here?"}


def label_rows(result: Any) -> list[dict[str, Any]]:
    """Labels to check of an ``EvalResult``, most certain first: image, kind, classes, annotation, the box found."""
    scores, names, rows = result.scores, [row["name"] for row in result.per_class], []
    for c in result.analysis.label_errors:
        found, about = scores.found[c["detection"]], c["object"]
        label = names[scores.found.category_ids.index(found["category_id"])]
        known = {"annotated": "" if about is None else names[int(scores.truth[about, 6])], "found": label}
        file = result.path(found["image_id"]).relative_to(result.dataset.image_dir)
        row = {"file": file.as_posix(), "image_id": found["image_id"], "kind": c["kind"]}
        row |= {"question": _QUESTIONS[c["kind"]].format(**known), "certainty": c["certainty"], **known}
        row |= {"annotation_id": None if about is None else scores.annotations[about]["id"]}
        row |= {"category_id": found["category_id"], "score": found["score"]}
        rows.append(row | dict(zip(("x", "y", "width", "height"), found["bbox"])))
    return rows


def labels_to_check(result: Any) -> dict[str, Any]:
    """A COCO file of the images with suspicious labels, to correct in a labelling tool and bring back by ``convert``.

    Annotations are as they were, with a ``suspicion``; boxes that seem to be missing are added (to be deleted if not).
    """
    rows = label_rows(result)
    data, chosen = result.dataset.coco().dataset, {row["image_id"] for row in rows}
    about = {row["annotation_id"]: row["question"] for row in reversed(rows)}
    kept = [a for a in data["annotations"] if a["image_id"] in chosen]
    kept = [{**a, "suspicion": about[a["id"]]} if a["id"] in about else a for a in kept]
    number = max([a["id"] for a in data["annotations"] if isinstance(a["id"], int)], default=0)
    for n, row in enumerate((r for r in rows if r["kind"] == "missing box"), number + 1):
        box = [row[k] for k in ("x", "y", "width", "height")]
        new = {"id": n, "image_id": row["image_id"], "category_id": row["category_id"], "bbox": box, "iscrowd": 0}
        kept.append({**new, "area": box[2] * box[3], "suspicion": f"missing box, score {row['score']:.2f}"})
    images = [image for image in data["images"] if image["id"] in chosen]
    return {"images": images, "annotations": kept, "categories": data["categories"]}


@disk_errors()
def write_labels(result: Any, folder: str | Path, format: str = "labelme") -> Path:
    """Write :func:`labels_to_check` with its images (as hard links where possible) to the new ``folder``.

    ``format``: ``labelme``, ``yolo``, ``voc`` or ``cvat``; none of them has crowd boxes.
    """
    if format not in FORMATS:
        raise UserError(f"labels are written as {', '.join(FORMATS)}, not {format!r}.{did_you_mean(format, FORMATS)}")
    data, split = labels_to_check(result), result.dataset.split
    if not data["images"]:
        raise UserError("no label looks wrong, so there are none to write.")
    classes = {name: i for i, name in enumerate(dict.fromkeys(str(c["name"]) for c in data["categories"]))}
    with new_folder(folder) as root:
        images = place_images(root, format, split, result.dataset.image_dir, data, classes, set(), "hard")
        write(root, format, list(classes), {split: images})
    return Path(folder)
