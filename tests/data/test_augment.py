"""Augmentation: pixels and boxes move together, nothing lies outside, and the published pipeline stays as it is."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dino_nb.data.augment import _STEPS, NAMES, PRESETS, Augmentation, parse_names
from dino_nb.data.images import turned_boxes
from dino_nb.data.mix import LEAST_SIDE, LEAST_VISIBLE, mixup, mosaic
from dino_nb.data.transforms import MEAN, STD, as_boxes, normalize, tensor_to_image, train_transform
from dino_nb.errors import UserError

MOVING = ["iou_crop", "zoom_out", "affine", "turns", "vertical_flip"]
COLOURS = np.array([[255, 40, 40], [40, 255, 40], [40, 40, 255]])  # of the three objects
GROUND = (20, 20, 20)


def scene(rng, height=120, width=160):
    """A dark image with three bright rectangles that do not touch, and its target."""
    pixels = np.full((height, width, 3), GROUND, np.uint8)
    boxes = []
    for i, colour in enumerate(COLOURS):
        w, h = rng.integers(14, width // 3 - 6), rng.integers(14, height - 10)
        x, y = i * width // 3 + rng.integers(0, width // 3 - w), rng.integers(0, height - h)
        pixels[y : y + h, x : x + w] = colour
        boxes.append([x, y, x + w, y + h])
    target = {"image_id": 5, "orig_size": torch.tensor([height, width]), "labels": torch.arange(3)}
    return Image.fromarray(pixels), target | {
        "iscrowd": torch.zeros(3, dtype=torch.int64),
        "boxes": as_boxes(boxes, height, width),
    }


def extents(pixels):
    """Label -> corners around the pixels of its colour."""
    found = {}
    for label, colour in enumerate(COLOURS):
        ys, xs = np.nonzero((np.abs(pixels.astype(int) - colour) < 90).all(-1))
        if len(ys):
            found[label] = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    return found


def seed(value):
    torch.manual_seed(value)


@settings(max_examples=40, deadline=None)
@given(value=st.integers(0, 2**31))
@pytest.mark.parametrize("name", MOVING)
def test_step_moves_boxes_with_their_pixels(name, value):
    seed(value)
    image, target = scene(np.random.default_rng(value))
    shown, moved = _STEPS[name]()(image, target)
    boxes = moved["boxes"].numpy()
    assert moved["boxes"].canvas_size == (shown.height, shown.width)
    assert len(boxes) == len(moved["labels"]) == len(moved["iscrowd"]) and moved["image_id"] == 5
    assert (boxes >= 0).all() and (boxes <= [shown.width, shown.height] * 2).all()
    seen = extents(np.asarray(shown))
    for box, label in zip(boxes, moved["labels"].tolist()):
        slack = 12 if name == "affine" else 1.5  # a turned box is drawn around its object
        if min(box[2:] - box[:2]) > 4:
            np.testing.assert_allclose(box, seen[label], atol=slack)
            assert (box[:2] <= seen[label][:2] + 1.5).all() and (box[2:] >= seen[label][2:] - 1.5).all()
    for label in set(seen) - set(moved["labels"].tolist()):  # what has no box any more is a small rest of its object
        whole = target["boxes"][label]
        rest = np.prod(seen[label][2:] - seen[label][:2])
        centre_gone = name == "iou_crop"
        assert centre_gone or rest < 1.4 * LEAST_VISIBLE * float((whole[2:] - whole[:2]).prod())


@settings(max_examples=25, deadline=None)
@given(value=st.integers(0, 2**31))
@pytest.mark.parametrize("preset", [*PRESETS, *NAMES])
def test_presets_give_what_the_network_takes(preset, value):
    seed(value)
    augmentation = Augmentation(preset, 64, 107)
    items = [augmentation(*scene(np.random.default_rng(value + i))) for i in range(3)]
    images, targets = augmentation.collate(items)
    assert all(image.dtype == torch.float32 for image in images) or all(image.dtype == torch.uint8 for image in images)
    for image, target in zip(map(normalize, images), targets):
        assert image.dtype == torch.float32 and image.shape[0] == 3 and image.isfinite().all()
        boxes = target["boxes"]
        assert type(boxes) is torch.Tensor and boxes.shape == (len(target["labels"]), 4) and "seed" not in target
        assert len(target["area"]) == len(target["iscrowd"]) == len(boxes)
        corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
        assert (boxes[:, 2:] > 0).all() and (corners > -1e-5).all() and (corners < 1 + 1e-5).all()
        assert target["size"].tolist() == list(image.shape[-2:])


@pytest.mark.parametrize("augment", ["published", "", (), "off"])
def test_published_is_exactly_the_published_pipeline(augment):
    augmentation = Augmentation("strong" if augment == "off" else augment, 64, 107)
    augmentation.on = augment != "off"
    for value in range(8):
        image, target = scene(np.random.default_rng(value))
        seed(value)
        expected, of_expected = train_transform(64, 107)(image, target)
        seed(value)
        (shown,), (found,) = augmentation.collate([augmentation(image, target)])
        assert torch.equal(shown, expected) and found.keys() == of_expected.keys()
        assert torch.equal(found["boxes"], of_expected["boxes"])


def item(rng, label, height, width):
    """An item whose only object is filled with the colour of its label."""
    pixels = np.full((height, width, 3), GROUND, np.uint8)
    w, h = rng.integers(12, width // 2), rng.integers(12, height // 2)
    x, y = rng.integers(0, width - w), rng.integers(0, height - h)
    pixels[y : y + h, x : x + w] = COLOURS[label]
    tensor = (torch.tensor(pixels).permute(2, 0, 1) / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[
        :, None, None
    ]
    box = torch.tensor([[(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]])
    return tensor, {
        "labels": torch.tensor([label]),
        "boxes": box,
        "area": torch.tensor([float(w * h)]),
        "image_id": label,
    }


def corners(target, image):
    height, width = image.shape[-2:]
    x, y, w, h = (target["boxes"] * torch.tensor([width, height, width, height])).T.numpy()
    return np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)


@settings(max_examples=60, deadline=None)
@given(value=st.integers(0, 2**31))
def test_mosaic_moves_boxes_with_their_pixels(value):
    rng, draw = np.random.default_rng(value), torch.Generator().manual_seed(value)
    items = [item(rng, i % 3, *rng.integers(60, 140, 2)) for i in range(4)]
    items[3][1]["labels"][:] = 7  # shows the colour of label 0 once more, in the last quarter
    before = [t.clone() for t, _ in items]
    image, target = mosaic(items, draw)
    assert image.shape == items[0][0].shape and target["image_id"] == 0
    assert all(torch.equal(a, b) for a, (b, _) in zip(before, items))
    pixels = np.asarray(tensor_to_image(image)).astype(int)
    for box, label, area in zip(corners(target, image), target["labels"].tolist(), target["area"].tolist()):
        assert (box >= -1e-3).all() and (box[2:] <= [image.shape[2] + 1e-3, image.shape[1] + 1e-3]).all()
        assert (
            area == pytest.approx(np.prod(box[2:] - box[:2]), rel=1e-3) and min(box[2:] - box[:2]) >= LEAST_SIDE - 1e-3
        )
        left, top, right, bottom = np.round(box).astype(int)
        inner = pixels[top + 2 : bottom - 2, left + 2 : right - 2]
        assert inner.size == 0 or (np.abs(inner - COLOURS[label % 7]) < 60).all()
    shown = extents(pixels)
    assert set(target["labels"].tolist()) - {7} <= set(shown)


@settings(max_examples=30, deadline=None)
@given(value=st.integers(0, 2**31))
def test_mixup_shows_both_and_keeps_their_boxes(value):
    rng, draw = np.random.default_rng(value), torch.Generator().manual_seed(value)
    first, second = item(rng, 0, *rng.integers(60, 140, 2)), item(rng, 2, *rng.integers(60, 140, 2))
    image, target = mixup(first, second, draw)
    assert image.shape == first[0].shape and torch.equal(target["boxes"][0], first[1]["boxes"][0])
    pixels = np.asarray(tensor_to_image(image)).astype(int)
    for box, label in zip(corners(target, image), target["labels"].tolist()):
        left, top, right, bottom = np.round(box).astype(int)
        inner = pixels[top + 1 : bottom - 1, left + 1 : right - 1, label]
        assert inner.size == 0 or (inner > 70).all()  # 35 to 65 % of its colour
    assert (target["labels"] == 0).sum() == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_boxes_come_back(orientation):
    box, back = np.array([[3.0, 5, 20, 9]]), {6: 8, 8: 6}.get(orientation, orientation)
    there = turned_boxes(box, (40, 24), orientation)
    size = (24, 40) if orientation > 4 else (40, 24)
    np.testing.assert_array_equal(turned_boxes(there, size, back), box)


def test_same_seed_same_batch_whatever_the_process_drew_before():
    augmentation = Augmentation("strong", 64, 107)
    items = []
    for value in range(4):
        seed(value)
        items.append(augmentation(*scene(np.random.default_rng(value))))
    seed(1)
    first = pickle.loads(pickle.dumps(augmentation)).collate([(t, dict(d)) for t, d in items])
    seed(2)
    second = augmentation.collate([(t, dict(d)) for t, d in items])
    assert all(torch.equal(a, b) for a, b in zip(first[0], second[0]))
    assert any(not torch.equal(a, normalize(t)) for a, (t, _) in zip(first[0], items))


def test_a_batch_of_one_is_not_mixed():
    augmentation = Augmentation("mosaic", 64, 107)
    image, target = augmentation(*scene(np.random.default_rng(0)))
    (shown,), _ = augmentation.collate([(image, target)])
    assert torch.equal(shown, image) and augmentation.least_batch == 2 and Augmentation("light").least_batch == 1


def test_images_without_objects_pass():
    seed(0)
    for preset in (*PRESETS, *NAMES):
        augmentation = Augmentation(preset, 32, 64)
        empty = {"labels": torch.zeros(0, dtype=torch.int64), "boxes": as_boxes([], 50, 70)}
        items = [augmentation(Image.new("RGB", (70, 50)), dict(empty)) for _ in range(6)]
        assert all(t["boxes"].shape == (0, 4) for t in augmentation.collate(items)[1])


def test_names_and_presets():
    assert parse_names("light, mosaic") == ("zoom_out", "photometric", "mosaic")
    assert parse_names(["turns", "turns"]) == ("turns",) and parse_names("published") == () == parse_names("")
    assert set().union(*PRESETS.values()) <= set(NAMES) and str(Augmentation("aerial"))
    for wrong, hint in (("lihgt", "Did you mean 'light'"), ("mosaics", "Did you mean 'mosaic'")):
        with pytest.raises(UserError, match=hint):
            Augmentation(wrong)
