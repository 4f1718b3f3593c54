"""The order of the training images and their random numbers: by (seed, epoch) alone, wherever a run is cut."""

import json
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from dino_nb.errors import UserError
from dino_nb.training.sampler import ResumableBatchSampler, SeededDataset, image_weights

SIZES = [(100, 100 + 10 * (i % 7)) for i in range(23)]


def indices(sampler):
    return [[index for _, index in batch] for batch in sampler]


def test_sampler_shows_every_image_once_per_epoch_and_fills_up_the_last_batch():
    batches = indices(ResumableBatchSampler(SIZES, 5, seed=1))
    assert [len(b) for b in batches] == [5] * 5
    flat = [i for b in batches for i in b]
    assert sorted(flat[:23]) == list(range(23)) and flat[23:] == flat[:2]


def test_sampler_repeats_images_where_a_batch_needs_more():
    (batch,) = indices(ResumableBatchSampler(SIZES[:3], 8, seed=0))
    assert len(batch) == 8 and np.bincount(batch).tolist().count(3) == 2


def test_sampler_order_follows_seed_and_epoch():
    sampler = ResumableBatchSampler(SIZES, 5, seed=1)
    first = indices(sampler)
    sampler.set_epoch(1)
    second = indices(sampler)
    assert first != second
    assert second != indices(ResumableBatchSampler(SIZES, 5, seed=2))
    again = ResumableBatchSampler(SIZES, 5, seed=1)
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    assert indices(again) == first
    again.set_epoch(1)
    assert indices(again) == second


@given(
    images=st.integers(1, 60),
    batch=st.integers(1, 16),
    world=st.integers(1, 8),
    aspect=st.booleans(),
    epoch=st.integers(0, 3),
)
@settings(max_examples=150, deadline=None)
def test_sampler_shares_of_all_processes_are_the_batch_of_one(images, batch, world, aspect, epoch):
    if batch < world:
        return
    sizes = [(50, 20 + 7 * (i % 11)) for i in range(images)]

    def make(rank, world_size):
        sampler = ResumableBatchSampler(sizes, batch, 3, aspect_groups=aspect, rank=rank, world_size=world_size)
        sampler.set_epoch(epoch)
        return indices(sampler)

    shares = [make(rank, world) for rank in range(world)]
    assert all(share for rank in shares for share in rank), "no process is without a image"
    joined = [[key for share in parts for key in share] for parts in zip(*shares, strict=True)]
    assert joined == make(0, 1)


def test_sampler_refuses_too_many_processes_and_no_images():
    with pytest.raises(UserError, match="at least 4"):
        ResumableBatchSampler(SIZES, 3, 0, world_size=4)
    with pytest.raises(UserError, match="no training images"):
        ResumableBatchSampler([], 3, 0)


def test_sampler_aspect_groups_change_the_order_in_a_batch_only():
    rng = random.Random(0)
    sizes = [(rng.randint(50, 400), rng.randint(50, 400)) for _ in range(160)]
    plain = indices(ResumableBatchSampler(sizes, 16, 1))
    grouped = indices(ResumableBatchSampler(sizes, 16, 1, aspect_groups=True))
    assert [sorted(b) for b in grouped] == [sorted(b) for b in plain]

    def padded(batches):
        """Pixels of all micro-batches of two, at a short side of 100."""
        total = 0
        for batch in batches:
            for pair in (batch[i : i + 2] for i in range(0, 16, 2)):
                shapes = [np.array(sizes[i]) * 100 / min(sizes[i]) for i in pair]
                total += 2 * np.prod(np.max(shapes, axis=0))
        return total

    assert padded(grouped) < 0.8 * padded(plain)


@pytest.mark.parametrize("cut", range(6))
def test_sampler_resumes_an_epoch_in_the_same_order(cut):
    whole = ResumableBatchSampler(SIZES, 5, seed=4, aspect_groups=True)
    whole.set_epoch(2)
    expected = indices(whole)
    for _, batch in zip(range(cut), whole):
        assert batch
        whole.step += 1
    saved = json.loads(json.dumps(whole.state_dict()))
    # in a new process, on another number of GPUs
    parts = []
    for rank in range(2):
        resumed = ResumableBatchSampler(SIZES, 5, seed=4, aspect_groups=True, rank=rank, world_size=2)
        resumed.load_state_dict(saved)
        resumed.set_epoch(2)
        parts.append(indices(resumed))
    assert [a + b for a, b in zip(*parts)] == expected[cut:]
    resumed.set_epoch(3)
    assert len(indices(resumed)) == 5


def test_sampler_does_not_count_batches_that_were_fetched_ahead():
    sampler = ResumableBatchSampler(SIZES, 5, seed=4)
    list(sampler)
    assert sampler.state_dict()["step"] == 0


@pytest.mark.parametrize("change", [{"seed": 5}, {"batch_size": 4}, {"aspect_groups": True}, {"sizes": SIZES[:9]}])
def test_sampler_refuses_another_order_by_name(change):
    arguments = {"sizes": SIZES, "batch_size": 5, "seed": 4}
    saved = ResumableBatchSampler(**arguments).state_dict()
    name = "images" if "sizes" in change else next(iter(change))
    with pytest.raises(UserError, match=f"{name} was"):
        ResumableBatchSampler(**{**arguments, **change}).load_state_dict(saved)


def test_sampler_weights_say_how_often_images_come():
    weights = np.array([4.0, 0.0] + [1.0] * 18)
    sampler, counts = ResumableBatchSampler(SIZES[:20], 5, seed=1, weights=weights), np.zeros(20)
    for epoch in range(60):
        sampler.set_epoch(epoch)
        counts += np.bincount([i for batch in indices(sampler) for i in batch], minlength=20)
    assert counts.sum() == 60 * 20 and counts[1] == 0
    assert counts / 60 == pytest.approx(weights / weights.sum() * 20, abs=0.2)


def test_image_weights_repeat_rare_classes_and_thin_out_empty_images():
    labels = [np.array([0])] * 16 + [np.array([0, 1])] * 4
    weights = image_weights(labels, 0.8, 1)
    assert weights == pytest.approx([1] * 16 + [2] * 4), "class 1 is in a fifth of the images: sqrt(0.8 / 0.2)"
    assert image_weights(labels, 0, 1) is None and image_weights(labels, 0.1, 0.5) is None
    empty = [*labels, *[np.array([], int)] * 20]
    weights = image_weights(empty, 0, 0.2)
    assert weights[-20:].sum() / weights.sum() == pytest.approx(0.2)
    assert image_weights(empty, 0, 0)[-20:].sum() == 0
    assert image_weights(empty, 0, 0.5) is None, "they are half of the images, no more"


class Noisy(Dataset):
    """Each item is three random numbers, one per generator."""

    def __len__(self):
        return len(SIZES)

    def __getitem__(self, index):
        return index, random.random(), float(np.random.rand()), torch.rand(1).item()


def test_seeded_dataset_augments_alike_in_any_worker_and_after_a_resume():
    def load(workers, skip=0):
        sampler = ResumableBatchSampler(SIZES, 6, seed=9)
        sampler.set_epoch(1)
        sampler.step = skip
        data = SeededDataset(Noisy(), seed=9)
        return list(DataLoader(data, batch_sampler=sampler, num_workers=workers, collate_fn=list))

    alone = load(0)
    assert alone == load(2)
    assert alone[2:] == load(0, skip=2)
    draws = {item[1:] for batch in alone for item in batch}
    assert len(draws) == len(SIZES)
    assert SeededDataset(Noisy(), 9)[1, 0] != SeededDataset(Noisy(), 9)[2, 0]


def test_sampler_takes_states_that_call_images_pictures():
    saved = ResumableBatchSampler(SIZES, 5, seed=4).state_dict()
    old = {"pictures": saved.pop("images"), "shuffle": True, **saved, "step": 2}
    resumed = ResumableBatchSampler(SIZES, 5, seed=4)
    resumed.load_state_dict(old)
    assert resumed.step == 2


def test_seeded_dataset_leaves_the_generators_of_the_process_alone():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    SeededDataset(Noisy(), 0)[0, 0]
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected
