"""COCO's matching, and the thresholds that come of it."""

import numpy as np
import pytest

from dino_nb.data.coco_file import to_pycocotools
from dino_nb.evaluation.coco import ceiling, evaluate_boxes, score
from dino_nb.evaluation.matching import match
from dino_nb.evaluation.thresholds import Thresholds
from tests.evaluation.test_coco import random_case


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_matches_are_cocos_at_iou_half(first):
    for seed in range(first, first + 20):
        truth, results = random_case(seed)
        scores = score(to_pycocotools(truth), results)
        status = scores.matches.taken
        found = evaluate_boxes(scores.data, scores.found.table).image_diagnostics()
        expected = [{"tp": 0, "fp": -1, None: -2}[found["dt_status"].get(i)] for i in range(1, len(results) + 1)]
        beyond = len(results) > 100  # hotcoco leaves out what COCO's cap of 100 leaves out
        assert beyond or np.minimum(status, 0).tolist() == expected, seed
        matches = {i: found["dt_match"][i] - 1 for i in found["dt_match"]}
        assert beyond or {i + 1: int(s) for i, s in enumerate(status) if s >= 0} == matches, seed


def test_match_by_hand():
    """Rows are image, x, y, width, height, score or crowd, class."""
    found = np.array([[0, x, 0, 10, 10, s, c] for x, s, c in ((0, 0.5, 0), (1, 0.9, 0), (100, 0.8, 1), (50, 0.7, 0))])
    truth = np.array([[0, 0, 0, 10, 10, 0, 0], [0, 100, 0, 10, 10, 0, 0], [0, 40, 0, 50, 50, 1, 0]], float)
    # the surer one takes the object although the other fits better; class 1 finds nothing; the last lies in a crowd
    assert match(found, truth).tolist() == [-1, 0, -1, -2]
    assert match(found, truth, any_class=True).tolist() == [-1, 0, 1, -2]
    assert match(found, truth, iou=0.95).tolist() == [0, -1, -1, -2]
    assert match(found[:0], truth).tolist() == [] and match(found, truth[:0]).tolist() == [-1] * 4
    elsewhere = truth + np.eye(7)[0]
    assert match(found, elsewhere).tolist() == [-1] * 4  # objects of another image


def case(objects, detections):
    """``objects``: (category, x) and ``detections``: (category, x, score), 10-pixel squares in one image."""
    record = {"image_id": 1, "area": 100, "iscrowd": 0}
    truth = {
        "images": [{"id": 1, "file_name": "a"}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {**record, "id": i, "category_id": c, "bbox": [x, 0, 10, 10]} for i, (c, x) in enumerate(objects)
        ],
    }
    results = [{"image_id": 1, "category_id": c, "bbox": [x, 0, 10, 10], "score": s} for c, x, s in detections]
    return score(to_pycocotools(truth), results)


def test_thresholds_by_hand():
    # by score: right .9, wrong .8, right .6, wrong .4; three objects
    scores = case([(1, 0), (1, 50), (2, 0)], [(1, 0, 0.9), (1, 200, 0.8), (1, 50, 0.6), (2, 90, 0.4)])
    found = Thresholds(scores)
    assert found.best == pytest.approx(0.5)  # 2 right of 3, 2 of 3 found: F1 2/3, halfway between .6 and .4
    assert (found.precision, found.recall, found.f1) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    cat, dog = found.rows
    assert cat["threshold"] == pytest.approx(0.3) and cat["best_f1"] == pytest.approx(0.8)
    assert (cat["precision"], cat["recall"]) == pytest.approx((2 / 3, 1))
    assert (dog["threshold"], dog["f1"], dog["recall"], dog["precision"]) == (found.best, 0, 0, -1)
    at = Thresholds(scores, 0.85)
    assert (at.used, at.best, at.best_f1) == (0.85, found.best, found.f1)
    assert (at.precision, at.recall, at.rows[0]["recall"]) == pytest.approx((1, 1 / 3, 1 / 2))
    at = dict(zip(found.curves["score"], found.curves["precision"]))
    assert (at[0.0], at[0.7], at[0.85], at[0.95]) == pytest.approx((0.5, 0.5, 1, -1))
    assert found.to_dict() == {"overall": found.best, "per_class": {"cat": cat["threshold"], "dog": found.best}}


def test_thresholds_keep_or_drop_equal_scores_together():
    found = Thresholds(case([(1, 0)], [(1, 0, 0.5), (1, 99, 0.5), (1, 200, 0.5)]))
    assert found.best == 0.25 and found.precision == pytest.approx(1 / 3)


@pytest.mark.parametrize("objects, detections", [([], []), ([(1, 0)], []), ([], [(1, 0, 0.5)])])
def test_thresholds_with_nothing_to_decide_by(objects, detections):
    found = Thresholds(case(objects, detections))
    assert found.best == 0.5 and found.recall in (-1, 0)


def test_ceiling_is_what_the_ground_truth_itself_scores():
    for count in (1, 100, 101, 425):
        scores = case(
            [(1, 20 * i) for i in range(count)] + [(2, 0)], [(1, 20 * i, 0.9) for i in range(count)] + [(2, 0, 1)]
        )
        data = {**scores.data, "annotations": scores.data["annotations"]}
        assert ceiling(to_pycocotools(data)) == pytest.approx(scores.metrics["AP50"]), count
    assert ceiling(to_pycocotools({**data, "annotations": []})) == -1
