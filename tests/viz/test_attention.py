import pytest
import torch
from PIL import Image

import dino_nb
from dino_nb.errors import UserError
from dino_nb.models.attention import MSDeformAttn
from dino_nb.ops import ms_deform_attn
from dino_nb.viz.attention import _token_of, look_of, sampling, show_attention


@pytest.fixture(scope="module")
def detector():
    return dino_nb.load("dino-tiny", "cpu")


@pytest.fixture(scope="module")
def result(detector):
    return detector.predict(Image.effect_noise((200, 120), 70).convert("RGB"), threshold=0)


@pytest.mark.parametrize("coordinates", [2, 4])
def test_places_and_weights_are_those_of_the_layer(coordinates):
    torch.manual_seed(0)
    shapes = [(6, 9), (3, 5)]
    layer = MSDeformAttn(32, 2, 4, 3)
    torch.nn.init.normal_(layer.attention_weights.weight)
    torch.nn.init.normal_(layer.sampling_offsets.weight, std=0.3)
    memory, query = torch.randn(2, 69, 32), torch.randn(2, 5, 32)
    references = torch.rand(2, 5, 2, coordinates)
    with torch.no_grad():
        want = layer(query, references, memory, shapes, None)
        places, weights = sampling(layer, query, references, shapes)
        value = layer.value_proj(memory).view(2, -1, 4, 8)
        got = layer.output_proj(ms_deform_attn(value, shapes, places, weights))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("part", ["decoder", "encoder"])
def test_a_look_lies_around_the_detection(detector, result, part):
    config = detector.model.config
    look = look_of(detector, result, 0, part)
    count = config.nheads * config.num_feature_levels * config.dec_n_points
    assert look.points.shape == (count, 2) and look.points.isfinite().all()
    assert look.weights.sum().item() == pytest.approx(1, abs=1e-4)
    assert look.levels.unique().tolist() == list(range(config.num_feature_levels))
    middle = (result["boxes"][0, :2] + result["boxes"][0, 2:]) / 2
    assert (look.origin - middle).abs().max() < 40


def test_a_thin_picture_is_padded_for_the_network_and_not_for_the_reader(detector):
    result = detector.predict(Image.effect_noise((800, 40), 70).convert("RGB"), threshold=0)
    middle = (result["boxes"][0, :2] + result["boxes"][0, 2:]) / 2
    for part in ("decoder", "encoder"):
        origin = look_of(detector, result, 0, part).origin
        assert (origin - middle).abs()[0] < 80 and -1 <= origin[1] <= 41


def test_tokens_are_numbered_level_by_level():
    shapes = [(10, 20), (5, 10)]
    assert _token_of(torch.tensor([0.0, 0.0, 0.04, 0.06]), shapes) == 0
    assert _token_of(torch.tensor([0.95, 0.95, 1.0, 1.0]), shapes) == 199
    assert _token_of(torch.tensor([0.0, 0.0, 0.12, 0.12]), shapes) == 200
    assert _token_of(torch.tensor([0.9, 0.9, 1.1, 1.1]), shapes) == 249


def test_the_picture(detector, result):
    pictures = [show_attention(detector, result, 0, part) for part in ("decoder", "encoder")]
    assert [picture.size for picture in pictures] == [(900, 540)] * 2
    assert pictures[0].tobytes() != pictures[1].tobytes()
    assert not detector.model.decoder.layers[-1].cross_attn._forward_pre_hooks


@pytest.mark.parametrize(
    ("options", "words"),
    [({"part": "neck"}, "decoder"), ({"index": 9999}, "no detection 9999"), ({"layer": 7}, "layer 7")],
)
def test_what_is_not_there_is_said(detector, result, options, words):
    with pytest.raises(UserError, match=words):
        show_attention(detector, result, **options)
