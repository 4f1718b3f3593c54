"""The order of the training pictures, and each picture's own random numbers, by (seed, epoch) alone.

Neither depends on the number of processes or loader workers, nor on where a run was interrupted.
"""

import random

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from dino_nb.errors import UserError
from dino_nb.training.randomness import mix_seed, seed_everything


class ResumableBatchSampler(Sampler):
    """Yields one list of keys ``(epoch, index)`` an optimiser step: this process's share of the effective batch.

    The shares of all processes together are the batch that a single process would take. Every batch is full: the last
    one of an epoch is filled up from the epoch's first pictures, or left out where ``drop_last``. The keys are for
    ``SeededDataset``.

    Args:
        sizes: ``(height, width)`` of every picture; only their number counts unless ``aspect_groups``.
        batch_size: pictures an optimiser step, over all processes.
        seed: whole number >= 0.
        shuffle: a new order each epoch; False keeps the data set's.
        aspect_groups: order each batch by aspect ratio, so that the micro-batches that it is cut into need little
            padding. What is in a batch stays as random as without.
        rank, world_size: of this process, and of all.
        drop_last: leave out an incomplete last batch (never the only one).

    Attributes:
        epoch: as set by ``set_epoch``.
        step: batches of this epoch that were trained on, as counted by ``step_done``; iteration starts there.
    """

    def __init__(
        self, sizes, batch_size, seed, shuffle=True, aspect_groups=False, rank=0, world_size=1, drop_last=False
    ):
        if not len(sizes):
            raise UserError("there are no training pictures.")
        if batch_size < world_size:
            raise UserError(
                f"batch_size={batch_size} is the number of pictures a step over all processes: with {world_size} "
                f"processes it must be at least {world_size}."
            )
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self.rank, self.world_size = rank, world_size
        self.pictures = len(sizes)
        self.aspects = np.array([width / max(height, 1) for height, width in sizes]) if aspect_groups else None
        whole, rest = divmod(self.pictures, batch_size)
        self.batches = max(whole, 1) if drop_last else whole + bool(rest)
        self.epoch = self.step = 0

    def __len__(self):
        """Batches an epoch (of a whole one, wherever it is resumed)."""
        return self.batches

    def __iter__(self):
        order = self._order()
        for start in range(self.step * self.batch_size, self.batches * self.batch_size, self.batch_size):
            batch = order[start : start + self.batch_size]
            if self.aspects is not None:
                batch = batch[np.argsort(self.aspects[batch], kind="stable")]
            share = np.array_split(batch, self.world_size)[self.rank]
            yield [(self.epoch, int(index)) for index in share]

    def set_epoch(self, epoch):
        """Go to the start of ``epoch``; where it is the present one, the position in it is kept."""
        if epoch != self.epoch:
            self.epoch, self.step = epoch, 0

    def step_done(self):
        """Count a batch as trained on. Loader workers run ahead, so what was yielded says nothing about that."""
        self.step += 1

    def state_dict(self):
        """Plain data; only what must be the same in a resumed run, and the position."""
        return {"epoch": self.epoch, "step": self.step, **self._identity()}

    def load_state_dict(self, state):
        """Take the position of ``state``. Raises UserError where it is another order of pictures."""
        for name, value in self._identity().items():
            if state[name] != value:
                raise UserError(
                    f"the order of the training pictures cannot be gone on with: {name} was {state[name]!r} and is "
                    f"{value!r}. Put it back, or start a new run in another output folder."
                )
        self.epoch, self.step = state["epoch"], state["step"]

    def _identity(self):
        return {
            "seed": self.seed,
            "pictures": self.pictures,
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "aspect_groups": self.aspects is not None,
        }

    def _order(self):
        """``(batches * batch_size,)`` indices: the epoch's permutation, begun again where batches need filling up."""
        order = list(range(self.pictures))
        if self.shuffle:
            random.Random(mix_seed(self.seed, self.epoch)).shuffle(order)
        return np.resize(order, self.batches * self.batch_size)


class SeededDataset(Dataset):
    """``dataset`` by keys ``(epoch, index)``, each drawing its augmentation from its own seed.

    So a picture looks the same in an epoch whichever worker or process loads it, before and after a resume. The
    generators of the process are left as they were. Pickles to workers like ``dataset`` does.
    """

    def __init__(self, dataset, seed):
        self.dataset, self.seed = dataset, seed

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, key):
        epoch, index = key
        python, numpy = random.getstate(), np.random.get_state()
        try:
            with torch.random.fork_rng(devices=[]):
                seed_everything(self.seed, epoch, index)
                return self.dataset[index]
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
