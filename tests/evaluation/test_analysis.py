"""One planted error of each kind is found, counted and costed; confusion, calibration, and suspicious labels."""

import numpy as np
import pytest

from dino_nb.data.coco_file import to_pycocotools
from dino_nb.evaluation.analysis import KINDS, analyse_errors
from dino_nb.evaluation.coco import evaluate_boxes, score
from tests.evaluation.test_coco import random_case

A, B = 0, 7  # category ids


def truth(*objects, images=(1, 2, 3)):
    """``objects``: (image, category, x) of 100-pixel squares; category "crowd" makes a crowd of A."""
    annotations = [
        {
            "id": i,
            "image_id": image,
            "category_id": A if category == "crowd" else category,
            "bbox": [x, 0, 100, 100],
            "area": 1e4,
            "iscrowd": int(category == "crowd"),
        }
        for i, (image, category, x) in enumerate(objects)
    ]
    categories = [{"id": A, "name": "a"}, {"id": B, "name": "b"}]
    images = [{"id": i, "file_name": str(i), "width": 640, "height": 480} for i in images]
    return to_pycocotools({"images": images, "categories": categories, "annotations": annotations})


def found(image, category, x, certain=0.9):
    return {"image_id": image, "category_id": category, "bbox": [x, 0, 100, 100], "score": certain}


OBJECTS = [(1, A, 0), (1, B, 1000), (2, A, 0), (2, B, 1000)]
RIGHT = [found(*o, 0.8) for o in OBJECTS]


def counts(analysis):
    return {kind: n for kind, n in analysis.counts.items() if n}


def test_analysis_of_no_errors():
    found = analyse_errors(truth(*OBJECTS), RIGHT)
    assert counts(found) == {"correct": 4} and found.ap50 == pytest.approx(1)
    assert set(found.cost) == set(KINDS) and not any(found.cost.values()) and found.worst() == []
    assert found.confusion.tolist() == [[2, 0, 0], [0, 2, 0], [0, 0, 0]] and not found.label_errors


@pytest.mark.parametrize(
    "kind, results, cost",
    [
        # precision 1 up to recall 1/2: 51 of 101 recalls, in one of two classes
        ("missed", RIGHT[:3], (1 - 51 / 101) / 2),
        ("confused", [*RIGHT[:3], found(2, A, 1010)], 1 - (51 / 101 + 2 / 3) / 2),
        ("localisation", [*RIGHT[:3], found(2, B, 1060)], 1 - (1 + 51 / 101 / 2) / 2),
        ("both", [*RIGHT, found(2, A, 1060)], 1 - (2 / 3 + 1) / 2),
        ("duplicate", [*RIGHT, found(2, B, 1010, 0.7)], 0),
        ("background", [*RIGHT, found(2, B, 5000)], 1 - (2 / 3 + 1) / 2),
    ],
)
def test_tide_counts_and_costs_one_of_each(kind, results, cost):
    analysis = analyse_errors(truth(*OBJECTS), results, threshold=0.3)
    assert counts(analysis) == {"correct": 3 if results[:4] != RIGHT else 4, kind: 1}
    assert analysis.worst() == [2] and analysis.images[1] == {"correct": 2, "wrong": 0, "missed": 0, "f1": 1}
    assert analysis.cost[kind] == pytest.approx(cost, abs=1e-9)
    assert f"{kind:13}      1" in str(analysis)


def test_analysis_takes_crowds_for_no_errors():
    crowd = truth(*OBJECTS, (3, "crowd", 0))
    analysis = analyse_errors(crowd, [*RIGHT, found(3, A, 10), found(3, A, 12)], threshold=0.3)
    assert counts(analysis) == {"correct": 4} and analysis.ap50 == pytest.approx(1)
    assert analysis.confusion.tolist() == [[2, 0, 0], [0, 2, 0], [0, 0, 0]] and not analysis.label_errors


def test_tide_counts_certain_detections_and_costs_all():
    results = [*RIGHT[:3], found(2, B, 1000, 0.1), found(3, B, 0, 0.2)]
    analysis = analyse_errors(truth(*OBJECTS), results, threshold=0.5)
    assert counts(analysis) == {"correct": 3, "missed": 1}
    assert analysis.cost["background"] > 0 and analysis.cost["missed"] == 0


def test_analysis_of_nothing_found_and_of_a_subset():
    coco = truth(*OBJECTS)
    analysis = analyse_errors(coco, [])
    assert counts(analysis) == {"missed": 4} and analysis.ap50 == 0
    assert analyse_errors(coco, RIGHT[:2], image_ids=[1]).ap50 == score(coco, RIGHT[:2], [1]).metrics["AP50"]
    assert list(analyse_errors(coco, RIGHT, image_ids=[2, 3]).images) == [2, 3]
    assert not counts(analyse_errors(truth(), [])) and analyse_errors(truth(), []).ap50 == -1


def test_confusion_by_hand_and_the_pairs_behind_it():
    results = [*RIGHT[:3], found(2, A, 1010, 0.7), found(3, B, 0, 0.6)]
    analysis = analyse_errors(truth(*OBJECTS, (3, A, 500)), results, threshold=0.3)
    assert analysis.confusion.tolist() == [[2, 0, 1], [1, 1, 0], [0, 1, 0]]  # B taken for A; A missed; B of nothing
    assert analysis.cell(1, 0).tolist() == [[3, 3]]
    assert analysis.cell(0, -1).tolist() == [[4, -1]] and analysis.cell(-1, 1).tolist() == [[-1, 4]]


@pytest.mark.parametrize("seed", range(30))
def test_confusion_is_hotcocos_without_crowds(seed):
    """hotcoco counts detections in crowds as wrong, so ours is our own; where there are none the two agree."""
    data, results = random_case(seed)
    data["annotations"] = [{**a, "iscrowd": 0} for a in data["annotations"] if min(a["bbox"][2:]) > 0]
    results = [{**r, "score": r["score"] + i * 1e-6} for i, r in enumerate(results)][:90]
    analysis = analyse_errors(to_pycocotools(data), results, threshold=0.4)
    evaluator = evaluate_boxes(analysis.scores.data, analysis.scores.found.table)
    theirs = evaluator.confusion_matrix(min_score=0.4)["matrix"]
    assert analysis.confusion.tolist() == theirs.tolist()
    theirs = evaluator.calibration()
    assert analysis.thresholds.calibration_error == pytest.approx(theirs["ece"], abs=1e-9)
    assert [b["count"] for b in analysis.thresholds.reliability] == [b["count"] for b in theirs["bins"] if b["count"]]


def test_label_errors_by_hand():
    objects = [*OBJECTS, (3, A, 0)]
    results = [
        *RIGHT[:2],
        found(2, A, 30, 0.9),  # right, but the annotated box is elsewhere
        found(2, A, 1000, 0.8),  # another class than annotated
        found(2, B, 1000, 0.1),  # though the annotated one was not ruled out
        found(3, A, 0, 0.7),
        found(3, B, 400, 0.6),  # nothing is annotated here
        found(3, B, 2, 0.35),  # a second class for a found object is no reason
    ]
    analysis = analyse_errors(truth(*objects), results, threshold=0.3)
    assert [(c["kind"], c["object"], c["detection"]) for c in analysis.label_errors] == [
        ("wrong class", 3, 3),
        ("missing box", None, 6),
        ("loose box", 2, 2),
    ]
    certain = [c["certainty"] for c in analysis.label_errors]
    assert certain == pytest.approx([0.8 * 0.9, 0.6, 0.9 * (1 - 70 / 130)])


def test_where_the_ap_is_low():
    data = truth(*OBJECTS, images=range(1, 12)).dataset
    data["annotations"] += [
        {"id": 50 + i, "image_id": 5, "category_id": A, "bbox": [200 * i, 0, 100, 10], "area": 1000, "iscrowd": 0}
        for i in range(12)
    ]
    rows = {(r["group"], r["name"]): r for r in analyse_errors(to_pycocotools(data), RIGHT).where}
    assert rows["objects per image", "1 to 2"]["AP"] == pytest.approx(1)
    assert rows["objects per image", "10 to 29"]["AP"] == 0 and rows["objects per image", "10 to 29"]["count"] == 1
    assert rows["shape", "square"]["AP"] == pytest.approx(1) and rows["shape", "square"]["count"] == 4
    assert rows["shape", "wider than 3:1"] == {
        **{"group": "shape", "name": "wider than 3:1", "count": 12, "AP": 0.0, "AP50": 0.0}
    }
    assert rows["object size", "small, below 32 x 32"]["count"] == 12
    assert rows["long side of the image, pixels", "640 to 1279"]["count"] == 11


def test_calibration_in_words():
    results = [*RIGHT[:2], *(found(3, A, 200 * i, 0.8) for i in range(2))]
    words = analyse_errors(truth(*OBJECTS), results).thresholds.calibration()
    assert words.startswith("Scores are too high: of 4 detections that score about 0.80, 50% are right")
    assert "no detections" in analyse_errors(truth(*OBJECTS), []).thresholds.calibration()
    assert np.isfinite(analyse_errors(truth(*OBJECTS), results).thresholds.calibration_error)
