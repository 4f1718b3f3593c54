"""Putting a run together: the network (warm, fresh or of a saved state), its plan, and everything around it."""

import dataclasses
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from dino_nb import distributed
from dino_nb.checkpoints.load import as_model, locate
from dino_nb.config import ModelConfig, TrainConfig, apply_overrides
from dino_nb.data.augment import Augmentation
from dino_nb.data.classes import match_classes
from dino_nb.data.dataset import CocoDataset
from dino_nb.errors import UserError
from dino_nb.files import atomic_path
from dino_nb.models.compiled import compile_parts
from dino_nb.models.dino import DINO, build_model
from dino_nb.presets import preset
from dino_nb.printer import counted
from dino_nb.training import memory
from dino_nb.training.criterion import Criterion
from dino_nb.training.optim import Ema, freeze, make_optimizer
from dino_nb.training.precision import Precision, choose
from dino_nb.training.preview import first_batch
from dino_nb.training.progress import Progress
from dino_nb.training.recipe import calm_from
from dino_nb.training.run import Run
from dino_nb.training.sampler import ResumableBatchSampler, SeededDataset, image_weights
from dino_nb.training.stopping import ignore_in_worker
from dino_nb.training.validation import Validation
from dino_nb.training.warmstart import warm_start

_PUBLISHED_BACKBONES = {"swin_L_384_22k": "swin_large_patch4_window12_384_22k.pth"}


def load_source(checkpoint: Any) -> DINO | None:
    """The network to start from: of a name or path, a ``Detector``'s, a module itself; None for none."""
    if isinstance(checkpoint, (str, os.PathLike)):
        return as_model(distributed.run_on_main(locate, checkpoint), "cpu")  # the main process downloads
    return None if checkpoint is None else as_model(checkpoint)


def new_model(
    source: DINO | None,
    config: TrainConfig,
    train_set: CocoDataset,
    model_options: Mapping[str, Any],
    backbone_weights: bool | str | Path | None,
    ignore: Collection[str],
) -> DINO:
    """The network for this data set, warm where there is a ``source``."""
    base = preset(config.model) if source is None else source.config
    count = len(train_set.class_names)
    model_config = apply_overrides(dataclasses.replace(base, num_classes=count, dn_labelbook_size=count), model_options)
    model = build_model(model_config, source is None and _backbone_file(backbone_weights, model_config))
    model.class_names, model.category_ids = list(train_set.class_names), list(train_set.category_ids)
    model.input_size = config.input_size or (source or model).input_size  # type: ignore[assignment]
    if source is not None:
        rows = _shared_classes(source, train_set)
        distributed.print_main(warm_start(model, source.state_dict(), rows, ignore).table())
    elif ignore:
        raise UserError("--finetune_ignore needs a checkpoint (--pretrain_model_path) to ignore tensors of.")
    return model


def model_of_state(state: dict[str, Any]) -> DINO:
    """The network that a training state was taken of, its weights still fresh."""
    model = build_model(apply_overrides(ModelConfig(), state["model_config"]))
    model.class_names, model.category_ids = state["class_names"], state["category_ids"]
    model.input_size = tuple(state["input_size"])
    return model


def make_run(
    model: DINO,
    config: TrainConfig,
    train_set: CocoDataset,
    validation: Validation,
    device: torch.device,
    state: dict[str, Any] | None = None,
    *,
    output_dir: Path,
    live: bool | None = None,
    tensorboard: bool = False,
    **rest: Any,
) -> Run:
    """The ``Run``: everything on its device, planned and described to the user.

    ``state``: the one to resume, whose plan is kept. ``live`` and ``tensorboard`` go to ``Progress``, ``rest`` to
    ``Run``.
    """
    rank, world = distributed.rank(), distributed.world_size()
    train_set.transform = augmentation = Augmentation(config.augment, *model.input_size)
    if config.batch_size // world < augmentation.least_batch:
        raise UserError(
            f"augment={config.augment} mixes the images of a batch: batch_size must be at least "
            f"{augmentation.least_batch * world}, {augmentation.least_batch} per process."
        )
    model.to(device)
    distributed.broadcast_model(model)
    freeze(model, config.frozen)
    sizes = [train_set.size(i) for i in range(len(train_set))]
    weights = _weights(train_set, config)
    sampler = ResumableBatchSampler(sizes, config.batch_size, config.seed, config.aspect_groups, weights, rank, world)
    loader = DataLoader(
        SeededDataset(train_set, config.seed, calm_from(config)),
        batch_sampler=sampler,
        num_workers=config.num_workers,
        collate_fn=augmentation.collate,
        pin_memory=device.type == "cuda",
        persistent_workers=config.num_workers > 0,
        worker_init_fn=ignore_in_worker,
    )
    if state is None and distributed.is_main():
        with atomic_path(output_dir / "batches.jpg") as file:
            first_batch(train_set, augmentation, config.seed).save(file, "JPEG")
    criterion, precision = Criterion(model.config), Precision(choose(device, config.amp), device)
    plan = _saved_plan(state, config, device) or _plan(model, criterion, precision, config, train_set, sizes, device)
    memory.set_grad_checkpointing(model, plan.grad_checkpointing)
    distributed.print_main(_description(config, plan, precision, train_set, model))
    run = Run(
        model=model,
        criterion=criterion,
        optimizer=make_optimizer(model, config),
        precision=precision,
        sampler=sampler,
        loader=loader,
        validation=validation,
        progress=Progress(output_dir, config.epochs * len(sampler), device, distributed.is_main(), live, tensorboard),
        config=config,
        plan=plan,
        device=device,
        output_dir=output_dir,
        ema=Ema(model, config.ema_decay) if config.ema else None,
        **rest,
    )
    if state:
        run.load_state_dict(state)
    if config.compile:
        compile_parts(model, device)
    return run


def _shared_classes(source: DINO, train_set: CocoDataset) -> dict[int, int]:
    """{output of the new model: output of the checkpoint} for the classes that both have."""
    try:
        match = match_classes(train_set.categories, source.config.num_classes, source.class_names, source.category_ids)
    except UserError:  # nothing in common: all classes are new
        return {}
    return {i: match.label_of[c] for i, c in enumerate(train_set.category_ids) if c in match.label_of}


def _backbone_file(weights: bool | str | Path | None, config: ModelConfig) -> bool | str:
    """What ``build_model`` takes: a bool, or the file itself where a folder was given."""
    if weights is None or isinstance(weights, bool):
        return weights is not False
    path = Path(weights).expanduser()
    if path.is_dir():
        named = path / _PUBLISHED_BACKBONES.get(config.backbone, "")
        files = [p for p in sorted(path.glob("*")) if p.suffix in (".pth", ".safetensors")]
        files = [named] if named.is_file() else files
        if len(files) != 1:
            raise UserError(f"{path} should hold one file with weights of {config.backbone}, and holds {len(files)}.")
        path = files[0]
    if not path.is_file():
        raise UserError(f"there is no file {path} with backbone weights.")
    return str(path)


def _weights(train_set: CocoDataset, config: TrainConfig) -> np.ndarray | None:
    """How often each image comes, told to the user where it is not once."""
    if not config.repeat_rare and config.empty_share == 1:
        return None
    labels = [train_set.target(i)["labels"].numpy() for i in range(len(train_set))]
    weights = image_weights(labels, config.repeat_rare, config.empty_share)
    if weights is not None:
        shares = weights / weights.sum() * len(weights)
        groups = {"no objects": np.array([not len(found) for found in labels])}
        groups |= {str(n): np.array([i in found for found in labels]) for i, n in enumerate(train_set.class_names)}
        told = [f"{name} x{shares[group].mean():.1f}" for name, group in groups.items() if group.any()]
        distributed.print_main(f"how often images come per epoch: {', '.join(told)}")
    return weights


def _saved_plan(state: dict[str, Any] | None, config: TrainConfig, device: torch.device) -> memory.Plan | None:
    """The plan of ``state``: sums are then formed in the same order as before the interruption.

    None without a state, where the user wants another one now, and where it does not fit this machine.
    """
    if state is None or "grad_checkpointing" not in state["plan"]:
        return None
    plan = memory.Plan(**state["plan"])
    same = all(state["config"][name] == getattr(config, name) for name in ("micro_batch", "grad_checkpointing"))
    return plan if same and plan.peak <= memory.memory_limit(device) else None


def _plan(model, criterion, precision, config, train_set, sizes, device) -> memory.Plan:
    share = -(-config.batch_size // distributed.world_size())
    if config.micro_batch and config.grad_checkpointing != "auto":
        return memory.Plan(min(config.micro_batch, share), config.grad_checkpointing)
    canvas = memory.worst_canvas(sizes, model.input_size, config.aspect_groups)
    most = max(train_set.objects_of(i) for i in range(len(train_set))) * train_set.transform.images_per_item
    model.train()
    return memory.plan_memory(
        memory.worst_case_step(model, criterion, precision, canvas, most, device),
        share,
        memory.memory_limit(device),
        fixed=sum(2 * p.numel() * p.element_size() for p in model.parameters() if p.requires_grad),  # AdamW's moments
        micro_batch=min(config.micro_batch, share),
        grad_checkpointing=config.grad_checkpointing,
    )


def _description(config, plan, precision, train_set, model) -> str:
    world, names = distributed.world_size(), list(map(str, train_set.class_names))
    frozen = sum(not p.requires_grad for p in model.parameters())
    processes = f"{world} processes, each " if world > 1 else ""
    calm = f", not in the last {config.augment_off:.0%} of the run" if train_set.transform.names else ""
    return (
        f"{counted(len(train_set), 'training image')}, {counted(len(names), 'class', 'classes')}: "
        f"{', '.join(names[:8])}{', ...' * (len(names) > 8)}\n"
        f"effective batch {config.batch_size}: {processes}{plan.describe(-(-config.batch_size // world))}\n"
        f"learning rate {config.lr:g}, backbone {config.lr_backbone:g}, {config.schedule}, "
        f"{counted(config.epochs, 'epoch')}, {counted(config.warmup_steps, 'step')} of warm-up\n"
        f"{precision.name}; sizes up to {model.input_size[0]} / {model.input_size[1]}; seed {config.seed}; "
        f"{frozen} frozen tensors\n"
        f"augmentation: {train_set.transform}{calm}"
    )
