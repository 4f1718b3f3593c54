"""Half precision by default, with bfloat16 and float16 on a CPU in the place of a GPU's."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import dino_nb
from dino_nb.errors import UserError
from dino_nb.inference import precision
from dino_nb.inference.precision import choose, compare
from dino_nb.models.infer import infer


@pytest.fixture
def detector():
    return dino_nb.load("dino-tiny", "cpu")


@pytest.fixture
def image():
    image = Image.fromarray(np.random.default_rng(0).integers(90, 110, (150, 200, 3), np.uint8))
    ImageDraw.Draw(image).ellipse((40, 40, 110, 110), fill=(205, 45, 40))
    return image


class Coarse(torch.nn.Module):
    """A network whose box moves, and whose score falls, in half precision."""

    def __init__(self, shift, fall):
        super().__init__()
        self.shift, self.fall = shift, fall
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, images):
        half = torch.is_autocast_enabled(images[0].device.type)
        box = torch.tensor([[[0.5 + half * self.shift, 0.5, 0.2, 0.2]]])
        return {"pred_logits": torch.tensor([[[0.8 - half * self.fall]]]).logit(), "pred_boxes": box}


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_of_a_network_agrees(detector, image, half):
    inputs = detector._inputs([image])
    agrees, what = compare(detector.model, inputs, half)
    assert agrees and "on the first 1 image: scores differ by 0.0" in what
    plain, other = (infer(detector.model, inputs, amp)["pred_logits"] for amp in (False, half))
    assert not torch.equal(plain, other)  # it was computed otherwise


@pytest.mark.parametrize(
    "shift, fall, agrees", [(0.005, 0.04, True), (0.02, 0.0, False), (0.0, 0.06, False), (float("nan"), 0.0, False)]
)
def test_half_precision_that_finds_something_else_is_not_taken(shift, fall, agrees):
    images = [torch.rand(3, 60, 100)] * 2
    assert compare(Coarse(shift, fall), images, torch.bfloat16)[0] is agrees


def test_auto_compares_on_the_first_image_and_says_so(detector, image, capsys, monkeypatch):
    assert detector.predict(image).names and capsys.readouterr().out == ""  # a CPU stays with float32
    monkeypatch.setattr(precision, "half_type", lambda device: torch.bfloat16)
    detector = dino_nb.Detector(detector.model, "cpu")
    detector.predict([image, image])
    said = capsys.readouterr().out
    assert said.count("half precision on the first 1 image") == 1 and "computing in half precision" in said
    chosen = [choose(detector.model, list, amp) for amp in ("fp16", True, "fp32", False)]
    assert chosen == [torch.bfloat16, torch.bfloat16, False, False]
    exact, half = detector.predict(image, amp="fp32"), detector.predict(image, amp="fp16")
    assert capsys.readouterr().out == "" and not torch.equal(exact.scores, half.scores)


def test_auto_stays_with_float32_where_half_precision_differs(capsys, monkeypatch):
    monkeypatch.setattr(precision, "half_type", lambda device: torch.bfloat16)
    assert choose(Coarse(0.02, 0.0), lambda: [torch.rand(3, 60, 100)]) is False
    assert "boxes by 2.000 % at most: computing in float32" in capsys.readouterr().out


def test_amp_of_another_name_is_refused(detector, image):
    with pytest.raises(UserError, match="amp must be 'auto', 'fp16'"):
        detector.predict(image, amp="half")


def test_evaluate_compares_on_the_first_images_too(detector, sample_coco, capsys, monkeypatch):
    monkeypatch.setattr(precision, "half_type", lambda device: torch.bfloat16)
    options = {"check": False, "progress": False}
    result = dino_nb.evaluate(sample_coco, detector, **options)
    assert "half precision on the first 2 images" in capsys.readouterr().out and result.settings["amp"] is True
    exact = dino_nb.evaluate(sample_coco, detector, amp="fp32", **options)
    assert capsys.readouterr().out == "" and exact.settings["amp"] is False
    assert abs(exact.metrics["AP"] - result.metrics["AP"]) < 0.05
    with pytest.raises(UserError, match="amp must be 'auto', 'fp16'"):
        dino_nb.evaluate(sample_coco, detector, amp="half", **options)
