"""Augmentation in a run: the same whoever loads the images and wherever it was interrupted, and off at the end."""

import pytest
import torch
from PIL import Image

from dino_nb.data.augment import Augmentation
from dino_nb.data.dataset import CocoDataset
from dino_nb.errors import UserError
from dino_nb.prepare.sample import make_sample
from dino_nb.training.sampler import ResumableBatchSampler, SeededDataset
from tests.training.tiny_run import tiny_run


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_sample(tmp_path_factory.mktemp("augment") / "set", n_train=6, n_val=2)


def batches(root, workers, epoch=0, step=0, calm_from=2):
    augmentation = Augmentation("strong", 64, 107)
    dataset = CocoDataset(root, "train", augmentation)
    sampler = ResumableBatchSampler([dataset.size(i) for i in range(6)], 3, 7)
    sampler.set_epoch(epoch)
    sampler.step = step
    seeded = SeededDataset(dataset, 7, calm_from)
    options = {"num_workers": workers, "collate_fn": augmentation.collate}
    return list(torch.utils.data.DataLoader(seeded, batch_sampler=sampler, **options))


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a[0], b[0])) and all(
        torch.equal(x["boxes"], y["boxes"]) for x, y in zip(a[1], b[1])
    )


def test_augmented_batches_do_not_depend_on_workers_nor_on_where_a_run_was_interrupted(root):
    torch.manual_seed(1)
    whole = batches(root, workers=0)
    torch.manual_seed(2)
    assert all(same(a, b) for a, b in zip(whole, batches(root, workers=2)))
    assert same(whole[1], batches(root, workers=0, step=1)[0])
    assert not same(whole[0], batches(root, workers=0, epoch=1)[0])


def test_augmentation_is_off_at_the_end_of_a_run(root):
    published = Augmentation("published", 64, 107)
    dataset = SeededDataset(CocoDataset(root, "train", published), 7)
    (images, targets), *_ = batches(root, workers=0, epoch=2)
    sampler = ResumableBatchSampler([(1, 1)] * 6, 3, 7)
    sampler.set_epoch(2)
    expected, of_expected = published.collate([dataset[key] for key in next(iter(sampler))])
    assert same((images, targets), (expected, of_expected))


def test_run_with_every_augmentation_trains_and_says_what_it_does(root, tmp_path, capsys):
    result = tiny_run(root, tmp_path / "run", augment="strong,aerial,jpeg", epochs=2)
    assert result.checkpoint.is_file() and Image.open(tmp_path / "run" / "batches.jpg").width == 1600
    assert "photometric" in (said := capsys.readouterr().out) and "not in the last 15% of the run" in said


def test_mosaic_needs_two_images_in_a_batch(root, tmp_path):
    with pytest.raises(UserError, match=r"augment=mosaic mixes .* batch_size must be at least 2"):
        tiny_run(root, tmp_path / "run", augment="mosaic", batch_size=1, micro_batch=1)
    with pytest.raises(UserError, match="Did you mean 'mosaic'"):
        tiny_run(root, tmp_path / "run", augment="mosiac")
