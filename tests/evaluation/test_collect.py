"""The way from a network's outputs to COCO results."""

import pytest
import torch

from dino_nb.data.dataset import CocoDataset
from dino_nb.data.transforms import eval_transform
from dino_nb.errors import UserError
from dino_nb.evaluation.coco import score
from dino_nb.evaluation.collect import collect_predictions, ground_truth_as_predictions
from tests.evaluation.oracle import CATEGORIES, Oracle, odd_cocodir

NAMES = ["dog house", "bird", "CAT", "red circle"]
LABEL_OF = {10**12: 3, 0: 2, 17: 0}


@pytest.fixture
def dataset(tmp_path):
    return CocoDataset(odd_cocodir(tmp_path / "odd"), "val", eval_transform(64, 107), LABEL_OF)


@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"batch_size": 3, "num_workers": 1}])
def test_true_answers_score_one(dataset, options):
    model = Oracle(dataset, NAMES).train()
    results = collect_predictions(model, dataset, progress=False, **options)
    scores = score(dataset.coco(), results)
    assert scores.metrics["AP"] == pytest.approx(1) and scores.metrics["AR100"] == pytest.approx(1)
    assert model.training  # as it was
    assert {r["image_id"] for r in results} == {9, 0, 10**14, 4, 77}  # every image, the empty one too
    assert {r["category_id"] for r in results} <= {c["id"] for c in CATEGORIES}  # nothing for "bird"
    assert {(3, 64, 96), (3, 96, 64)} <= set(model.sizes)  # the second lies in its file, and was turned


def test_ground_truth_as_predictions_scores_one(dataset):
    dataset.image_dir = None  # no image is needed
    results = ground_truth_as_predictions(dataset)
    coco = dataset.coco()
    objects = [a for a in coco.dataset["annotations"] if not a["iscrowd"]]
    assert len(results) == len(objects) == 20
    assert score(coco, results).metrics["AP"] == pytest.approx(1)
    by_place = {(r["image_id"], r["category_id"], round(r["bbox"][0], 2)): r["bbox"] for r in results}
    for annotation in objects:
        x, y, w, h = annotation["bbox"]
        image = coco.imgs[annotation["image_id"]]
        clamped = [x, y, min(w, image["width"] - x), min(h, image["height"] - y)]
        found = by_place[annotation["image_id"], annotation["category_id"], round(x, 2)]
        assert found == pytest.approx(clamped, abs=1e-4)


def test_shares_of_several_processes_add_up(dataset):
    whole = ground_truth_as_predictions(dataset)
    shares = [ground_truth_as_predictions(dataset, range(rank, 5, 2)) for rank in range(2)]
    assert sorted(map(str, whole)) == sorted(map(str, [*shares[0], *shares[1]]))
    model = Oracle(CocoDataset(dataset.image_dir.parent, "val", dataset.transform, LABEL_OF), NAMES)
    model.next = 3
    got = collect_predictions(model, dataset, [3, 4], progress=False)
    assert {r["image_id"] for r in got} == {dataset.image_id(3), dataset.image_id(4)}


def test_at_most_num_select_best_first(dataset):
    results = collect_predictions(Oracle(dataset, NAMES, num_select=2), dataset, [0], progress=False)
    assert len(results) == 2 and results[0]["score"] >= results[1]["score"] > 0.99


def test_more_than_there_is(dataset):
    results = collect_predictions(Oracle(dataset, NAMES, num_select=10_000), dataset, [0], progress=False)
    assert len(results) == 5 * 3  # queries x matched classes


def test_half_precision_of_the_network_does_not_round_boxes(dataset):
    class Half(Oracle):
        def forward(self, images, targets=None):
            assert images[0].dtype == torch.float16
            return {k: v.half() for k, v in super().forward(images).items()}

    results = collect_predictions(Half(dataset, NAMES).half(), dataset, progress=False)
    assert score(dataset.coco(), results).metrics["AP50"] == pytest.approx(1)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_unreadable_image_is_named_in_one_sentence(dataset, num_workers):
    dataset.path(2).write_bytes(b"not a image")
    with pytest.raises(UserError, match=dataset.path(2).name) as error:
        collect_predictions(Oracle(dataset, NAMES), dataset, num_workers=num_workers, progress=False)
    assert "Traceback" not in str(error.value)


def test_outputs_that_are_not_finite(dataset):
    with pytest.raises(UserError, match=r"image 0 is not finite"):
        collect_predictions(Oracle(dataset, NAMES, nan=True), dataset, progress=False)
