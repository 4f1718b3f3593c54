"""The sheet shows what the network gets: the run's own images, their boxes on their objects."""

import numpy as np
import pytest

from dino_nb import viz
from dino_nb.data.augment import PRESETS
from dino_nb.errors import UserError
from dino_nb.prepare.sample import make_sample


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_sample(tmp_path_factory.mktemp("batches") / "set", n_train=5, n_val=1)


@pytest.mark.parametrize("preset", PRESETS)
def test_training_batches_are_the_same_for_a_seed_and_others_for_another(root, preset):
    options = {"images": 3, "input_size": (96, 160), "width": 600}
    first = viz.training_batches(root, preset, **options)
    assert first.width == 600 and np.array_equal(first, viz.training_batches(root, preset, **options))
    assert not np.array_equal(first, viz.training_batches(root, preset, seed=1, **options).resize(first.size))


def test_training_batches_show_no_more_than_there_is(root):
    assert viz.training_batches(root, images=99, input_size=(64, 107)).width == 1600
    with pytest.raises(UserError, match="Did you mean 'strong'"):
        viz.training_batches(root, "strnog")
