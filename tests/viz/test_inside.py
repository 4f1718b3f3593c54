import numpy as np
import pytest
import torch
from PIL import Image

import dino_nb
from dino_nb.errors import UserError
from dino_nb.prepare.sample import make_sample
from dino_nb.viz import decoder_layers, denoising_queries


@pytest.fixture(scope="module")
def detector():
    return dino_nb.load("dino-tiny", "cpu")


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return make_sample(tmp_path_factory.mktemp("inside") / "sample", n_train=2, n_val=2)


@pytest.fixture(scope="module")
def result(detector, sample):
    return detector.predict(sorted((sample / "val2017").iterdir())[0], threshold=0)


def test_decoder_layers_end_in_the_detections(detector, result):
    config = detector.model.config
    layers = decoder_layers(detector, result, 2)
    queries = layers.boxes.shape[1]
    assert layers.boxes.shape == (config.dec_layers + 1, queries, 4) and layers.scores.shape == layers.labels.shape
    torch.testing.assert_close(layers.boxes[-1, layers.query], result.boxes[2])
    torch.testing.assert_close(layers.scores[-1].max(), result.scores[0])
    assert (layers.boxes[0] != layers.boxes[1]).any()
    assert decoder_layers(detector, result, None).query is None
    assert decoder_layers(detector, result.image).query is None


def test_decoder_layers_start_at_the_grid(detector, result):
    """A grid box has sides of 5 % of the image, doubled on each coarser feature map."""
    layers = decoder_layers(detector, result)
    sides = (layers.grid_boxes[:, 2:] - layers.grid_boxes[:, :2]) / torch.tensor(result.size)
    torch.testing.assert_close(sides, (0.05 * 2.0**layers.levels)[:, None].expand(-1, 2), rtol=1e-3, atol=1e-4)


def test_decoder_layers_are_drawn(detector, result):
    layers = decoder_layers(detector, result)
    images = [layers.draw(layer) for layer in (0, -1)]
    assert images[0].tobytes() != images[1].tobytes()
    assert layers.proposals(5).tobytes() != layers.proposals(20).tobytes()
    view = layers.view()
    assert view.caption.startswith("the start: the selected proposals")
    view.set(1, threshold=0.99)
    assert view.caption == f"after decoder layer 1 of {len(layers.boxes) - 1}, 0 boxes"
    with pytest.raises(UserError, match="no layer 99"):
        layers.draw(99)
    with pytest.raises(UserError, match="no detection 9999"):
        decoder_layers(detector, result, 9999)


def test_denoising_queries_move_less_if_positive(detector, sample):
    config = detector.model.config
    made = denoising_queries(detector, sample, 0)
    groups, _, n, _ = made.boxes.shape
    assert (
        made.labels.shape == (groups, 2, n) and made.truth.shape == (n, 4) and groups == max(1, config.dn_number // n)
    )
    half = (made.truth[:, 2:] - made.truth[:, :2]).repeat(1, 2) / 2
    moved = ((made.boxes - made.truth).abs() / half) / config.dn_box_noise_scale
    assert moved[:, 0].max() <= 1.001  # half a side at most, in half sides
    inside = (made.boxes[:, 1] > 0.01) & (made.boxes[:, 1] < torch.tensor(made.image.size).repeat(2) - 0.01)
    assert moved[:, 1][inside].min() >= 0.999
    again, other = denoising_queries(detector, sample, 0), denoising_queries(detector, sample, 0, seed=1)
    assert torch.equal(made.boxes, again.boxes) and not torch.equal(made.boxes, other.boxes)


def test_denoising_queries_are_drawn(detector, sample):
    made = denoising_queries(detector, sample, 1)
    assert np.asarray(made.draw(0)).shape[2] == 3
    assert f"{2 * len(made.truth)} queries" in made.view().caption
    with pytest.raises(UserError, match="no group 999"):
        made.draw(999)
    with pytest.raises(UserError, match="no image 7"):
        denoising_queries(detector, sample, 7)


def test_denoising_queries_need_a_class_in_common(detector, sample, monkeypatch):
    monkeypatch.setattr(detector, "class_names", ["cat"])
    with pytest.raises(UserError, match="no object of the detector's classes"):
        denoising_queries(detector, sample)


def test_decoder_layers_of_a_large_image_are_shown_reduced(detector):
    assert decoder_layers(detector, Image.new("RGB", (2000, 1000))).draw().width == 900
