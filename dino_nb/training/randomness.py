"""Seeds: what a run draws follows from whole numbers such as (seed, step, process), never from what came before."""

import random

import numpy as np
import torch


def mix_seed(*parts: int) -> int:
    """One seed in [0, 2^63) from whole numbers ``parts`` >= 0, for example ``(seed, epoch, rank)``."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def seed_everything(*parts: int) -> None:
    """Seed Python, NumPy and torch (all devices) from whole numbers, for example ``(seed, rank)``."""
    seed = mix_seed(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
