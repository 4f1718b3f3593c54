import numpy as np
import pytest
from PIL import Image

from dino_nb.draw import draw_boxes
from dino_nb.evaluation.matching import Matches
from dino_nb.inference.detector import Detector
from dino_nb.prepare.sample import make_sample
from dino_nb.viz.judged import FLOOR, judge
from tests.inference.fake import FakeModel


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return make_sample(tmp_path_factory.mktemp("judged") / "sample", n_train=1, n_val=8)


@pytest.fixture
def judged(sample):
    """Detections with known scores: of every image the first object right, something wrong beside it."""
    one = judge(Detector(FakeModel(["red circle", None, "dog"]), "cpu"), sample)
    scores, truth = np.random.default_rng(0).uniform(FLOOR, 1, 2 * len(one.indices)), one.matches.truth
    first = np.searchsorted(truth[:, 0], np.arange(len(one.indices)))
    found = np.repeat(truth[first], 2, 0)
    found[:, 5] = scores
    taken = np.stack([first, np.full_like(first, -1)], 1).ravel()
    one.matches = Matches(found, truth, taken, len(one.data.class_names))
    return one


@pytest.mark.parametrize("threshold", [FLOOR, 0.3, 0.62, 1.0])
@pytest.mark.parametrize("classes", [(), ("red circle",), ("red circle", "blue square")])
def test_rates_agree_with_counting_image_by_image(judged, threshold, classes):
    counts = {"correct": 0, "wrong": 0, "missed": 0}
    for index in range(len(judged.indices)):
        _, kinds, missed = judged.outcomes(index, threshold, classes)
        for kind in kinds:
            counts[kind] += 1
        counts["missed"] += len(missed)
    rates = judged.rates(threshold, classes)
    right, found, objects = counts["correct"], counts["correct"] + counts["wrong"], counts["correct"] + counts["missed"]
    assert rates["precision"] == pytest.approx(right / found if found else -1)
    assert rates["recall"] == pytest.approx(right / objects)
    assert rates["f1"] == pytest.approx(2 * right / (found + objects))


def test_curves_are_the_rates_at_every_threshold(judged):
    thresholds = np.linspace(FLOOR, 1, 100)
    curves = judged.rates(thresholds)
    for i in (0, 17, 50, 99):
        rates = judged.rates(thresholds[i])
        assert [curves[key][i] for key in rates] == pytest.approx([rates[key] for key in rates])
    threshold, f1 = judged.best()
    assert judged.rates(threshold)["f1"] == pytest.approx(f1)
    assert f1 >= max(curves["f1"])


def test_with_errors_lists_images_with_a_wrong_or_a_missed_box(judged):
    for threshold in (FLOOR, 0.5, 1.0):
        want = []
        for index in range(len(judged.indices)):
            _, kinds, missed = judged.outcomes(index, threshold)
            want += [index] if "wrong" in kinds or len(missed) else []
        assert judged.with_errors(threshold) == want


def test_judge_counts_no_class_that_the_data_set_lacks(sample):
    judged = judge(Detector(FakeModel(["dog", None, "cow"]), "cpu"), sample)
    rates = judged.rates(FLOOR)
    assert (rates["precision"], rates["recall"]) == (-1, 0) and judged.best() is None
    _, kinds, missed = judged.outcomes(0, FLOOR)
    assert set(kinds) == {"other"} and len(missed) == (judged.matches.truth[:, 0] == 0).sum()


def test_draw_tells_outcomes_apart(judged):
    rgb = {"correct": (0, 0x9E, 0x73), "wrong": (0xD5, 0x5E, 0), "missed": (0xF0, 0xE4, 0x42)}

    def seen(threshold):
        drawn = np.asarray(judged.draw(0, threshold, labels=False, scores=False, legend=False))
        return {kind for kind, color in rgb.items() if (drawn == color).all(-1).any()}

    one = judged.matches
    one.found[:2, 5], one.found_at[0] = (0.8, 0.4), 0.8
    one.found[1, 1:5] = [2, 2, 28, 28]
    several = {"missed"} if (one.truth[:, 0] == 0).sum() > 1 else set()
    assert seen(0.3) == {"correct", "wrong"} | several
    assert seen(0.5) == {"correct"} | several
    assert seen(0.9) == {"missed"}
    assert judged.draw(0).height > judged.draw(0, legend=False).height


def test_draw_boxes_takes_boxes_without_a_score():
    image = Image.new("RGB", (200, 100))
    assert draw_boxes(image, [[9, 30, 50, 60], [90, 30, 150, 60]], ["a", "b"], [0.5, None]).size == (200, 100)
