"""The training loop. ``fit`` goes from epoch to epoch, ``train_one_epoch`` from step to step, ``train_step`` does one.

What a step draws at random (denoising noise, dropout) depends on (seed, step, process) alone, each image's augmentation
on (seed, epoch, image), and the learning rate on the step. A run that was interrupted anywhere therefore continues as
if it had not been, and there is no generator's state to save.
"""

import dataclasses
import itertools
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dino_nb import distributed
from dino_nb.checkpoints.checkpoint import save_checkpoint, store_thresholds
from dino_nb.checkpoints.zoo import BEST_CHECKPOINT, LAST_CHECKPOINT
from dino_nb.data.transforms import normalize
from dino_nb.errors import UserError
from dino_nb.evaluation.compare import Comparison, compare
from dino_nb.evaluation.evaluate import EvalResult
from dino_nb.evaluation.evaluate import evaluate as evaluate_checkpoint
from dino_nb.evaluation.stream import write_results
from dino_nb.printer import counted
from dino_nb.training.criterion import count_boxes
from dino_nb.training.memory import accumulate_gradients, is_out_of_memory, release, set_grad_checkpointing
from dino_nb.training.optim import clip_gradients, rate_factor
from dino_nb.training.progress import CURVES, LOG
from dino_nb.training.recipe import LENGTH, calm_from, fit_into
from dino_nb.training.run import Run
from dino_nb.training.sampler import seed_everything
from dino_nb.training.stopping import StopNow

_BEFORE = "evaluation/before/results.json"  # what the untouched checkpoint found
_UNTIMED, _TIMED = 5, 25  # the first steps are slow, and the next ones tell how long a step takes
_FEW_STEPS = 500


class TrainingDiverged(UserError):
    """Many steps in a row had no finite gradient."""


def fit(run: Run) -> str:
    """Train to the last epoch. Returns why it ended: ``finished``, ``patience``, ``max_hours`` or a signal's name.

    The first evaluation is that of the untouched model (epoch 0).
    """
    while True:
        if evaluation_due(run):
            try:
                evaluate(run)
            except StopNow:
                save(run)
                return run.stop.reason or "SIGINT"
        if run.epoch >= run.config.epochs:
            return "finished"
        since_best = len(run.history) - 1 - run.history.index(run.best) if run.best else 0
        if run.config.patience and since_best >= run.config.patience:
            return "patience"
        if reason := train_one_epoch(run):
            save(run)
            return reason


def train_one_epoch(run: Run) -> str | None:
    """The rest of the present epoch. Returns a reason to stop, or None at the epoch's end."""
    run.model.train()
    run.sampler.set_epoch(run.epoch)
    for images, targets in run.loader:
        losses = train_step(run, images, targets)
        run.step += 1
        run.sampler.step += 1
        rate = run.optimizer.param_groups[0]["lr"]
        run.progress.step({"step": run.step, "epoch": run.epoch, "lr": rate, **losses}, images=run.config.batch_size)
        plan_time(run)
        if reasons := list(filter(None, distributed.all_gather_objects(run.stop.reason))):
            return reasons[0]
        if run.manager.due():
            save(run)
    run.epoch += 1
    run.sampler.set_epoch(run.epoch)
    save(run)  # before an evaluation that may take long
    return None


def train_step(run: Run, images: list[Tensor], targets: list[dict]) -> dict[str, float]:
    """One optimiser step on an effective batch; returns the loss, its terms and the norm of the gradient."""
    seed_everything(run.config.seed, run.step, distributed.rank())
    factor = rate_factor(run.config, run.step, len(run.sampler))
    for group in run.optimizer.param_groups:
        group["lr"] = factor * group["initial_lr"]
    images = [normalize(image.to(run.device, non_blocking=True)) for image in images]
    learned = [{k: t[k].to(run.device, non_blocking=True) for k in ("labels", "boxes")} for t in targets]
    losses, parts = gradients_within_memory(run, images, learned)
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    distributed.average_gradients(parameters)  # all processes then see the same norm, and skip the same steps
    run.precision.scaler.unscale_(run.optimizer)
    norm = clip_gradients(parameters, run.config.clip_max_norm)
    # The only time that a step waits for the device, besides the matcher's.
    values = torch.stack([*losses.values(), norm, *parts]).tolist()
    read = dict(zip([*losses, "gradient_norm"], values))
    finite = math.isfinite(read["gradient_norm"])
    if finite or run.precision.scaler.is_enabled():  # the scaler skips what overflowed, and lowers its scale
        run.precision.step(run.optimizer)
    if finite and run.ema:
        run.ema.update(run.model)
    run.optimizer.zero_grad(set_to_none=True)
    run.skipped = 0 if finite else run.skipped + 1
    if not finite:
        report_skipped(run, read, values[len(read) :], targets)
    return read


def gradients_within_memory(run: Run, images: list[Tensor], targets: list[dict]) -> tuple[dict, list[Tensor]]:
    """``accumulate_gradients``; when memory runs out, again by a leaner plan, which stays."""
    num_boxes = count_boxes(targets)
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
            raise UserError(
                f"out of memory with one image at a time and everything recomputed: lower input_size ({reason})."
            )
        run.plan = leaner
        set_grad_checkpointing(run.model, leaner.grad_checkpointing)
        run.progress.say(f"out of memory: continuing with {leaner.describe(len(images))}")
        seed_everything(run.config.seed, run.step, distributed.rank())


def report_skipped(run: Run, losses: dict[str, float], parts: list[float], targets: list[dict]) -> None:
    """Say which images a skipped step had; many such steps in a row raise ``TrainingDiverged``.

    ``parts``: the loss of each micro-batch.
    """
    bad = [t for i, t in enumerate(targets) if not math.isfinite(parts[i // run.plan.micro_batch])]
    terms = ", ".join(f"{name}={value}" for name, value in losses.items() if name != "gradient_norm")
    problem = f"non-finite loss ({terms})" if bad else f"gradient of norm {losses['gradient_norm']}"
    text = f"step {run.step} skipped: {problem} (image ids {[t.get('image_id') for t in bad or targets]})"
    # A few overflows are how the fp16 scaler finds its scale.
    if bad or not run.precision.scaler.is_enabled() or run.skipped > 5:
        run.progress.say(text)
    if run.skipped >= run.config.max_nonfinite:
        raise TrainingDiverged(
            f"{run.skipped} steps in a row were skipped, the last: {text}. Look at these images, lower lr, or train "
            "with amp=fp32; the last saved state is whole."
        )


def plan_time(run: Run) -> None:
    """After the first steps, say how long the run will take; one sized in steps is made to fit into its hours."""
    if len(run.times) > _TIMED:
        return
    run.times.append(time.monotonic())
    if len(run.times) <= _TIMED:
        return
    per_epoch, evaluation = len(run.sampler), run.evaluation_seconds
    step = statistics.median(b - a for a, b in itertools.pairwise(run.times[_UNTIMED:]))
    if run.stop.seconds_left is not None and run.config.steps and not run.shaped:
        seconds = run.stop.seconds_left + run.step * step + evaluation  # of the whole run, which fit_into plans
        shaped = fit_into(run.config, per_epoch, seconds, step, evaluation, run.given)
        shaped = distributed.run_on_main(lambda: shaped if shaped.epochs > run.epoch else run.config)
        run.shaped = {name: getattr(shaped, name) for name in LENGTH if shaped != run.config}
        run.config = shaped
        run.loader.dataset.calm_from.fill_(calm_from(shaped))  # type: ignore[attr-defined]
        run.progress.bar.total = shaped.epochs * per_epoch
        if run.ema:
            run.ema.decay = shaped.ema_decay
    steps = run.config.epochs * per_epoch - run.step
    evaluations = -(-(run.config.epochs - run.epoch) // run.config.eval_every) + 1
    minutes = (steps * step + evaluations * evaluation) / 60
    left = f"{counted(steps, 'more step')} and {counted(evaluations, 'evaluation')}"
    text = f"{step:.2f} s per step: {left} take about {counted(max(1, round(minutes)), 'minute')}"
    if run.shaped:
        text += f"; there is time for {counted(run.config.epochs, 'epoch')}"
        text += ", which is little: a smaller input_size allows more" if steps < _FEW_STEPS else ""
    run.progress.say(text)


def evaluation_due(run: Run) -> bool:
    """Whether the present epoch has no record yet and should have one."""
    evaluated = {record["epoch"] for record in run.history}
    last = run.epoch >= run.config.epochs
    return run.epoch not in evaluated and (last or run.epoch % run.config.eval_every == 0) and run.sampler.step == 0


def evaluate(run: Run) -> None:
    """Score the model, keep the record, and save state and checkpoints."""
    model, began = run.averaged, time.monotonic()
    with run.stop.at_once():
        scores = run.validation(model)
    run.evaluation_seconds = time.monotonic() - began
    record = {"epoch": run.epoch, "step": run.step, **scores}
    is_best = run.best is None or record["AP"] > run.best["AP"]
    names = [LAST_CHECKPOINT, *([BEST_CHECKPOINT, _slim(BEST_CHECKPOINT)] if is_best else [])]
    if distributed.is_main():
        for name in names:
            save_checkpoint(run.output_dir / name, model, metrics=record)
        if run.validation.found is not None and run.step == 0 and run.settings["checkpoint"] != "NoneType":
            write_results(run.output_dir / _BEFORE, run.validation.found)
    # The state comes after the checkpoints: killed in between, a resumed run evaluates, and writes them, again.
    run.history.append(record)
    save(run, is_best)
    run.progress.epoch(record)
    if distributed.is_main():
        run.manager.copy_also(*(run.output_dir / name for name in (*names, LOG, CURVES)))


def save(run: Run, is_best: bool = False) -> None:
    """Hand the whole state to the manager (main process)."""
    if distributed.is_main():
        run.manager.save(run.state_dict(), is_best=is_best)


def report_on(run: Run, cocodir: str | Path, checkpoint: Path) -> tuple[EvalResult | None, Comparison | None]:
    """Score the best checkpoint once more, as anybody would, write report and comparison with the start, and store the
    thresholds of the highest F1 in the checkpoint. ``(None, None)`` where a signal ends that."""
    folder, before = run.output_dir / "evaluation", run.output_dir / _BEFORE
    amp = "fp16" if run.validation.amp else "fp32"
    options: dict[str, Any] = {"device": run.device, "amp": amp, "check": False, "progress": False}
    split, comparison = run.config.eval_split, None
    try:
        with run.stop.at_once():
            report = evaluate_checkpoint(
                cocodir, checkpoint, split=split, output_dir=folder, name=checkpoint.name, **options
            )
            if not distributed.is_main():
                return report, None
            for path in (checkpoint, checkpoint.with_name(_slim(checkpoint.name))):
                store_thresholds(path, report.thresholds.to_dict())
                run.manager.copy_also(path)
            if before.is_file():
                comparison = compare(before, report, cocodir, split=split)
                comparison.write(folder)
    except StopNow:
        return None, None
    run.manager.copy_also(*folder.glob("report.*"), *folder.glob("comparison.*"))
    return report, comparison


def _slim(name: str) -> str:
    return name.replace(".pth", ".safetensors")
