"""How many planted label errors the list of suspicious labels finds, and how much of the list is planted.

    python -m tests.benchmarks.label_errors COCODIR CHECKPOINT [--split val] [--results results.json]

A twentieth of the objects gets another class, another twentieth loses its box; the rest stays as it is, with the
mistakes that real labels have: what the list names of those counts as wrong here, so that precision is a lower bound.
"""

import argparse

import numpy as np

import dino_nb
from dino_nb.data.coco_file import to_pycocotools
from dino_nb.evaluation.analysis import analyse_errors
from dino_nb.evaluation.compare import _result

SHARE = 0.05


def plant(data, rng):
    """``data`` with planted errors, ids of objects with another class, and boxes that were dropped."""
    annotations = [dict(a) for a in data["annotations"] if not a["iscrowd"]]
    order = rng.permutation(len(annotations))
    n = max(1, round(SHARE * len(annotations)))
    ids = [c["id"] for c in data["categories"]]
    wrong = {int(i) for i in order[:n]}
    dropped = {int(i) for i in order[n : 2 * n]}
    for i in wrong:
        annotations[i]["category_id"] = rng.choice([c for c in ids if c != annotations[i]["category_id"]]).item()
    kept = [a for i, a in enumerate(annotations) if i not in dropped]
    return {**data, "annotations": kept}, {annotations[i]["id"] for i in wrong}, [annotations[i] for i in dropped]


def hits(analysis, wrong, dropped):
    """``{kind: bool of each candidate, best first}``: whether it was planted."""
    from pycocotools.mask import iou

    found = {"wrong class": [], "missing box": []}
    free = {id(a) for a in dropped}
    for candidate in analysis.label_errors:
        if candidate["kind"] == "wrong class":
            found["wrong class"].append(analysis.scores.annotations[candidate["object"]]["id"] in wrong)
        elif candidate["kind"] == "missing box":
            row = analysis.scores.found[candidate["detection"]]
            right = [
                a
                for a in dropped
                if id(a) in free and a["image_id"] == row["image_id"] and iou([a["bbox"]], [row["bbox"]], [0]) >= 0.5
            ]
            free -= {id(a) for a in right[:1]}
            found["missing box"].append(bool(right))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cocodir")
    parser.add_argument("checkpoint")
    parser.add_argument("--split", default="val")
    parser.add_argument("--results", help="detections of an earlier evaluation of the checkpoint")
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    if args.results:
        result = _result(args.results, args.cocodir, args.split, {})
    else:
        result = dino_nb.evaluate(args.cocodir, args.checkpoint, split=args.split)
    data = result.dataset.coco().dataset
    print(f"AP {result.metrics['AP']:.3f}, {len(data['annotations']):,} objects, {len(result.image_ids)} images")
    table = {}
    for seed in range(args.seeds):
        planted, wrong, dropped = plant(data, np.random.default_rng(seed))
        analysis = analyse_errors(to_pycocotools(planted), result.scores.found)
        for kind, right in hits(analysis, wrong, dropped).items():
            n = len(wrong)
            first = sum(right[:n])
            row = (n, len(right), sum(right) / n, sum(right) / max(1, len(right)), first / n)
            table.setdefault(kind, []).append(row)
    print("kind, planted, listed, recall of the list, precision of the list, recall = precision of its first n")
    for kind, rows in table.items():
        print(kind, *(f"{v:.2f}" for v in np.mean(rows, 0)))


if __name__ == "__main__":
    main()
