"""Optimiser, schedule, clipping and weight averaging, as published and a little beyond."""

import math
import re
from collections.abc import Iterable

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from dino_nb.config import TrainConfig
from dino_nb.errors import UserError, did_you_mean

# a parameter's stage in timm's and our own backbones: layer3.1.conv, layers.0.blocks, stages_2, blocks.4
_STAGE = re.compile(r"backbone\..*?(?:layers?|stages|blocks)[._]?(\d+)[._]")


def freeze(model: nn.Module, patterns: Iterable[str]) -> None:
    """Switch off the gradient of every parameter whose name contains one of ``patterns``.

    Raises ``UserError`` for a pattern that is in no parameter's name.
    """
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        found = [name for name in parameters if pattern in name]
        if not found:
            words = {word for name in parameters for word in name.split(".")}
            raise UserError(f"frozen part {pattern!r} is in no parameter's name.{did_you_mean(pattern, words)}")
        for name in found:
            parameters[name].requires_grad_(False)


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW in the two published groups: the network at ``lr``, parameters named ``backbone`` at ``lr_backbone``.

    ``sampling_lr``, ``layer_decay`` and ``decay_norms`` divide them further. A group's ``initial_lr`` is its rate
    before warm-up and schedule. Raises ``UserError`` where nothing is left to train.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trained:
        raise UserError(f"frozen={config.frozen} leaves no parameter to train.")
    depths = {name: int(found[1]) for name, _ in trained if (found := _STAGE.search(name))}
    last = max(depths.values(), default=0)
    groups: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    for name, parameter in trained:
        in_backbone = "backbone" in name
        rate = config.lr_backbone if in_backbone else config.lr
        if in_backbone and config.layer_decay < 1:  # what has no number is before the stages, or a norm behind one
            rate *= config.layer_decay ** (last - depths.get(name, last if "norm" in name else -1))
        if any(part in name for part in ("sampling_offsets", "reference_points")):
            rate *= config.sampling_lr
        decay = config.weight_decay if config.decay_norms or parameter.ndim > 1 else 0.0
        groups.setdefault((in_backbone, rate, decay), []).append(parameter)
    options = [
        {"params": parameters, "lr": rate, "initial_lr": rate, "weight_decay": decay}
        for (_, rate, decay), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]
    return torch.optim.AdamW(options, fused=True)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """``optimizer.load_state_dict`` that keeps this run's own rates, and takes states of an unfused optimiser."""
    own = [{"initial_lr": group["initial_lr"], "fused": True} for group in optimizer.param_groups]
    groups = [{**saved, **ours} for saved, ours in zip(state["param_groups"], own, strict=True)]
    optimizer.load_state_dict({**state, "param_groups": groups})


def rate_factor(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """What the learning rates are multiplied by at optimiser step ``step``: warm-up times the chosen schedule.

    A function of the step alone: a resumed run needs no scheduler's state. Drops happen at epoch ends; cosine falls
    from the end of the warm-up to 1 % at the last step.
    """
    warm = min((step + 1) / config.warmup_steps, 1.0) if config.warmup_steps else 1.0
    if config.schedule == "step":
        return warm * 0.1 ** sum(step >= epoch * steps_per_epoch for epoch in config.lr_drop)
    if config.schedule == "cosine":
        left = max(config.epochs * steps_per_epoch - config.warmup_steps, 1)
        done = min(max(step - config.warmup_steps, 0) / left, 1.0)
        return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
    return warm


def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale the gradients to at most ``max_norm`` (0: leave them) and return their norm before, a 0-d tensor."""
    return nn.utils.clip_grad_norm_(parameters, max_norm or math.inf)


class Ema(ModelEmaV3):
    """A running average of a model's weights, ``module``; buffers are copied.

    ``average = decay * average + (1 - decay) * weights`` at every step. Early on the decay is lower,
    ``(1 + step) / (10 + step)``: a short run is not held at its start, as by timm's own warm-up, which is slower to
    forget it.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9997) -> None:
        super().__init__(model, decay, exclude_buffers=True)
        self.module.requires_grad_(False)
        self.step = 0

    def get_decay(self, step: int | None = None) -> float:
        return min(self.decay, (1 + self.step) / (10 + self.step))

    def update(self, model: nn.Module, step: int | None = None) -> None:
        self.step += 1
        super().update(model)

    def state_dict(self) -> dict:  # type: ignore[override]
        return {"step": self.step, "model": self.module.state_dict()}

    def load_state_dict(self, state: dict) -> None:  # type: ignore[override]
        self.step = state["step"]
        self.module.load_state_dict(state["model"])
