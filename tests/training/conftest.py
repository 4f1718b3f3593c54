import pytest
import torch

from dino_nb.prepare.sample import make_sample


@pytest.fixture(scope="session")
def small_sample(tmp_path_factory):
    """A COCODIR of six training and two validation images."""
    return make_sample(tmp_path_factory.mktemp("small") / "sample", n_train=6, n_val=2)


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    """Runs that are compared bit by bit, by fixtures of any scope, must add in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
