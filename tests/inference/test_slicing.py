import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import dino_nb
from dino_nb.data.windows import slices
from dino_nb.errors import UserError
from dino_nb.inference.detector import Detector
from dino_nb.inference.slicing import merge
from dino_nb.prepare.sample import make_sample
from tests.inference.fake import FakeModel


@settings(deadline=None)
@given(st.integers(1, 900), st.integers(1, 900), st.integers(32, 400), st.floats(0, 0.9))
def test_slices_cover_the_image_and_share_what_they_should(width, height, size, overlap):
    whole, *squares = slices(width, height, size, overlap)
    assert whole == (0, 0, width, height)
    assert bool(squares) == (max(width, height) > size)
    seen = torch.zeros(height, width, dtype=torch.bool)
    for x0, y0, x1, y1 in squares:
        assert x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height
        assert (x1 - x0, y1 - y0) == (min(size, width), min(size, height))
        seen[y0:y1, x0:x1] = True
    assert seen.all() or not squares
    for length, axis in ((width, 0), (height, 1)):
        starts = sorted({square[axis] for square in squares})
        assert all(b - a <= size - int(size * overlap) for a, b in itertools.pairwise(starts)), (length, starts)


def _found(*rows):
    scores, labels, boxes = zip(*rows) if rows else ((), (), ())
    return {
        "scores": torch.tensor(scores),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "boxes": torch.tensor(boxes).reshape(-1, 4),
    }


def test_merge_moves_boxes_and_leaves_out_what_an_inner_edge_cuts():
    windows = [(0, 0, 180, 100), (0, 0, 100, 100), (80, 0, 180, 100)]
    cut = (0.95, 0, [90.0, 10, 100, 20])  # the left half of what the whole image and the other window show whole
    border = (0.6, 1, [0.0, 0, 10, 10])  # the image ends there: nothing is cut off
    right = (0.9, 0, [10.0, 10, 30, 20])
    merged = merge([_found((0.5, 0, [90.0, 10, 110, 20])), _found(cut, border), _found(right)], windows)
    torch.testing.assert_close(merged["scores"], torch.tensor([0.9, 0.6]))
    assert merged["labels"].tolist() == [0, 1]
    assert merged["boxes"].tolist() == [[90, 10, 110, 20], [0, 0, 10, 10]]


def test_merge_keeps_other_classes_and_what_one_window_tells_apart():
    windows = [(0, 0, 64, 64), (0, 0, 32, 32)]
    box = [10.0, 10, 20, 20]
    near = [11.0, 10, 21, 20]
    merged = merge([_found((0.9, 0, box), (0.8, 0, near)), _found((0.7, 1, box), (0.6, 0, box))], windows)
    assert [round(s, 1) for s in merged["scores"].tolist()] == [0.9, 0.8, 0.7]
    assert merged["labels"].tolist() == [0, 0, 1]
    assert merge([_found(), _found()], windows)["boxes"].shape == (0, 4)


def test_predict_in_slices_finds_small_objects(tmp_path):
    """24 images in one: shrunk to the network's size little of it can be told."""
    sample = make_sample(tmp_path / "sample", n_train=1, n_val=24)
    images = [Image.open(path).convert("RGB") for path in sorted(Path(sample, "val2017").iterdir())]
    width, height = images[0].size
    large = Image.new("RGB", (6 * width, 4 * height))
    for i, image in enumerate(images):
        large.paste(image, (i % 6 * width, i // 6 * height))
    detector = dino_nb.load("dino-tiny", "cpu")
    whole = detector.predict(large)
    sliced = detector.predict(large, slice_size=width, slice_overlap=0.3, batch_size=4)
    assert len(sliced.names) > 30 > 3 * len(whole.names)
    assert (sliced["boxes"] > -5).all() and (sliced["boxes"][:, 2] < large.width + 5).all()
    assert sliced["scores"].diff().max() <= 0 and sliced["scores"].min() >= 0.3
    small = detector.predict(images[0], slice_size=10_000)
    assert torch.equal(small["boxes"], detector.predict(images[0])["boxes"])


def test_predict_in_slices_batches_all_but_the_whole():
    detector = Detector(FakeModel(), "cpu")
    detector.predict(Image.new("RGB", (200, 100)), slice_size=64, slice_overlap=0, batch_size=3)
    assert [len(batch) for batch in detector.model.seen] == [1, 3, 3, 2]


@pytest.mark.parametrize("options", [{"slice_size": 8}, {"slice_size": 100, "slice_overlap": 1}])
def test_predict_refuses_impossible_slices(options):
    with pytest.raises(UserError, match="slice_size must be at least 32"):
        dino_nb.load("dino-tiny", "cpu").predict(Image.new("RGB", (9, 9)), **options)
