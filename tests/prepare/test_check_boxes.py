import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dino_nb.prepare.check_boxes import SAME, duplicates
from dino_nb.prepare.layout import guess_layout, to_xywh


def random_boxes(rng, n, largest=1.0, smallest=0.01):
    """Boxes x, y, w, h inside their images, and the sizes of the images."""
    sizes = rng.integers(50, 1500, (n, 2)).astype(float)
    extent = np.maximum(1, rng.uniform(smallest, largest, (n, 2)) * sizes)
    return np.concatenate([rng.uniform(0, 1, (n, 2)) * (sizes - extent), extent], 1), sizes


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), n=st.integers(0, 60), largest=st.floats(0.02, 1))
def test_boxes_that_are_good_are_never_taken_for_another_layout(seed, n, largest):
    boxes, sizes = random_boxes(np.random.default_rng(seed), n, largest)
    assert guess_layout(boxes, sizes) == ("xywh", False)
    assert guess_layout(boxes, np.full_like(sizes, np.nan)) == ("xywh", False)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), n=st.integers(40, 90), relative=st.booleans(), largest=st.floats(0.2, 0.9))
@pytest.mark.parametrize("layout", ["xyxy", "cxcywh"])
def test_boxes_other_layouts_are_found_and_undone(layout, seed, n, relative, largest):
    good, sizes = random_boxes(np.random.default_rng(seed), n, largest, smallest=0.15)
    low, extent = good[:, :2], good[:, 2:]
    if layout == "xyxy":
        written = np.concatenate([low, low + extent], 1)
    else:
        low = np.where(np.arange(n)[:, None] % 4 == 0, sizes - extent, low)  # some touch the right and lower border
        good = np.concatenate([low, extent], 1)
        written = np.concatenate([low + extent / 2, extent], 1)
    written = written / np.tile(sizes, 2) if relative else written
    found = guess_layout(written, sizes)
    assert found == (layout, relative)
    np.testing.assert_allclose(to_xywh(written, sizes, *found), good, atol=1e-6 * sizes.max())


def test_boxes_that_reach_out_do_not_hide_the_layout_and_are_not_taken_for_one():
    rng = np.random.default_rng(0)
    boxes, sizes = random_boxes(rng, 100, 0.3)
    boxes[:30, 0] = sizes[:30, 0] - 3  # nearly a third leave their images
    assert guess_layout(boxes, sizes) == ("xywh", False)
    corners = np.concatenate([boxes[30:, :2], boxes[30:, :2] + boxes[30:, 2:]], 1)
    corners[0] = [5, 5, 1e5, 1e5]
    assert guess_layout(corners, sizes[30:]) == ("xyxy", False)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), n=st.integers(60, 400), share=st.floats(0, 0.08), largest=st.floats(0.2, 0.9))
def test_boxes_sloppy_right_and_lower_borders_are_not_taken_for_centres(seed, n, share, largest):
    rng = np.random.default_rng(seed)
    boxes, sizes = random_boxes(rng, n, largest)
    over = rng.uniform(size=(n, 2)) < share / 2
    boxes[:, :2] = np.where(over, sizes - 0.7 * boxes[:, 2:], boxes[:, :2])
    assert guess_layout(boxes, sizes)[0] == "xywh"


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), n=st.integers(0, 80), crowd=st.floats(0, 0.5))
def test_duplicates_are_those_of_a_comparison_of_all_with_all(seed, n, crowd):
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 60, (6, 4))
    boxes = (centres[rng.integers(0, 6, n)] + [0, 0, 40, 40] + rng.integers(0, 2, (n, 4))).astype(float)
    image, category = rng.integers(0, 3, n), rng.integers(0, 2, n)
    among = rng.uniform(size=n) >= crowd
    exact, near = duplicates(image, category, boxes, among)

    def iou(a, b):
        shared = np.prod(np.clip(np.minimum(a[:2] + a[2:], b[:2] + b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
        return shared / (a[2] * a[3] + b[2] * b[3] - shared)

    for j in range(n):
        twins = [i for i in range(j) if among[i] and among[j] and image[i] == image[j] and category[i] == category[j]]
        same = [i for i in twins if (boxes[i] == boxes[j]).all()]
        assert exact[j] == (same[0] if same else j)
        alike = [i for i in twins if iou(boxes[i], boxes[j]) > SAME and exact[i] == i]
        assert near[j] == (alike[0] if alike and not same else j)


def test_boxes_by_the_thousand_in_one_image_take_no_time():
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.uniform(0, 1000, (30_000, 2)), rng.uniform(5, 50, (30_000, 2))], 1)
    boxes[20_000:] = boxes[:10_000] + 0.01
    same = np.zeros(30_000, int)
    exact, near = duplicates(same, same, boxes, np.ones(30_000, bool))
    assert (near[20_000:] == np.arange(10_000)).mean() > 0.99 and (exact == np.arange(30_000)).all()
