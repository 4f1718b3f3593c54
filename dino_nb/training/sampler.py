"""The order of the training images, and what is drawn for each: functions of seed, epoch and image.

Neither depends on the number of processes or loader workers, nor on where a run was interrupted.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from dino_nb.errors import UserError


def mix_seed(*parts: int) -> int:
    """One seed in [0, 2^63) from whole numbers ``parts`` >= 0, for example ``(seed, epoch, rank)``."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def seed_everything(*parts: int) -> None:
    """Seed Python, NumPy and torch (all devices) from whole numbers, for example ``(seed, rank)``."""
    seed = mix_seed(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


class ResumableBatchSampler(Sampler[list[tuple[int, int]]]):
    """Yields one list of keys ``(epoch, index)`` per optimiser step: this process's share of the effective batch.

    The shares of all processes together are the batch that a single process would take. Every batch is full: the last
    one of an epoch is filled up from the epoch's first images. The keys are for ``SeededDataset``.

    Args:
        sizes: ``(height, width)`` of every image; only their number counts unless ``aspect_groups``.
        batch_size: images per optimiser step, over all processes.
        seed: whole number >= 0.
        aspect_groups: order each batch by aspect ratio: the micro-batches that it is cut into need less padding. What
            is in a batch stays as random as without.
        weights: how often each image comes, relative to the others; None: every image once per epoch.
        rank, world_size: of this process, and of all.

    Attributes:
        epoch: as set by ``set_epoch``.
        step: batches of this epoch that were trained on, counted by the training loop (loader workers run ahead: what
            was yielded says nothing about that); iteration starts there.
    """

    def __init__(
        self,
        sizes: Sequence[tuple[int, int]],
        batch_size: int,
        seed: int,
        aspect_groups: bool = False,
        weights: np.ndarray | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not len(sizes):
            raise UserError("there are no training images.")
        if batch_size < world_size:
            raise UserError(
                f"batch_size={batch_size} is the number of images per step over all processes: with {world_size} "
                f"processes it must be at least {world_size}."
            )
        self.images, self.batch_size, self.seed = len(sizes), batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.aspects = np.array([width / max(height, 1) for height, width in sizes]) if aspect_groups else None
        self.weights = weights
        self.epoch = self.step = 0

    def __len__(self) -> int:
        """Batches of a whole epoch, wherever it is resumed."""
        return -(-self.images // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = list(range(self.images))
        if self.weights is not None:  # systematic: each image as often as it should, rounded up or down by chance
            edges = np.cumsum(self.weights) / np.sum(self.weights) * self.images
            first = random.Random(mix_seed(self.seed, self.epoch, 1)).random()
            order = np.searchsorted(edges, np.arange(self.images) + first).clip(max=self.images - 1).tolist()
        random.Random(mix_seed(self.seed, self.epoch)).shuffle(order)
        batches = np.resize(order, (len(self), self.batch_size))  # begins again where the last batch needs filling up
        for batch in batches[self.step :]:
            if self.aspects is not None:
                batch = batch[np.argsort(self.aspects[batch], kind="stable")]
            share = np.array_split(batch, self.world_size)[self.rank]
            yield [(self.epoch, int(index)) for index in share]

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of ``epoch``; the position in the present one is kept."""
        if epoch != self.epoch:
            self.epoch, self.step = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Plain data: what must be the same in a resumed run, and the position."""
        return {"epoch": self.epoch, "step": self.step, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the position of ``state``. Raises UserError where it is another order of images."""
        for name, value in self._identity().items():
            if state.get(name, value) != value:
                raise UserError(
                    f"the order of the training images cannot be resumed: {name} was {state[name]!r} and is "
                    f"{value!r}. Put it back, or start a new run in another output folder."
                )
        self.epoch, self.step = state["epoch"], state["step"]

    def _identity(self):
        grouped = self.aspects is not None
        return {"seed": self.seed, "images": self.images, "batch_size": self.batch_size, "aspect_groups": grouped}


def image_weights(labels: Sequence[np.ndarray], repeat_rare: float, empty_share: float) -> np.ndarray | None:
    """How often each image should come; None where every image comes once.

    Repeat factors as in LVIS (arXiv 1908.03195, appendix B): a class that is in a share f of the images asks for
    ``max(1, sqrt(repeat_rare / f))``, and an image for the most that one of its classes does.

    Args:
        labels: the classes in each image.
        repeat_rare: the share below which a class is rare; 0: none is.
        empty_share: largest share of images without objects.
    """
    present = [np.unique(found) for found in labels]
    shares = np.bincount(np.concatenate([*present, []]).astype(int)) / len(present)
    factors = np.sqrt(np.divide(repeat_rare, shares, out=np.ones_like(shares), where=shares > 0)).clip(min=1)
    weights = np.array([factors[found].max(initial=0 if len(found) else 1) for found in present])
    empty = np.array([not len(found) for found in present])
    if empty.any() and not empty.all():
        most = weights[~empty].sum() * empty_share / max(1 - empty_share, 1e-9)
        weights[empty] *= min(most / empty.sum(), 1)
    return None if (weights == 1).all() else weights


class SeededDataset(Dataset):
    """``dataset`` by keys ``(epoch, index)``, each drawing its augmentation from its own seed.

    An image looks the same in an epoch whichever worker or process loads it, before and after a resume. The generators
    of the process are left as they were. Pickles to workers like ``dataset`` does. From epoch ``calm_from`` on the
    dataset's ``Augmentation`` is off.
    """

    def __init__(self, dataset: Dataset, seed: int, calm_from: int | None = None) -> None:
        self.dataset, self.seed = dataset, seed
        # in shared memory: loader workers follow when a run is shortened
        self.calm_from = None if calm_from is None else torch.tensor(calm_from).share_memory_()

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        python, numpy = random.getstate(), np.random.get_state()
        try:
            with torch.random.fork_rng(devices=[]):
                seed_everything(self.seed, epoch, index)
                if self.calm_from is not None:
                    self.dataset.transform.on = bool(epoch < self.calm_from)  # type: ignore[attr-defined]
                return self.dataset[index]
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
