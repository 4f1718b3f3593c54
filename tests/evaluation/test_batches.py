"""``batch_size="auto"``: images of one shape together, with the results of one at a time."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import dino_nb
from dino_nb.cli import main
from dino_nb.data.dataset import CocoDataset
from dino_nb.data.transforms import eval_transform
from dino_nb.errors import UserError
from dino_nb.evaluation import batches
from dino_nb.evaluation.batches import AutoBatch
from dino_nb.evaluation.collect import collect_predictions
from dino_nb.models.dino import DINO
from dino_nb.prepare.sample import make_sample

SIZES = [(200, 160), (160, 200), (200, 160), (100, 80), (200, 120), (160, 200)]  # width and height


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Six images of three shapes once they are resized; of the last one, the annotation file says a wrong size."""
    folder = make_sample(tmp_path_factory.mktemp("data") / "sample", n_train=1, n_val=len(SIZES))
    file = folder / "annotations/instances_val2017.json"
    data = json.loads(file.read_text())
    for record, size in zip(data["images"], SIZES):
        path = folder / "val2017" / record["file_name"]
        Image.open(path).resize(size).save(path)
        record["width"], record["height"] = size if record is not data["images"][-1] else SIZES[0]
    file.write_text(json.dumps(data))
    return folder


@pytest.fixture(scope="module")
def tiny():
    return dino_nb.load("dino-tiny", "cpu").model


@pytest.fixture
def seen(monkeypatch):
    """The shapes of each batch that goes through a network."""
    shapes, forward = [], DINO.forward

    def watched(self, images):
        shapes.append([tuple(image.shape) for image in images])
        return forward(self, images)

    monkeypatch.setattr(DINO, "forward", watched)
    return shapes


def rows(found):
    return np.array([[r["image_id"], r["category_id"], *r["bbox"], r["score"]] for r in found])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_results_are_those_of_one_at_a_time(mixed, tiny, seen, num_workers):
    dataset = CocoDataset(mixed, "val", eval_transform(64, 107))
    one = rows(collect_predictions(tiny, dataset, progress=False))
    seen.clear()
    together = rows(collect_predictions(tiny, dataset, batch_size="auto", num_workers=num_workers, progress=False))
    assert sorted(map(len, seen)) == [1, 2, 3] and all(len(set(batch)) == 1 for batch in seen)
    assert np.array_equal(one[:, 0], together[:, 0]), "in the order of the images"
    assert np.allclose(one, together, atol=1e-4) and np.allclose(one[:, -1], together[:, -1], atol=1e-5)


def test_evaluation_says_nothing_of_batches_that_change_nothing(mixed, tiny, tmp_path, seen):
    options = ["--split", "val", "--limit", "4", "--no_check", "--device", "cpu", "--input_size", "64", "107"]
    assert main(["eval", str(mixed), "dino-tiny", "--batch-size", "auto", "-o", str(tmp_path), *options]) == 0
    assert json.loads((tmp_path / "report.json").read_text())["batch_size"] == "auto"
    assert sorted(map(len, seen)) == [1, 3]
    assert main(["eval", str(mixed), "dino-tiny", "--batch-size", "many"]) == 2
    with pytest.raises(UserError, match="batch_size must be a whole number"):
        dino_nb.evaluate(mixed, tiny, batch_size="many")


def test_images_wait_for_others_up_to_what_fits():
    auto, image = AutoBatch(torch.device("cpu")), torch.zeros(3, 100, 1000)
    single = [((image,), (i,)) for i in range(7)]
    assert [numbers for _, numbers in auto.joined(single)] == [[0, 1, 2, 3, 4], [5, 6]]
    auto.pixels = 1
    assert all(len(images) == 1 for images, _ in auto.joined(single)), "one always goes"


def test_out_of_memory_halves_the_batch(monkeypatch):
    auto, sizes = AutoBatch(torch.device("cpu")), []

    def network(model, images, amp):
        sizes.append(len(images))
        if len(images) > 2:
            raise UserError("too large") from torch.cuda.OutOfMemoryError()
        return {"pred_boxes": torch.stack([image[0, :1] for image in images])}

    monkeypatch.setattr(batches, "infer", network)
    images = [torch.full((3, 10, 10), float(i)) for i in range(5)]
    assert auto.infer(None, images, False)["pred_boxes"][:, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert sizes == [5, 3, 2, 1, 2] and auto.pixels == 200, "and stays so"
    monkeypatch.setattr(batches, "infer", lambda *_: network(None, images, False))
    with pytest.raises(UserError, match="too large"):
        auto.infer(None, images[:1], False)
