"""Optimiser, schedule, clipping and weight averaging, as published and a little beyond."""

import copy
import math

import torch

from dino_nb.errors import UserError, did_you_mean


def freeze(model, patterns):
    """Switch off the gradient of every parameter whose name contains one of ``patterns``; returns how many.

    Raises ``UserError`` for a pattern that is in no parameter's name.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(pattern in name for name in names):
            words = {word for name in names for word in name.split(".")}
            raise UserError(f"frozen part {pattern!r} is in no parameter's name.{did_you_mean(pattern, words)}")
    frozen = [p for name, p in model.named_parameters() if any(pattern in name for pattern in patterns)]
    for parameter in frozen:
        parameter.requires_grad_(False)
    return len(frozen)


def make_optimizer(model, config):
    """AdamW in the two published groups: the network at ``lr``, parameters named ``backbone`` at ``lr_backbone``.

    Raises ``UserError`` where nothing is left to train.
    """
    groups = {"network": [], "backbone": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups["backbone" if "backbone" in name else "network"].append(parameter)
    if not any(groups.values()):
        raise UserError(f"frozen={config.frozen} leaves no parameter to train.")
    rates = {"network": config.lr, "backbone": config.lr_backbone}
    return torch.optim.AdamW(
        [{"params": params, "lr": rates[name], "name": name} for name, params in groups.items() if params],
        weight_decay=config.weight_decay,
    )


def rate_factor(config, step, steps_per_epoch):
    """What the learning rates are multiplied by at optimiser step ``step``: warm-up times the chosen schedule.

    A function of the step alone, so a resumed run needs no scheduler's state. Drops happen at epoch ends; cosine falls
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


def set_learning_rate(optimizer, config, step, steps_per_epoch):
    """Give every group its rate of optimiser step ``step``."""
    factor = rate_factor(config, step, steps_per_epoch)
    for group in optimizer.param_groups:
        group["lr"] = factor * (config.lr_backbone if group["name"] == "backbone" else config.lr)


def clip_gradients(parameters, max_norm):
    """Scale the gradients to at most ``max_norm`` (0: leave them) and return their norm before, a 0-d tensor."""
    return torch.nn.utils.clip_grad_norm_(parameters, max_norm or math.inf, foreach=None)


class Ema:
    """A running average of a model's weights.

    ``average = decay * average + (1 - decay) * weights`` at every step; early on the decay is lower
    (``(1 + step) / (10 + step)``), so that a short run is not held at its start. Buffers are copied.
    """

    def __init__(self, model, decay=0.9997):
        self.decay, self.step = decay, 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model):
        self.step += 1
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        averages, weights = list(self.model.parameters()), list(model.parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)

    def state_dict(self):
        return {"step": self.step, "model": self.model.state_dict()}

    def load_state_dict(self, state):
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
