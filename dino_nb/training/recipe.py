"""A recipe sized in optimiser steps: how long, in what batches and at what rates follows from the number of images.

What a network learns is a matter of how often its weights move. A fixed number of epochs moves them 390 times on 200
images in batches of 16, and 90,000 times on COCO.
"""

import dataclasses
from collections.abc import Collection

from dino_nb.config import TrainConfig
from dino_nb.errors import UserError

_BATCHES = (4, 8, 16)  # the largest that leaves about a hundred steps an epoch
_WARMUP_SHARE, _EVALUATIONS, _EMA_SHARE = 0.05, 20, 0.025
_LEAST_EPOCHS = 12  # as published: a large data set is seen that often, whatever the budget


def size_in_steps(config: TrainConfig, images: int, given: Collection[str] = ()) -> TrainConfig:
    """``config`` with everything that follows from ``config.steps`` filled in; unchanged where that is 0.

    - batch: 4 below 800 images, 8 below 1,600, else 16;
    - epochs: as many as give ``steps``, at least 1; at least 12 unless the steps were given;
    - learning rates: those of ``config`` at its own batch size, times the square root of new over old batch size;
    - warm-up: 5 % of the steps; evaluations: about 20; the running average looks back over 2.5 % of the steps;
    - ``lr_drop``, for the step schedule: after 11/12 of the epochs.

    Args:
        config: its ``steps`` is the budget.
        images: number of training images.
        given: fields that the user has set: they stay as they are, and the rest follows from them.

    Raises:
        UserError: a warm-up as long as the whole run.
    """
    if not config.steps:
        return config
    batch = max([b for b in _BATCHES if b * 100 <= images] or _BATCHES[:1])
    batch = config.batch_size if "batch_size" in given else batch
    per_epoch = -(-images // batch)
    least = 1 if "steps" in given else _LEAST_EPOCHS
    epochs = config.epochs if "epochs" in given else max(round(config.steps / per_epoch), least)
    steps = epochs * per_epoch
    scale = (batch / config.batch_size) ** 0.5
    derived = {
        "batch_size": batch,
        "epochs": epochs,
        "steps": steps,
        "lr": config.lr * scale,
        "lr_backbone": config.lr_backbone * scale,
        "lr_drop": (max(epochs * 11 // 12, 1),),
        "warmup_steps": round(_WARMUP_SHARE * steps),
        "eval_every": max(round(epochs / _EVALUATIONS), 1),
        "ema_decay": min(1 - 1 / max(_EMA_SHARE * steps, 2), 0.9998),
    }
    changes = {name: value for name, value in derived.items() if name == "steps" or name not in given}
    config = dataclasses.replace(config, **changes)
    if config.warmup_steps >= steps:
        raise UserError(
            f"warmup_steps={config.warmup_steps} leaves nothing of a run of {steps} steps: lower it, or raise steps "
            "or epochs."
        )
    return config
