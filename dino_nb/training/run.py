"""Everything that a training run needs and moves forward, and its state as plain data."""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from dino_nb.config import TrainConfig
from dino_nb.models.dino import DINO
from dino_nb.training.checkpoint_manager import CheckpointManager
from dino_nb.training.criterion import Criterion
from dino_nb.training.memory import Plan
from dino_nb.training.optim import Ema, load_optimizer
from dino_nb.training.precision import Precision
from dino_nb.training.progress import Progress
from dino_nb.training.sampler import ResumableBatchSampler
from dino_nb.training.stopping import StopRequest
from dino_nb.training.validation import Validation


@dataclass
class Run:
    """Everything that a run needs and moves forward.

    ``loader`` yields (images, targets) of this process's share of one effective batch, in the order of ``sampler``;
    ``history`` has one record per evaluation; ``skipped`` counts the last steps in a row that changed nothing.
    ``given``: settings that are the user's own; ``shaped``: what a time budget made of the others.
    """

    model: DINO
    criterion: Criterion
    optimizer: torch.optim.Optimizer
    precision: Precision
    sampler: ResumableBatchSampler
    loader: DataLoader
    validation: Validation
    manager: CheckpointManager
    progress: Progress
    stop: StopRequest
    config: TrainConfig
    plan: Plan
    device: torch.device
    output_dir: Path
    settings: dict[str, Any]
    data_fingerprint: dict[str, str]
    ema: Ema | None = None
    given: Collection[str] = ()
    epoch: int = 0
    step: int = 0
    skipped: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    shaped: dict[str, Any] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)
    evaluation_seconds: float = 0.0

    @property
    def best(self) -> dict[str, Any] | None:
        """The history's record of the highest AP, the earliest of equals; None before the first evaluation."""
        return max(self.history, key=lambda record: record["AP"], default=None)

    @property
    def averaged(self) -> DINO:
        """The model that is evaluated and shipped."""
        return self.ema.module if self.ema else self.model

    def state_dict(self) -> dict[str, Any]:
        """The run as plain data and tensors."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.precision.scaler.state_dict(),
            "sampler": self.sampler.state_dict(),
            "history": self.history,
            "epoch": self.epoch,
            "step": self.step,
            "nonfinite": self.skipped,
            "shaped": self.shaped,
            "plan": dataclasses.asdict(self.plan),
            "config": self.settings,
            "data_fingerprint": self.data_fingerprint,
            "model_config": dataclasses.asdict(self.model.config),
            "class_names": self.model.class_names,
            "category_ids": self.model.category_ids,
            "input_size": list(self.model.input_size),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Bring a new run to where ``state`` was taken."""
        self.model.load_state_dict(state["model"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        load_optimizer(self.optimizer, state["optimizer"])
        if state["scaler"] and self.precision.scaler.is_enabled():
            self.precision.scaler.load_state_dict(state["scaler"])
        self.sampler.load_state_dict(state["sampler"])
        self.history, self.epoch, self.step = state["history"], state["epoch"], state["step"]
        self.skipped, self.shaped = state["nonfinite"], state.get("shaped", {})
