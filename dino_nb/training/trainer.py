"""The training loop. ``fit`` goes from epoch to epoch, ``train_epoch`` from step to step, ``train_step`` does one.

What a step draws at random (denoising noise, dropout) depends on (seed, step, process) alone, each picture's
augmentation on (seed, epoch, picture), and the learning rate on the step: so a run that was interrupted anywhere goes
on as if it had not been, and there is no generator's state to save.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import torch

from dino_nb import distributed
from dino_nb.checkpoints.files import save_checkpoint
from dino_nb.config import TrainConfig
from dino_nb.data.dataset import move
from dino_nb.errors import UserError
from dino_nb.training.criterion import count_boxes
from dino_nb.training.memory import Plan, is_out_of_memory, release, set_checkpointing
from dino_nb.training.optim import Ema, clip_gradients, set_learning_rate
from dino_nb.training.precision import Precision
from dino_nb.training.randomness import seed_everything
from dino_nb.training.step import NonFiniteLoss, accumulate_gradients
from dino_nb.training.stopping import StopNow

BEST, LAST = "checkpoint_best", "checkpoint_last"


class TrainingDiverged(RuntimeError):
    """The loss was not a finite number for many steps in a row."""


@dataclass
class Run:
    """Everything that a run needs and moves forward.

    ``evaluate(model)`` returns ``{"AP", "AP50", ...}``; ``loader`` yields (images, targets) of this process's share
    of one effective batch, in the order of ``sampler``; ``history`` has one record an evaluated epoch.
    """

    model: torch.nn.Module
    criterion: object
    optimizer: torch.optim.Optimizer
    precision: Precision
    sampler: object
    loader: object
    evaluate: object
    keeper: object
    progress: object
    stop: object
    config: TrainConfig
    plan: Plan
    device: torch.device
    output_dir: Path
    settings: dict
    data_fingerprint: dict
    ema: Ema | None = None
    epoch: int = 0
    step: int = 0
    nonfinite: int = 0
    history: list = field(default_factory=list)

    @property
    def best(self):
        """The history's record of the highest AP, the earliest of equals; None before the first evaluation."""
        return max(self.history, key=lambda record: record["AP"], default=None)

    @property
    def averaged(self):
        """The model that is evaluated and shipped."""
        return self.ema.model if self.ema else self.model


def fit(run):
    """Train to the last epoch. Returns why it ended: ``finished``, ``patience``, ``max_hours`` or a signal's name.

    The first evaluation is that of the untouched model (epoch 0).
    """
    while True:
        if evaluation_due(run):
            try:
                evaluate(run)
            except StopNow:
                save(run)
                return run.stop.reason
        if run.epoch >= run.config.epochs:
            return "finished"
        if run.config.patience and run.epoch - run.best["epoch"] >= run.config.patience:
            return "patience"
        if reason := train_epoch(run):
            save(run)
            return reason


def train_epoch(run):
    """The rest of the present epoch. Returns a reason to stop, or None at the epoch's end."""
    run.model.train()
    run.sampler.set_epoch(run.epoch)
    for images, targets in run.loader:
        losses = train_step(run, images, targets)
        run.step += 1
        run.sampler.step_done()
        rate = run.optimizer.param_groups[0]["lr"]
        record = {"step": run.step, "epoch": run.epoch, "lr": rate, **{k: float(v) for k, v in losses.items()}}
        run.progress.step(record, images=run.config.batch_size)
        if distributed.any_process(run.stop.reason):
            return next(filter(None, distributed.all_gather_objects(run.stop.reason)))
        if distributed.on_main(run.keeper.due):
            save(run)
    run.epoch += 1
    run.sampler.set_epoch(run.epoch)
    save(run)  # before an evaluation that may take long
    return None


def train_step(run, images, targets):
    """One optimiser step on an effective batch; returns the losses, or only ``loss: nan`` where it was skipped."""
    seed_everything(run.config.seed, run.step, distributed.rank())
    set_learning_rate(run.optimizer, run.config, run.step, len(run.sampler))
    images, targets = [image.to(run.device, non_blocking=True) for image in images], move(targets, run.device)
    num_boxes = count_boxes(targets)
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    try:
        losses, problem = gradients_within_memory(run, images, targets, num_boxes), None
    except NonFiniteLoss as error:
        losses, problem = {"loss": float("nan")}, error
    if not distributed.any_process(problem):
        distributed.average_gradients(parameters)  # before unscaling: all processes then see an overflow alike
        run.precision.unscale(run.optimizer)
        losses["gradient_norm"] = norm = clip_gradients(parameters, run.config.clip_max_norm)
        if torch.isfinite(norm) or run.precision.scaler.is_enabled():  # the scaler skips what overflowed by itself
            run.precision.step(run.optimizer)
            if run.ema:
                run.ema.update(run.model)
        else:
            problem = f"gradient of norm {float(norm)}"
    run.optimizer.zero_grad(set_to_none=True)
    skipped = distributed.any_process(problem)
    run.nonfinite = run.nonfinite + 1 if skipped else 0
    if problem:
        report_skipped(run, problem, targets)
    return losses


def gradients_within_memory(run, images, targets, num_boxes):
    """``accumulate_gradients``; when memory runs out, again by a leaner plan, which stays."""
    while True:
        try:
            return accumulate_gradients(
                run.model, run.criterion, run.precision, images, targets, num_boxes, run.plan.micro_batch
            )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).strip().split("\n")[0]
        # outside of the except block, whose traceback would keep the activations alive
        run.optimizer.zero_grad(set_to_none=True)
        release(run.device)
        leaner = dataclasses.replace(run.plan, micro_batch=min(run.plan.micro_batch, len(images))).step_down()
        if leaner is None:
            raise UserError(f"out of memory with one picture a pass and everything recomputed: lower size ({reason}).")
        run.plan = leaner
        set_checkpointing(run.model, leaner.checkpointing)
        run.progress.say(f"out of memory: going on with {leaner.describe(len(images))}")
        seed_everything(run.config.seed, run.step, distributed.rank())


def report_skipped(run, problem, targets):
    """Say which pictures a skipped step had; many such steps in a row raise ``TrainingDiverged``."""
    ids = problem.image_ids if isinstance(problem, NonFiniteLoss) else [t.get("image_id") for t in targets]
    text = f"step {run.step} skipped: {problem} (image ids {ids})"
    run.progress.say(text)
    if run.nonfinite >= run.config.max_nonfinite:
        raise TrainingDiverged(
            f"{run.nonfinite} steps in a row were skipped, the last: {text}. Look at these pictures, lower lr, or "
            "train with amp=fp32; the last saved state is whole."
        )


def evaluation_due(run):
    """Whether the present epoch has no record yet and should have one."""
    evaluated = {record["epoch"] for record in run.history}
    last = run.epoch >= run.config.epochs
    return run.epoch not in evaluated and (last or run.epoch % run.config.eval_every == 0) and run.sampler.step == 0


def evaluate(run):
    """Score the model, keep the record, and save state and checkpoints."""
    model = run.averaged
    model.eval()
    with run.stop.at_once():
        scores = run.evaluate(model)
    record = {"epoch": run.epoch, "step": run.step, **scores}
    is_best = run.best is None or record["AP"] > run.best["AP"]
    written = []
    if distributed.is_main():
        metrics = {"epoch": run.epoch, "step": run.step, **scores}
        written = [save_checkpoint(run.output_dir / f"{LAST}.pth", model, metrics=metrics)]
        if is_best:
            written += [
                save_checkpoint(run.output_dir / f"{BEST}{suffix}", model, metrics=metrics)
                for suffix in (".pth", ".safetensors")
            ]
    # The state comes after the checkpoints: killed in between, a resumed run evaluates, and writes them, again.
    run.history.append(record)
    save(run, is_best)
    run.progress.epoch(record)
    run.keeper.copy_also(*written, *run.progress.files())


def save(run, is_best=False):
    """Hand the whole state to the keeper (main process)."""
    if distributed.is_main():
        run.keeper.save(state_of(run), is_best=is_best)


def state_of(run):
    """The run as plain data and tensors."""
    return {
        "model": run.model.state_dict(),
        "ema": run.ema.state_dict() if run.ema else None,
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.precision.state_dict(),
        "sampler": run.sampler.state_dict(),
        "history": run.history,
        "epoch": run.epoch,
        "step": run.step,
        "nonfinite": run.nonfinite,
        "plan": dataclasses.asdict(run.plan),
        "config": run.settings,
        "data_fingerprint": run.data_fingerprint,
        "model_config": dataclasses.asdict(run.model.config),
        "class_names": run.model.class_names,
        "category_ids": run.model.category_ids,
        "input_size": list(run.model.input_size),
    }


def restore(run, state):
    """Bring a new ``run`` to where ``state`` was taken."""
    run.model.load_state_dict(state["model"])
    if run.ema:
        run.ema.load_state_dict(state["ema"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.precision.load_state_dict(state["scaler"])
    run.sampler.load_state_dict(state["sampler"])
    run.history, run.epoch, run.step = state["history"], state["epoch"], state["step"]
    run.nonfinite = state["nonfinite"]
    run.progress.resume(run.step, run.history)
