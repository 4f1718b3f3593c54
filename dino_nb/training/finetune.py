"""``dino_nb.finetune``: from a COCODIR and a checkpoint to a better checkpoint.

result = dino_nb.finetune("cocodir", "dino-4scale-r50-12ep", epochs=12)
detector = dino_nb.load(result.checkpoint)
"""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from dino_nb import distributed
from dino_nb.config import TrainConfig, apply_overrides
from dino_nb.data.dataset import CocoDataset
from dino_nb.data.transforms import train_transform
from dino_nb.errors import UserError
from dino_nb.evaluation.evaluate import evaluate
from dino_nb.prepare.check import check_dataset
from dino_nb.presets import train_preset
from dino_nb.training.assemble import assemble, model_of_state, new_model
from dino_nb.training.memory import limit_host_caches
from dino_nb.training.precision import choose
from dino_nb.training.randomness import seed_everything
from dino_nb.training.recipe import size_in_steps
from dino_nb.training.state import StateKeeper, check_same_run, data_fingerprint
from dino_nb.training.stopping import StopNow, StopRequest
from dino_nb.training.trainer import BEST, LAST, fit, restore
from dino_nb.training.validation import Validation

# Settings that may change between the parts of one run: they move no weight, or only in the last bits; and epochs,
# since a run that has ended is often wanted longer.
_FREE = (
    "num_workers",
    "save_minutes",
    "micro_batch",
    "grad_checkpointing",
    "max_nonfinite",
    "patience",
    "eval_every",
    "epochs",
    "steps",
)


@dataclass
class TrainResult:
    """What ``finetune`` returns.

    Attributes:
        output_dir: the folder with everything.
        checkpoint: the best epoch's weights, for ``dino_nb.load``; last: the last epoch's.
        stopped: ``finished``, ``patience``, ``max_hours``, ``SIGINT`` or ``SIGTERM``.
        history: a dict an evaluation: ``epoch``, ``step``, ``AP``, ``AP50``, ... ; epoch 0 is before training.
        best: the one of the highest AP.
        report: the ``EvalResult`` of ``checkpoint``, also written to ``output_dir/evaluation``; None after a stop.
    """

    output_dir: Path
    checkpoint: Path
    last: Path
    stopped: str
    history: list
    best: dict
    report: object = None


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
    limit_host_caches()
    config = _config(preset, options, checkpoint)
    output_dir = Path(output_dir)
    settings = {
        **dataclasses.asdict(config),
        "checkpoint": _name(checkpoint),
        "finetune_ignore": list(finetune_ignore),
        "model_options": str(model_options or ""),
    }
    with distributed.session() as own_device, StopRequest(max_hours) as stop:
        device = own_device if device is None else torch.device(device)
        keeper = StateKeeper(output_dir, config.save_minutes, drive_dir, report=distributed.print_main)
        wanted = "auto" if resume is None and distributed.is_restart() else resume
        state = distributed.run_on_main(keeper.load, wanted, overwrite)
        if check:
            distributed.run_on_main(_refuse_faults, cocodir)
        train_set = _train_set(cocodir)
        config = size_in_steps(config, len(train_set), options)
        seed_everything(config.seed)
        if state:
            check_same_run(state, settings, data_fingerprint(cocodir), ignore=_FREE)
            model = model_of_state(state)
            config = dataclasses.replace(config, input_size=tuple(model.input_size))
        else:
            model, config = new_model(checkpoint, config, train_set, model_options, backbone_weights, finetune_ignore)
        train_set.transform = train_transform(*model.input_size)
        run = assemble(
            model,
            config,
            train_set,
            Validation(cocodir, model, config.eval_split, amp=choose(device, config.amp) == "fp16"),
            device,
            state,
            keeper=keeper,
            stop=stop,
            output_dir=output_dir,
            settings=settings,
            data_fingerprint=data_fingerprint(cocodir),
            progress_options={"live": live, "tensorboard": tensorboard},
        )
        try:
            if state:
                restore(run, state)
                distributed.print_main(f"going on at epoch {run.epoch}, step {run.step}{_other_length(state, config)}")
            state = None  # it is as large as the run itself
            truth = run.evaluate.check_ground_truth()
            distributed.print_main(f"the validation set's annotations, taken as predictions, score AP {truth:.3f}")
            stopped = fit(run)
        finally:
            run.progress.close()
        distributed.print_main(_ending(stopped, run))
        best, last = (output_dir / f"{name}.pth" for name in (BEST, LAST))
        report = _report(cocodir, best, run) if stopped in ("finished", "patience") else None
        keeper.wait()
    return TrainResult(output_dir, best, last, stopped, run.history, run.best, report)


def _config(preset, options, checkpoint):
    if not isinstance(preset, TrainConfig):
        preset = train_preset(preset or ("4scale-r50-12ep" if checkpoint is None else "finetune"))
    return apply_overrides(preset, options)


def _other_length(state, config):
    before = state["config"]["epochs"]
    if before == config.epochs:
        return ""
    return f"; {config.epochs} epochs instead of {before}, with the learning rate of a {config.epochs}-epoch run"


def _name(checkpoint):
    if checkpoint is None or isinstance(checkpoint, torch.nn.Module):
        return type(checkpoint).__name__
    return Path(os.fspath(checkpoint)).name


def _refuse_faults(cocodir):
    report = check_dataset(cocodir)
    report.raise_if_errors()
    for finding in report.warnings:
        distributed.print_main(f"warning: {finding.title} ({finding.count})")


def _train_set(cocodir):
    train_set = CocoDataset(cocodir, "train")
    if not any(train_set.objects_of(i) for i in range(len(train_set))):
        raise UserError(f"{train_set.annotation_file} has no objects to learn: see `dino-nb check {cocodir}`.")
    return train_set


def _report(cocodir, checkpoint, run):
    """Score the best checkpoint once more, as anybody would, and write the report; None where a signal ends that."""
    folder = run.output_dir / "evaluation"
    options = {"split": run.config.eval_split, "device": run.device, "check": False, "amp": run.evaluate.amp}
    try:
        with run.stop.at_once():
            report = evaluate(cocodir, checkpoint, output_dir=folder, progress=False, name=checkpoint.name, **options)
    except StopNow:
        return None
    run.keeper.copy_also(*folder.glob("report.*"))
    return report


def _ending(stopped, run):
    best = f"best AP {run.best['AP']:.3f} at epoch {run.best['epoch']}" if run.best else "not yet evaluated"
    if stopped in ("finished", "patience"):
        return f"training ended ({stopped}): {best}, in {run.output_dir}"
    return (
        f'stopped by {stopped} at epoch {run.epoch}, step {run.step}; saved. Go on with resume="auto" (--resume auto).'
    )
