"""Every random number generator of the process: seeding, and capturing them so that a resumed run draws the same."""

import random

import numpy as np
import torch


def mix_seed(*parts):
    """One seed in [0, 2^63) from whole numbers ``parts`` >= 0, for example ``(seed, epoch, rank)``."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def seed_everything(*parts):
    """Seed Python, NumPy and torch (all devices) from whole numbers, for example ``(seed, rank)``."""
    seed = mix_seed(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def capture_rng():
    """The state of Python's, NumPy's, torch's and every GPU's generator, as plain data for a training state."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_rng(state):
    """Put back what ``capture_rng`` returned. GPUs beyond those of this machine are left out."""
    version, keys, gauss_next = state["python"]
    random.setstate((version, tuple(keys), gauss_next))
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        for device, generator in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(generator, device)
