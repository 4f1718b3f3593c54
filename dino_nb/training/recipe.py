"""A recipe sized in optimiser steps: how long, in what batches and at what rates follows from the number of images.

What a network learns is a matter of how often its weights move. 30 epochs in batches of 16 move them 120 times on 50
images, and 220,000 times on COCO.
"""

import dataclasses
import math
from collections.abc import Collection
from typing import Any

from dino_nb.config import TrainConfig
from dino_nb.errors import UserError

_BATCHES = (4, 8, 16)  # the largest that leaves about a hundred steps an epoch
_WARMUP_SHARE, _EVALUATIONS, _EMA_SHARE = 0.05, 20, 0.025
_LEAST_EPOCHS, _MOST_EPOCHS = 12, 100  # how often a large and a small data set are seen, whatever the budget
LENGTH = ("epochs", "steps", "lr_drop", "warmup_steps", "eval_every", "ema_decay")  # what follows from the length


def size_in_steps(config: TrainConfig, images: int, given: Collection[str] = ()) -> TrainConfig:
    """``config`` with everything that follows from ``config.steps`` filled in; where that is 0, as it is, but for a
    warm-up as long as the whole run, which becomes 5 % of its steps.

    - batch: 4 below 800 images, 8 below 1,600, else 16;
    - epochs: as many as give ``steps``, from 12 to 100; at least 1 and no limit where the steps were given;
    - learning rates: those of ``config``; for a batch below its own, times the square root of new over old batch size;
    - warm-up: 5 % of the steps; evaluations: about 20; the running average looks back over 2.5 % of the steps;
    - ``lr_drop``, for the step schedule: after 11/12 of the epochs.

    Args:
        config: its ``steps`` is the budget.
        images: number of training images.
        given: fields that the user has set: they stay as they are, and the rest follows from them.

    Raises:
        UserError: a warm-up as long as the whole run, which the user has set.
    """
    if not config.steps:
        return _with_short_warmup(config, config.epochs * -(-images // config.batch_size), given)
    batch = max([b for b in _BATCHES if b * 100 <= images] or _BATCHES[:1])
    batch = config.batch_size if "batch_size" in given else batch
    per_epoch = -(-images // batch)
    least, most = (1, config.steps) if "steps" in given else (_LEAST_EPOCHS, _MOST_EPOCHS)
    epochs = config.epochs if "epochs" in given else min(max(round(config.steps / per_epoch), least), most)
    scale = min((batch / config.batch_size) ** 0.5, 1)
    rates: dict[str, Any] = {"batch_size": batch, "lr": config.lr * scale, "lr_backbone": config.lr_backbone * scale}
    config = dataclasses.replace(config, **{name: value for name, value in rates.items() if name not in given})
    return _with_short_warmup(of_length(config, epochs, per_epoch, given), epochs * per_epoch, given)


def _with_short_warmup(config: TrainConfig, steps: int, given: Collection[str]) -> TrainConfig:
    if config.warmup_steps < steps:
        return config
    if "warmup_steps" in given:
        raise UserError(
            f"warmup_steps={config.warmup_steps} leaves nothing of a run of {steps} steps: lower it, or raise "
            "steps or epochs."
        )
    return dataclasses.replace(config, warmup_steps=round(_WARMUP_SHARE * steps))


def of_length(config: TrainConfig, epochs: int, per_epoch: int, given: Collection[str] = ()) -> TrainConfig:
    """``config`` as it is for a run of so many epochs of ``per_epoch`` steps."""
    steps = epochs * per_epoch
    derived: dict[str, Any] = {
        "epochs": epochs,
        "steps": steps,
        "lr_drop": (max(epochs * 11 // 12, 1),),
        "warmup_steps": round(_WARMUP_SHARE * steps),
        "eval_every": max(round(epochs / _EVALUATIONS), 1),
        "ema_decay": min(1 - 1 / max(_EMA_SHARE * steps, 2), 0.9998),
    }
    kept = {name: value for name, value in derived.items() if name in ("epochs", "steps") or name not in given}
    return dataclasses.replace(config, **kept)


def calm_from(config: TrainConfig) -> int:
    """The epoch from which on there is no augmentation but the published."""
    return math.ceil(config.epochs * (1 - config.augment_off))


def fit_into(
    config: TrainConfig, per_epoch: int, seconds: float, step: float, evaluation: float, given: Collection[str] = ()
) -> TrainConfig:
    """``config`` shortened to what ``seconds`` allow: the run ends trained, its rates at their end, instead of cut.

    Evaluations take a fifth of the time at most, the last one and 5 % for everything else apart.

    Args:
        config: as ``size_in_steps`` made it.
        per_epoch: steps per epoch.
        seconds: of the whole run.
        step, evaluation: seconds that a step and an evaluation take.
        given: fields that the user has set.
    """
    left = 0.95 * seconds - 2 * evaluation  # the first evaluation, and the report at the end
    evaluations = min(max(int(0.2 * left / max(evaluation, 1e-9)), 1), _EVALUATIONS)
    epochs = int((left - evaluations * evaluation) / (step * per_epoch))
    if epochs >= config.epochs:
        return config
    config = of_length(config, max(epochs, 1), per_epoch, given)
    every = max(config.eval_every, -(-config.epochs // evaluations))
    return config if "eval_every" in given else dataclasses.replace(config, eval_every=every)
