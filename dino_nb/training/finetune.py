"""``dino_nb.finetune``: from a COCODIR and a checkpoint to a better checkpoint.

result = dino_nb.finetune("cocodir", "dino-4scale-r50-12ep", epochs=12)
detector = dino_nb.load(result.checkpoint)
"""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from dino_nb.config import ModelConfig, TrainConfig, apply_overrides, train_preset
from dino_nb.config import preset as model_preset
from dino_nb.data.check import check_dataset
from dino_nb.data.classes import match_classes
from dino_nb.data.dataset import CocoDataset, collate
from dino_nb.data.transforms import train_transform
from dino_nb.errors import UserError
from dino_nb.models.dino import build_model
from dino_nb.training import distributed, memory
from dino_nb.training.criterion import Criterion
from dino_nb.training.optim import Ema, freeze, make_optimizer
from dino_nb.training.precision import Precision, choose
from dino_nb.training.progress import Progress
from dino_nb.training.randomness import seed_everything
from dino_nb.training.sampler import ResumableBatchSampler, SeededDataset
from dino_nb.training.state import StateKeeper, check_same_run, data_fingerprint
from dino_nb.training.stopping import StopRequest, ignore_in_worker
from dino_nb.training.trainer import BEST, LAST, Run, fit, restore
from dino_nb.training.validation import Validation
from dino_nb.training.warmstart import warm_start

# Settings that may change between the parts of one run: they move no weight, or only in the last bits.
_FREE = ("num_workers", "save_minutes", "micro_batch", "checkpointing", "max_nonfinite", "patience", "eval_every")


@dataclass
class TrainResult:
    """What ``finetune`` returns.

    Attributes:
        output_dir: the folder with everything.
        checkpoint: the best epoch's weights, for ``dino_nb.load``; last: the last epoch's.
        stopped: ``finished``, ``patience``, ``max_hours``, ``SIGINT`` or ``SIGTERM``.
        history: a dict an evaluation: ``epoch``, ``step``, ``AP``, ``AP50``, ... ; epoch 0 is before training.
        best: the one of the highest AP.
    """

    output_dir: Path
    checkpoint: Path
    last: Path
    stopped: str
    history: list
    best: dict


def finetune(
    cocodir,
    checkpoint="dino-4scale-r50-12ep",
    *,
    output_dir="logs/DINO/R50-MS4",
    preset=None,
    resume=None,
    overwrite=False,
    finetune_ignore=(),
    model_options=None,
    backbone_weights=None,
    max_hours=None,
    device=None,
    drive_dir=None,
    check=True,
    live=None,
    tensorboard=False,
    **options,
):
    """Train on a COCODIR, starting where ``checkpoint`` stands. Returns a ``TrainResult``.

    Number of classes, label book and mapping come from the data set. Classes that the checkpoint knows by name keep
    what it learned about them.

    Args:
        cocodir: folder with ``{train,val}2017/`` and ``annotations/``.
        checkpoint: anything that ``dino_nb.load`` takes, a ``DINO`` module, or None to train from scratch.
        output_dir: log, curves, checkpoints and training states go here.
        preset: a training recipe (``dino_nb.config.TRAIN_PRESETS``); by default ``finetune`` with a checkpoint, the
            published 12 epochs without. A ``TrainConfig`` is taken too. ``options`` are changes to it: ``epochs=50``.
        resume: ``"auto"`` goes on from the newest state in ``output_dir`` (or ``drive_dir``) where there is one, a path
            from that one; None starts anew and is an error where there is a state, unless ``overwrite``.
        finetune_ignore: substrings of tensor names that are not taken from the checkpoint.
        model_options: changes to the ``ModelConfig``, as a dict or ``key=value`` strings.
        backbone_weights: from scratch: True for timm's ImageNet weights, a file, or a folder that holds the published
            backbone file; False for none. Default True.
        max_hours: end in good order after that time; go on with ``resume="auto"``.
        device: as in ``dino_nb.load``.
        drive_dir: a second folder, e.g. on Drive, that gets states and results in the background.
        check: refuse data sets with errors.
        live: draw curves in the notebook; None: where there is one.
        tensorboard: write TensorBoard events too.

    Ctrl-C (or a notebook's stop button) and SIGTERM finish the step, save, and return.

    Raises:
        UserError: a faulty data set, checkpoint, option, or a state of a different run.
        TrainingDiverged: the loss was not finite for many steps in a row.
    """
    config = _config(preset, options, checkpoint)
    settings = {
        **dataclasses.asdict(config),
        "checkpoint": _name(checkpoint),
        "finetune_ignore": list(finetune_ignore),
        "model_options": str(model_options or ""),
    }
    with distributed.session() as own_device, StopRequest(max_hours) as stop:
        device = own_device if device is None else torch.device(device)
        if distributed.is_restart() and resume is None:
            resume = "auto"
        keeper = StateKeeper(output_dir, config.save_minutes, drive_dir, report=_say)
        state = keeper.load(resume, overwrite)
        if check:
            distributed.on_main(_refuse_faults, cocodir)
        fingerprint = data_fingerprint(cocodir)
        if state:
            check_same_run(state, settings, fingerprint, ignore=_FREE)
        train_set = CocoDataset(cocodir, "train")
        if not sum(train_set.objects_of(i) for i in range(len(train_set))):
            raise UserError(f"{train_set.annotation_file} has no objects to learn: see `dino-nb check {cocodir}`.")
        seed_everything(config.seed)
        if state:
            model = _model_of_state(state)
            config = dataclasses.replace(config, size=model.input_size[0], max_size=model.input_size[1])
        else:
            model, config = _new_model(checkpoint, config, train_set, model_options, backbone_weights, finetune_ignore)
        run = _assemble(model, config, train_set, cocodir, device, stop, keeper, live, tensorboard, Path(output_dir))
        run.settings, run.data_fingerprint = settings, fingerprint
        try:
            if state:
                restore(run, state)
                _say(f"going on at epoch {run.epoch}, step {run.step}")
            run.evaluate.check_ground_truth()
            stopped = fit(run)
            _say(_ending(stopped, run))
            keeper.wait()
        finally:
            run.progress.close()
    return TrainResult(
        run.output_dir,
        run.output_dir / f"{BEST}.pth",
        run.output_dir / f"{LAST}.pth",
        stopped,
        run.history,
        run.best,
    )


def _config(preset, options, checkpoint):
    if not isinstance(preset, TrainConfig):
        preset = train_preset(preset or ("4scale-r50-12ep" if checkpoint is None else "finetune"))
    return apply_overrides(preset, options)


def _name(checkpoint):
    if checkpoint is None or isinstance(checkpoint, torch.nn.Module):
        return type(checkpoint).__name__
    return Path(os.fspath(checkpoint)).name


def _refuse_faults(cocodir):
    report = check_dataset(cocodir)
    report.raise_if_errors()
    for finding in report.warnings:
        _say(f"warning: {finding.title} ({finding.count})")


def _new_model(checkpoint, config, train_set, model_options, backbone_weights, ignore):
    """The network for this data set, warm where there is a checkpoint; and the config with its sizes filled in."""
    source = _load(checkpoint)
    base = model_preset(config.model) if source is None else source.config
    count = len(train_set.class_names)
    model_config = apply_overrides(
        dataclasses.replace(base, num_classes=count, dn_labelbook_size=count), model_options or {}
    )
    pretrained = source is None and _backbone_file(backbone_weights, model_config)
    model = build_model(model_config, pretrained)
    model.class_names, model.category_ids = list(train_set.class_names), list(train_set.category_ids)
    size = (config.size, config.max_size) if config.size else (source or model).input_size
    model.input_size = tuple(size)
    if source is not None:
        rows = _shared_classes(source, train_set)
        _say(warm_start(model, source.state_dict(), rows, ignore).table())
    elif ignore:
        raise UserError("--finetune_ignore needs a checkpoint (--pretrain_model_path) to ignore tensors of.")
    return model, dataclasses.replace(config, size=size[0], max_size=size[1])


def _load(checkpoint):
    if checkpoint is None or isinstance(checkpoint, torch.nn.Module):
        return checkpoint
    from dino_nb.inference.detector import load

    return distributed.on_main(lambda: load(checkpoint, device="cpu").model)


def _shared_classes(source, train_set):
    """{output of the new model: output of the checkpoint} for the classes that both have."""
    try:
        match = match_classes(train_set.categories, source.config.num_classes, source.class_names, source.category_ids)
    except UserError:  # nothing in common: all classes are new
        return {}
    return {i: match.label_of[c] for i, c in enumerate(train_set.category_ids) if c in match.label_of}


def _backbone_file(weights, config):
    """What ``build_model`` takes: a bool, or the file itself where a folder was given."""
    if weights is None or isinstance(weights, bool):
        return weights is not False
    path = Path(weights).expanduser()
    if path.is_dir():
        named = path / _PUBLISHED_BACKBONES.get(config.backbone, "")
        files = (
            [named] if named.is_file() else sorted(p for p in path.glob("*") if p.suffix in (".pth", ".safetensors"))
        )
        if len(files) != 1:
            raise UserError(f"{path} should hold one file with weights of {config.backbone}, and holds {len(files)}.")
        path = files[0]
    if not path.is_file():
        raise UserError(f"there is no file {path} with backbone weights.")
    return str(path)


_PUBLISHED_BACKBONES = {"swin_L_384_22k": "swin_large_patch4_window12_384_22k.pth"}


def _model_of_state(state):
    model = build_model(apply_overrides(ModelConfig(), state["model_config"]))
    model.class_names, model.category_ids = state["class_names"], state["category_ids"]
    model.input_size = tuple(state["input_size"])
    return model


def _assemble(model, config, train_set, cocodir, device, stop, keeper, live, tensorboard, output_dir):
    """The ``Run``: everything on its device, planned and described to the user."""
    model.to(device)
    distributed.broadcast_model(model)
    freeze(model, config.frozen)
    sizes = [train_set.size(i) for i in range(len(train_set))]
    train_set.transform = train_transform(config.size, config.max_size)
    world = distributed.world_size()
    sampler = ResumableBatchSampler(
        sizes, config.batch_size, config.seed, True, config.aspect_groups, distributed.rank(), world
    )
    loader = DataLoader(
        SeededDataset(train_set, config.seed),
        batch_sampler=sampler,
        num_workers=config.num_workers,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        persistent_workers=config.num_workers > 0,
        worker_init_fn=ignore_in_worker,
    )
    criterion, precision = Criterion(model.config), Precision(choose(device, config.amp), device)
    ema = Ema(model, config.ema_decay) if config.ema else None
    plan = _plan(model, criterion, precision, config, train_set, sizes, device)
    memory.set_checkpointing(model, plan.checkpointing)
    _say(_description(config, plan, precision, train_set, model, world))
    return Run(
        model=model,
        criterion=criterion,
        optimizer=make_optimizer(model, config),
        precision=precision,
        sampler=sampler,
        loader=loader,
        evaluate=Validation(cocodir, model, device),
        keeper=keeper,
        progress=Progress(
            output_dir, config.epochs * len(sampler), device, distributed.is_main(), live, tensorboard=tensorboard
        ),
        stop=stop,
        config=config,
        plan=plan,
        device=device,
        output_dir=output_dir,
        settings={},
        data_fingerprint={},
        ema=ema,
    )


def _plan(model, criterion, precision, config, train_set, sizes, device):
    share = -(-config.batch_size // distributed.world_size())
    if config.micro_batch and config.checkpointing != "auto":
        return memory.Plan(min(config.micro_batch, share), config.checkpointing)
    canvas = memory.worst_canvas(sizes, config.size, config.max_size, config.aspect_groups)
    most = max(train_set.objects_of(i) for i in range(len(train_set)))
    model.train()
    return memory.plan_memory(
        memory.worst_case_step(model, criterion, precision, canvas, most, device),
        share,
        memory.memory_limit(device),
        fixed=memory.optimizer_bytes(model),
        micro_batch=min(config.micro_batch, share),
        checkpointing=config.checkpointing,
    )


def _description(config, plan, precision, train_set, model, world):
    share = -(-config.batch_size // world)
    names = ", ".join(map(str, train_set.class_names[:8])) + (", ..." if len(train_set.class_names) > 8 else "")
    frozen = sum(not p.requires_grad for p in model.parameters())
    return (
        f"{len(train_set)} training pictures, {len(train_set.class_names)} classes: {names}\n"
        f"effective batch {config.batch_size} = {world} process{'es' if world > 1 else ''} x {plan.describe(share)}\n"
        f"learning rate {config.lr:g}, backbone {config.lr_backbone:g}, {config.schedule} schedule over {config.epochs} "
        f"epochs; {precision.name}; sizes up to {config.size} / {config.max_size}; seed {config.seed}; "
        f"{frozen} frozen tensors"
    )


def _ending(stopped, run):
    best = f"best AP {run.best['AP']:.3f} at epoch {run.best['epoch']}" if run.best else "not yet evaluated"
    if stopped in ("finished", "patience"):
        return f"training ended ({stopped}): {best}, in {run.output_dir}"
    return (
        f'stopped by {stopped} at epoch {run.epoch}, step {run.step}; saved. Go on with resume="auto" (--resume auto).'
    )


def _say(text):
    if distributed.is_main():
        print(text, flush=True)
