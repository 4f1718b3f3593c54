"""Sizes to the pixel, boxes that stay on their objects, published pixels."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from dino_nb.data import transforms as T

# (height, width) -> published evaluation size: int(800 * long / short), or 1333-limited with a rounded short side
EVAL_SIZES = {
    (480, 640): (800, 1066),
    (640, 480): (1066, 800),
    (427, 640): (800, 1199),
    (426, 640): (800, 1201),
    (612, 612): (800, 800),
    (375, 500): (800, 1066),
    (333, 500): (800, 1201),
    (500, 333): (1201, 800),
    (299, 500): (797, 1332),  # limited: round(1333 * 299 / 500) = 797, then int(797 * 500 / 299) = 1332, not 1333
    (281, 500): (749, 1332),
    (500, 281): (1332, 749),
    (360, 640): (750, 1333),
    (640, 360): (1333, 750),
    (480, 854): (749, 1332),
    (200, 1000): (267, 1335),  # rounding the short side up can pass the limit by a few pixels, as published
    (2000, 40): (1350, 27),
    (40, 2000): (27, 1350),
    (800, 1333): (800, 1333),
    (800, 1334): (799, 1332),
    (800, 1000): (800, 1000),
    (64, 64): (800, 800),
    (1080, 1920): (750, 1333),
    (1, 5000): (1, 1333),
}


@pytest.mark.parametrize("original, expected", EVAL_SIZES.items())
def test_transform_evaluation_sizes(original, expected):
    assert T.resized_size(*original, 800, 1333) == expected


def test_transform_size_without_limit_and_small_sizes():
    assert T.resized_size(100, 201, 50) == (50, 100)
    assert T.resized_size(100, 1000, 400) == (400, 4000)
    assert T.resized_size(480, 640, 128, 213) == (128, 170)
    assert T.resized_size(300, 600, 128, 213) == (106, 212)


def test_transform_torchvision_rule_differs_so_the_size_is_computed_here():
    from torchvision.transforms.v2.functional import resize

    theirs = resize(torch.zeros(3, 281, 500), [800], max_size=1333).shape[1:]
    assert tuple(theirs) != T.resized_size(281, 500, 800, 1333)


def _image(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def _target(height, width, boxes):
    n = len(boxes)
    return {"boxes": T.as_boxes(boxes, height, width), "labels": torch.arange(n), "iscrowd": torch.zeros(n).long()}


def test_transform_evaluation_pixels_are_those_of_pil_bilinear():
    image = _image(45, 60)
    tensor, target = T.eval_transform(30, 100)(image, _target(45, 60, [[6, 9, 30, 36]]))
    expected = np.asarray(image.resize((40, 30), Image.Resampling.BILINEAR), np.float32) / 255
    expected = (expected - np.array(T.MEAN, np.float32)) / np.array(T.STD, np.float32)
    np.testing.assert_allclose(T.normalize(tensor).permute(1, 2, 0).numpy(), expected, atol=1e-6)
    assert tensor.dtype == torch.uint8
    torch.testing.assert_close(target["boxes"], torch.tensor([[0.3, 0.5, 0.4, 0.6]]))
    assert target["size"].tolist() == [30, 40]
    assert type(target["boxes"]) is torch.Tensor
    torch.testing.assert_close(target["area"], torch.tensor([16 * 18.0]))


def test_transform_image_alone_and_back():
    image = _image(20, 30)
    tensor = T.eval_transform(20, 100)(image)
    assert tensor.shape == (3, 20, 30)
    assert np.array_equal(np.asarray(T.tensor_to_image(tensor)), np.asarray(image))


def test_normalize_gives_the_numbers_of_torchvision_and_leaves_what_is_normalised():
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3, 2, 1)
    expected = F.normalize(F.to_dtype(pixels, torch.float32, scale=True), list(T.MEAN), list(T.STD))
    assert torch.equal(T.normalize(pixels), expected) and T.normalize(expected) is expected
    shown = T.tensor_to_image(pixels)
    assert np.array_equal(np.asarray(shown), np.asarray(T.tensor_to_image(expected)))


def test_transform_crop_semantics():
    crop = T.RandomSizeCrop(40, 60)
    sizes = set()
    for seed in range(60):
        torch.manual_seed(seed)
        image, target = crop(_image(70, 50), _target(70, 50, [[0, 0, 50, 70], [0, 0, 1, 1], [20, 20, 24, 24]]))
        width, height = image.size
        sizes.add((width, height))
        assert 40 <= width <= 50 and 40 <= height <= 60  # the maximum is the image's where that is smaller
        assert target["boxes"][0].tolist() == [0, 0, width, height]  # clipped to the window
        _, final = T.ToModelInput()(image, target)
        visible = (target["boxes"][:, 2:] > target["boxes"][:, :2]).all(1)
        assert final["labels"].tolist() == torch.arange(3)[visible].tolist()
        assert len(final["labels"]) == len(final["boxes"]) == len(final["iscrowd"]) == len(final["area"])
    assert len(sizes) > 30
    assert {w for w, _ in sizes} >= {40, 50} and {h for _, h in sizes} >= {40, 60}  # both ends are drawn


def test_transform_crop_of_a_image_smaller_than_the_window():
    image, _ = T.RandomSizeCrop(384, 600)(_image(30, 500), _target(30, 500, []))
    assert image.height == 30 and 384 <= image.width <= 500


def test_transform_training_sizes_are_the_published_ones():
    allowed = set(range(480, 801, 32))
    seen, flips = set(), 0
    transform = T.train_transform()
    assert transform.transforms[1].transforms[1].transforms[0].sizes == (400, 500, 600)
    for seed in range(30):
        torch.manual_seed(seed)
        image, target = transform(_image(90, 120), _target(90, 120, [[0, 0, 30, 30]]))
        short, long = min(image.shape[1:]), max(image.shape[1:])
        assert short in allowed or (long <= 1335 and short < 800)  # crops may be narrow, hence limited by 1333
        seen.add(short)
        flips += bool(len(target["boxes"]) and target["boxes"][0, 0] > 0.5)
    assert len(seen) > 6 and 0 < flips < 30


def test_transform_training_boxes_follow_the_object():
    """A bright square on black: wherever the augmentation puts it, its box encloses just it."""
    pixels = np.zeros((120, 160, 3), np.uint8)
    pixels[40:80, 100:140] = 255
    for seed in range(20):
        torch.manual_seed(seed)
        tensor, target = T.train_transform(128, 213)(Image.fromarray(pixels), _target(120, 160, [[100, 40, 140, 80]]))
        bright = np.asarray(T.tensor_to_image(tensor))[..., 0] > 127
        if not len(target["boxes"]):
            assert bright.sum() < 20
            continue
        ys, xs = np.nonzero(bright)
        height, width = bright.shape
        cx, cy, w, h = (target["boxes"][0] * torch.tensor([width, height, width, height])).tolist()
        found = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        np.testing.assert_allclose([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], found, atol=1.5)


def test_transform_small_training_sizes_are_in_proportion():
    resize, cropped = T.train_transform(128, 213).transforms[1].transforms
    assert resize.sizes == (77, 82, 87, 92, 97, 102, 108, 113, 118, 123, 128)
    assert cropped.transforms[0].sizes == (64, 80, 96)
    assert (cropped.transforms[1].min_size, cropped.transforms[1].max_size) == (61, 96)


def test_transform_same_seed_same_augmentation():
    results = []
    for _ in range(2):
        torch.manual_seed(7)
        results.append(T.train_transform(64, 100)(_image(50, 70), _target(50, 70, [[1, 2, 30, 40]])))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1]["boxes"], results[1][1]["boxes"])
