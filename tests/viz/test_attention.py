import pytest
import torch
from PIL import Image

import dino_nb
from dino_nb.errors import UserError
from dino_nb.viz import encoder_attention, sampling_points


@pytest.fixture(scope="module")
def detector():
    return dino_nb.load("dino-tiny", "cpu")


@pytest.fixture(scope="module")
def result(detector):
    return detector.predict(Image.effect_noise((200, 120), 70).convert("RGB"), threshold=0)


def middle(box):
    return (box[:2] + box[2:]) / 2


def test_sampling_points_lie_around_the_detection(detector, result):
    config = detector.model.config
    points = sampling_points(detector, result, 3)
    n = config.nheads * config.num_feature_levels * config.dec_n_points
    assert points.points.shape == (config.dec_layers, n, 2) and points.origins.shape == (config.dec_layers, 2)
    torch.testing.assert_close(points.weights.sum(1), torch.ones(config.dec_layers))
    assert points.levels.bincount().tolist() == [n // config.num_feature_levels] * config.num_feature_levels
    assert (points.origins[-1] - middle(result.boxes[3])).abs().max() < 40
    spread = (points.points[-1] - points.origins[-1]).abs().median(0).values
    assert (spread < 2 * (result.boxes[3][2:] - result.boxes[3][:2])).all()


def test_encoder_attention_starts_at_the_point(detector, result):
    config = detector.model.config
    for level in range(config.num_feature_levels):
        points = encoder_attention(detector, result, (150, 40), level)
        assert points.points.shape[0] == config.enc_layers
        assert (points.origins - torch.tensor([150, 40])).abs().max() <= 8 * 2**level
    torch.testing.assert_close(points.weights.sum(1), torch.ones(config.enc_layers))


def test_sampling_points_of_a_thin_image_are_in_its_pixels(detector):
    result = detector.predict(Image.effect_noise((800, 40), 70).convert("RGB"), threshold=0)
    origin = sampling_points(detector, result).origins[-1]
    assert (origin - middle(result.boxes[0])).abs()[0] < 80 and -1 <= origin[1] <= 41
    assert (encoder_attention(detector, result, (400, 20)).origins[0] - torch.tensor([400, 20])).abs().max() <= 16


def test_draw_shows_a_layer_and_a_view_steps_through_them(detector, result):
    points = sampling_points(detector, result)
    drawn = [points.draw(layer) for layer in (0, -1)]
    assert [image.size for image in drawn] == [(900, 573)] * 2 and drawn[0].tobytes() != drawn[1].tobytes()
    view = points.view()
    assert view.position.max == detector.model.config.dec_layers and view.caption.startswith("decoder layer 1 of")
    view.step(1)
    assert view.caption.startswith("decoder layer 2 of") and repr(view).startswith("View(layer 2")
    assert not detector.model.decoder._forward_hooks and not detector.model._forward_hooks
    assert encoder_attention(detector, result.image, (9, 9)).draw().size == (900, 573)


def test_view_of_the_encoder_follows_a_click(detector, result):
    view = encoder_attention(detector, result, (150, 40)).view()
    before = view.image.tobytes()
    view.click.value = "0.2500 0.4714"  # as the page writes it: 270 of 573 pixels, the legend among them
    assert (view.scene.origins - torch.tensor([50, 60])).abs().max() <= 8 and view.image.tobytes() != before
    assert torch.equal(view.scene.points, encoder_attention(detector, result, (50, 60)).points)
    view.click.value = ""
    assert not hasattr(sampling_points(detector, result).view(), "click")


def test_what_is_not_there_is_said(detector, result):
    with pytest.raises(UserError, match="no detection 9999"):
        sampling_points(detector, result, 9999)
    with pytest.raises(UserError, match="no decoder layer 7"):
        sampling_points(detector, result).draw(7)
    with pytest.raises(UserError, match="outside the image of 200 x 120"):
        encoder_attention(detector, result, (500, 5))
    with pytest.raises(UserError, match="no feature map 9"):
        encoder_attention(detector, result, (5, 5), level=9)
