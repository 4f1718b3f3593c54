"""Metrics against pycocotools itself, and the ids that it trips over."""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dino_nb.data.coco_file import to_pycocotools
from dino_nb.errors import UserError
from dino_nb.evaluation.coco import METRICS, score


def random_case(seed, images=4, classes=3):
    """A ground truth with crowds and odd areas, and results of which some match, some tie and some are nonsense."""
    rng = np.random.default_rng(seed)
    truth = {
        "images": [{"id": 10 * i + 1, "file_name": f"{i}.jpg"} for i in range(images)],
        "categories": [{"id": 7 * i + 2, "name": f"class {i}"} for i in range(classes)],
        "annotations": [],
    }
    for i in range(1, int(rng.integers(0, 30)) + 1):
        box = [float(v) for v in rng.choice([0, 5, 10, 32, 40, 96, 100, 200], 4)]
        truth["annotations"].append(
            {
                "id": i,
                "image_id": int(10 * rng.integers(images) + 1),
                "category_id": int(7 * rng.integers(classes) + 2),
                "bbox": box,
                "area": box[2] * box[3] if rng.random() < 0.5 else float(rng.choice([0, 500, 1024, 9216, 1e5 + 1])),
                "iscrowd": int(rng.random() < 0.2),
            }
        )
    results = []
    for _ in range(int(rng.choice([1, 5, 40, 300]))):
        result = {
            "image_id": int(10 * rng.integers(images) + 1),
            "category_id": int(7 * rng.integers(classes) + 2),
            "bbox": [float(v) for v in rng.uniform(1, 150, 4)],
            "score": float(rng.choice([0.1, 0.5, 0.9, rng.random()])),
        }
        if truth["annotations"] and rng.random() < 0.6:
            near = truth["annotations"][rng.integers(len(truth["annotations"]))]
            box = [v + float(d) for v, d in zip(near["bbox"], rng.choice([0, 0, 1, 5], 4))]
            result |= {"image_id": near["image_id"], "category_id": near["category_id"], "bbox": box}
        results.append(result)
    return truth, results


def by_pycocotools(annotation_file, results_file):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotation_file))
        evaluation = COCOeval(truth, truth.loadRes(str(results_file)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(METRICS, evaluation.stats)), evaluation


@pytest.mark.parametrize("seed", range(12))
def test_equal_to_pycocotools_on_files(tmp_path, seed):
    truth, results = random_case(seed)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(results))
    expected, evaluation = by_pycocotools(tmp_path / "truth.json", tmp_path / "results.json")
    got = score(to_pycocotools(truth), results, library="pycocotools")
    assert got.metrics == expected
    assert np.array_equal(got.precision, evaluation.eval["precision"][..., 0, -1])
    assert [row["id"] for row in got.per_class] == [2, 9, 16]
    defined = [row["AP"] for row in got.per_class if row["AP"] >= 0]
    assert np.mean(defined or [-1]) == pytest.approx(expected["AP"])


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_hotcoco_is_equal_to_the_last_bit(first):
    for seed in range(first, first + 10):
        truth, results = random_case(seed)
        for chosen in (results, []):
            slow = score(to_pycocotools(truth), chosen, library="pycocotools")
            fast = score(to_pycocotools(truth), chosen, library="hotcoco")
            assert fast.metrics == slow.metrics
            assert fast.per_class == slow.per_class
            assert np.array_equal(fast.precision, slow.precision)
            assert (fast.library, slow.library) == ("hotcoco", "pycocotools")


def _one(image_id=1, category_id=1, annotation_id=1):
    box = {"id": annotation_id, "image_id": image_id, "category_id": category_id, "bbox": [1, 2, 40, 40]}
    truth = {
        "images": [{"id": image_id, "file_name": "a"}],
        "categories": [{"id": category_id, "name": "x"}],
        "annotations": [{**box, "area": 1600, "iscrowd": 0}],
    }
    result = {"image_id": image_id, "category_id": category_id, "bbox": [1.0, 2.0, 40.0, 40.0], "score": 0.5}
    return to_pycocotools(truth), [result]


def test_annotation_id_zero_counts_which_pycocotools_alone_would_miss():
    truth, results = _one(annotation_id=0)
    assert score(truth, results).metrics["AP"] == pytest.approx(1)
    with contextlib.redirect_stdout(io.StringIO()):
        plain = COCOeval(truth, truth.loadRes([dict(r) for r in results]), "bbox")
        plain.evaluate()
        plain.accumulate()
        plain.summarize()
    assert plain.stats[0] == 0


@pytest.mark.parametrize("ids", [(0, 0), (2**70, 2**65), ("a", "b"), (-5, 10**15), (10**12, 0)])
def test_any_ids(ids):
    truth, results = _one(*ids)
    found = score(truth, results)
    assert found.metrics["AP"] == pytest.approx(1) and found.per_class[0]["id"] == ids[1]


def test_subset_of_images():
    truth, results = random_case(3, images=6)
    truth["annotations"] += [
        {"id": 99, "image_id": 51, "category_id": 2, "bbox": [0, 0, 50, 50], "area": 2500, "iscrowd": 0}
    ]
    results = [r for r in results if r["image_id"] != 51]
    coco = to_pycocotools(truth)
    some = [i["id"] for i in truth["images"] if i["id"] != 51]
    assert score(coco, results, some).per_class[0]["AR100"] > score(coco, results).per_class[0]["AR100"]
    kept = {k: [r for r in v if r.get("image_id", r["id"]) != 51] for k, v in truth.items() if k != "categories"}
    alone = score(to_pycocotools({**kept, "categories": truth["categories"]}), results)
    assert score(coco, results, some).metrics == alone.metrics


def test_nothing_found_and_nothing_to_find():
    truth, _ = _one()
    assert score(truth, []).metrics["AP"] == 0
    truth.dataset["annotations"] = []
    assert set(score(truth, []).metrics.values()) == {-1}


def test_results_of_other_data_are_refused():
    truth, results = _one()
    with pytest.raises(UserError, match="image_id 5"):
        score(truth, [{**results[0], "image_id": 5}])
    with pytest.raises(UserError, match="category_id 'x'"):
        score(truth, [{**results[0], "category_id": "x"}])
