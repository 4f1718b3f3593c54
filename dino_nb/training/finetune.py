"""``dino_nb.finetune``: from a COCODIR and a checkpoint to a better checkpoint.

result = dino_nb.finetune("cocodir", "dino-4scale-r50-12ep", epochs=12)
detector = dino_nb.load(result.checkpoint)
"""

import dataclasses
import inspect
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dino_nb import distributed, presets
from dino_nb.checkpoints.checkpoint import save_checkpoint
from dino_nb.checkpoints.load import pick_device
from dino_nb.checkpoints.zoo import BEST_CHECKPOINT, LAST_CHECKPOINT
from dino_nb.config import TrainConfig, apply_overrides
from dino_nb.data.augment import parse_names
from dino_nb.data.dataset import CocoDataset
from dino_nb.errors import UserError, did_you_mean, disk_errors
from dino_nb.evaluation.compare import Comparison
from dino_nb.evaluation.evaluate import EvalResult
from dino_nb.options import parse_options
from dino_nb.prepare.check import check_dataset
from dino_nb.training.checkpoint_manager import CheckpointManager, check_same_run, data_fingerprint, read_state
from dino_nb.training.memory import limit_host_caches
from dino_nb.training.precision import choose
from dino_nb.training.recipe import size_in_steps
from dino_nb.training.run import Run
from dino_nb.training.sampler import seed_everything
from dino_nb.training.setup import load_source, make_run, model_of_state, new_model
from dino_nb.training.stopping import StopRequest
from dino_nb.training.trainer import fit, report_on
from dino_nb.training.validation import Validation, advice

# Settings that may change between the parts of one run: they move no weight, or only in the last bits; and its length,
# since a run that has ended is often wanted longer.
_FREE = (
    *("num_workers", "save_minutes", "micro_batch", "grad_checkpointing", "max_nonfinite", "patience", "eval_every"),
    *("compile", "epochs", "steps"),
)


@dataclass
class TrainResult:
    """What ``finetune`` returns.

    Attributes:
        output_dir: the folder with everything.
        checkpoint: the best epoch's weights, for ``dino_nb.load``; last: the last epoch's. Before the first
            evaluation there is no best: both are the last then.
        stopped: ``finished``, ``patience``, ``max_hours``, ``SIGINT`` or ``SIGTERM``.
        history: a dict per evaluation: ``epoch``, ``step``, ``AP``, ``AP50``, ... ; epoch 0 is before training.
        best: the one with the highest AP; None before the first evaluation.
        report: the ``EvalResult`` of ``checkpoint``, also written to ``output_dir/evaluation``; None after a stop. Its
            thresholds of the highest F1 are stored in the checkpoint.
        comparison: of the start, before -> after, with intervals; None from scratch.
        advice: sentences on what to do next.
    """

    output_dir: Path
    checkpoint: Path
    last: Path
    stopped: str
    history: list[dict[str, Any]]
    best: dict[str, Any] | None = None
    report: EvalResult | None = None
    comparison: Comparison | None = None
    advice: list[str] = field(default_factory=list)


@disk_errors()
def finetune(
    cocodir: str | Path,
    checkpoint: Any = None,
    *,
    output_dir: str | Path | None = None,
    preset: str | TrainConfig | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    amp: str | None = None,
    seed: int | None = None,
    resume: str | Path | None = None,
    overwrite: bool = False,
    finetune_ignore: Collection[str] = (),
    model_options: Mapping[str, Any] | Collection[str] | None = None,
    backbone_weights: bool | str | Path | None = None,
    max_hours: float | None = None,
    device: str | torch.device | None = None,
    drive_dir: str | Path | None = None,
    check: bool = True,
    live: bool | None = None,
    tensorboard: bool = False,
    **options: Any,
) -> TrainResult:
    """Train on a COCODIR, starting where ``checkpoint`` stands.

    Number of classes, label book and mapping come from the data set. Classes that the checkpoint knows by name keep
    what it learned about them.

    Args:
        cocodir: folder with ``{train,val}2017/`` and ``annotations/``.
        checkpoint: anything that ``dino_nb.load`` takes, a ``Detector``, a ``DINO`` module, or None to train from
            scratch, as the published command does.
        output_dir: log, curves, checkpoints and training states go here. Default: ``logs/DINO/R50-MS4`` and the like,
            by the network.
        preset: a training recipe (``dino_nb.presets.TRAIN_PRESETS``), or a ``TrainConfig``. By default that for the
            checkpoint's network (``dino_nb.presets.recipe_for``); the published 12 epochs without a checkpoint or
            where a ``model`` is named.
        epochs, steps, batch_size, lr, amp, seed, options: changes to the recipe: any field of ``TrainConfig``, in the
            published spelling too.
        resume: ``"auto"`` resumes the newest state in ``output_dir`` (or ``drive_dir``) where there is one, a path
            that one; None starts a new run and is an error where there is a state, unless ``overwrite``.
        finetune_ignore: substrings of tensor names that are not taken from the checkpoint.
        model_options: changes to the ``ModelConfig``, as a dict or ``key=value`` strings.
        backbone_weights: from scratch: True for timm's ImageNet weights, a file, or a folder that holds the published
            backbone file; False for none. Default True.
        max_hours: a recipe sized in steps is shortened to end within that time; every other stops and saves then.
            Continue with ``resume="auto"``.
        device: as in ``dino_nb.load``.
        drive_dir: a second folder, e.g. on Drive, that gets states and results in the background.
        check: refuse data sets with errors.
        live: draw curves in the notebook; None: where there is one.
        tensorboard: write TensorBoard events too.

    Ctrl-C (or a notebook's stop button) and SIGTERM finish the step, save, and return.

    Raises:
        UserError: a faulty data set, checkpoint, option, or a state of a different run; ``TrainingDiverged`` where
            the loss was not finite for many steps in a row.
    """
    limit_host_caches()
    if max_hours is not None and not 0 <= max_hours <= 10_000:
        raise UserError(f"max_hours must be between 0 and 10,000, not {max_hours}.")
    direct = {"epochs": epochs, "steps": steps, "batch_size": batch_size, "lr": lr, "amp": amp, "seed": seed}
    options.update({name: value for name, value in direct.items() if value is not None})
    given, of_model = _parse(options, model_options)
    parse_names(apply_overrides(TrainConfig(), given).augment)  # misspelt names are errors before anything is loaded
    start = _name(checkpoint)
    with distributed.session() as own_device, StopRequest(max_hours) as stop:
        device = own_device if device is None else pick_device(device)
        if preset is None or output_dir is None:  # both follow the network
            checkpoint = load_source(checkpoint)
        config = _recipe(preset, checkpoint, given)
        settings = {
            **dataclasses.asdict(config),
            "checkpoint": start,
            "finetune_ignore": list(finetune_ignore),
            "model_options": str(of_model or ""),
        }
        if output_dir is None:
            network = presets.preset(config.model) if checkpoint is None else checkpoint.config
            output_dir = Path("logs/DINO", presets.folder_name(network))
        output_dir = Path(output_dir)
        manager = CheckpointManager(output_dir, config.save_minutes, drive_dir, report=distributed.print_main)
        wanted = "auto" if resume is None and distributed.is_restart() else resume
        # Each process reads the file by itself: a state is too large to be sent around.
        found = distributed.run_on_main(manager.find, wanted, overwrite)
        state = _read(found) if found else None
        if check:
            distributed.run_on_main(_refuse_faults, cocodir)
        train_set = CocoDataset(cocodir, "train")
        if not any(train_set.objects_of(i) for i in range(len(train_set))):
            raise UserError(f"{train_set.annotation_file} has no objects to learn: see `dino-nb check {cocodir}`.")
        fingerprint = data_fingerprint(cocodir)
        warmup, config = config.warmup_steps, size_in_steps(config, len(train_set), given)
        if not config.steps and config.warmup_steps < warmup:
            shorter = f"it is {config.warmup_steps} now"
            distributed.print_main(f"the recipe's warm-up of {warmup} steps is longer than this run: {shorter}")
        seed_everything(config.seed)
        if state:
            check_same_run(state, settings, fingerprint, output_dir, ignore=_FREE)
            if all(state["config"].get(name) == settings[name] for name in ("epochs", "steps")):
                config = dataclasses.replace(config, **state.get("shaped", {}))
            model = model_of_state(state)
        else:
            told = "from scratch" if checkpoint is None else f"fine-tuning {start}"
            distributed.print_main(f"{told}, results in {output_dir}")
            source = load_source(checkpoint)
            model = new_model(source, config, train_set, of_model, backbone_weights, finetune_ignore)
        run = make_run(
            model,
            config,
            train_set,
            Validation(cocodir, model, config.eval_split, amp=choose(device, config.amp) == "fp16"),
            device,
            state,
            output_dir=output_dir,
            live=live,
            tensorboard=tensorboard,
            manager=manager,
            stop=stop,
            settings=settings,
            data_fingerprint=fingerprint,
            given=set(given),
        )
        try:
            if state:
                longer = _other_length(state, config)
                distributed.print_main(f"resuming at epoch {run.epoch}, step {run.step}{longer}")
            state = None  # it is as large as the run itself
            run.progress.begin(run.step, run.history)
            truth = run.validation.check_ground_truth()
            distributed.print_main(f"the validation set's annotations, taken as predictions, score AP {truth:.3f}")
            stopped = fit(run)
        finally:
            run.progress.close()
        distributed.print_main(_ending(stopped, run))
        best, last = output_dir / BEST_CHECKPOINT, output_dir / LAST_CHECKPOINT
        result = TrainResult(output_dir, best, last, stopped, run.history, run.best)
        if not run.history:
            result.checkpoint = result.last
            if distributed.is_main():
                save_checkpoint(result.last, run.averaged)
        if stopped in ("finished", "patience"):
            result.report, result.comparison = report, comparison = report_on(run, cocodir, result.checkpoint)
            seen = [record for record in run.progress.records if record["kind"] == "step"]
            result.advice = [comparison.sentence()] if comparison else []
            result.advice += advice(run.history, seen, train_set, report, comparison)
            distributed.print_main("\n".join(result.advice))
        manager.wait()
    return result


def _parse(options: dict[str, Any], model_options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Changes to the ``TrainConfig`` and to the ``ModelConfig``."""
    try:
        ours, models = parse_options(options), parse_options(model_options)
    except UserError:
        parameters = set(inspect.signature(finetune).parameters) - {"options"}
        for key in options:
            if near := did_you_mean(key, parameters):
                raise UserError(f"finetune has no parameter {key!r}.{near}") from None
        raise
    for note in ours.notes + models.notes:
        distributed.print_main(note)
    return {**models.training, **ours.training}, {**ours.model, **models.model}


def _recipe(preset: str | TrainConfig | None, checkpoint: Any, changes: dict[str, Any]) -> TrainConfig:
    """The recipe meant; ``model`` says which network starts from scratch, a checkpoint brings its own."""
    if preset is None:
        published = checkpoint is None or "model" in changes
        preset = "4scale-r50-12ep" if published else presets.recipe_for(checkpoint.config)
    config = apply_overrides(preset if isinstance(preset, TrainConfig) else presets.train_preset(preset), changes)
    presets.preset(config.model)  # a wrong name is an error even where a checkpoint decides
    return config


def _name(checkpoint: Any) -> str:
    if isinstance(checkpoint, (str, os.PathLike)):
        return Path(checkpoint).name
    return type(getattr(checkpoint, "model", checkpoint)).__name__


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(
            f"process {distributed.rank()} does not see {path}: the output folder must be one that all machines share."
        )
    return read_state(path)


def _other_length(state: dict[str, Any], config: TrainConfig) -> str:
    before = state["config"]["epochs"]
    if before == config.epochs or config.steps:
        return ""
    return f"; {config.epochs} epochs instead of {before}, with the learning rate of a {config.epochs}-epoch run"


def _refuse_faults(cocodir: str | Path) -> None:
    report = check_dataset(cocodir)
    report.raise_if_errors()
    for finding in report.warnings:
        distributed.print_main(f"warning: {finding.title} ({finding.count})")


def _ending(stopped: str, run: Run) -> str:
    best = f"best AP {run.best['AP']:.3f} at epoch {run.best['epoch']}" if run.best else "not yet evaluated"
    if stopped in ("finished", "patience"):
        return f"training ended ({stopped}): {best}, in {run.output_dir}"
    return (
        f"stopped by {stopped} at epoch {run.epoch}, step {run.step}, {best}; saved. Continue with "
        'resume="auto" (--resume auto).'
    )
