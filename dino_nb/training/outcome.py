"""What a run ends with: the report of its best checkpoint, whether it is better than the start, and advice."""

from pathlib import Path
from typing import Any

import numpy as np

from dino_nb import distributed
from dino_nb.checkpoints.checkpoint import store_thresholds
from dino_nb.data.dataset import CocoDataset
from dino_nb.evaluation.compare import Comparison, compare
from dino_nb.evaluation.evaluate import EvalResult, evaluate
from dino_nb.training.run import Run
from dino_nb.training.stopping import StopNow
from dino_nb.training.trainer import BEFORE

_FEW_OBJECTS, _LOOSE, _DUPLICATES = 10, 0.03, 0.1


def report_on(run: Run, cocodir: str | Path, checkpoint: Path) -> tuple[EvalResult | None, Comparison | None]:
    """Score the best checkpoint once more, as anybody would, write report and comparison with the start, and store the
    thresholds of the highest F1 in the checkpoint. ``(None, None)`` where a signal ends that."""
    folder, before = run.output_dir / "evaluation", run.output_dir / BEFORE
    options: dict[str, Any] = {
        "split": run.config.eval_split,
        "device": run.device,
        "check": False,
        "amp": run.validation.amp,
    }
    comparison = None
    try:
        with run.stop.at_once():
            report = evaluate(cocodir, checkpoint, output_dir=folder, progress=False, name=checkpoint.name, **options)
            if not distributed.is_main():
                return report, None
            for path in (checkpoint, checkpoint.with_suffix(".safetensors")):
                store_thresholds(path, report.thresholds.to_dict())
                run.manager.copy_also(path)
            if before.is_file():
                comparison = compare(before, report, cocodir, split=run.config.eval_split)
                comparison.write(folder)
    except StopNow:
        return None, None
    run.manager.copy_also(*folder.glob("report.*"), *folder.glob("comparison.*"))
    return report, comparison


def advice(
    history: list[dict[str, Any]],
    steps: list[dict[str, Any]],
    train_set: CocoDataset,
    report: EvalResult | None = None,
    comparison: Comparison | None = None,
) -> list[str]:
    """Sentences on what to do next, from what was seen.

    Args:
        history: a record per evaluation; ``steps``: of the log, a record per step.
        train_set: what was learned from.
        report, comparison: of the best checkpoint, where there are any.
    """
    lines, scores = [], [record["AP"] for record in history]
    row = comparison.rows[0] if comparison else {"low": None}
    half = 0.0 if row["low"] is None else (row["high"] - row["low"]) / 2  # of the interval of AP
    best = int(np.argmax(scores)) if scores else 0
    losses = {r["step"]: r["loss"] for r in steps if r["loss"] is not None}
    around = [loss for step, loss in losses.items() if abs(step - history[best]["step"]) <= max(len(losses) // 10, 1)]
    late = list(losses.values())[-max(len(losses) // 10, 1) :]
    if (
        best < len(scores) - 2
        and scores[best] - scores[-1] > max(0.01, half / 2)
        and around
        and np.mean(late) < np.mean(around)
    ):
        lines.append(
            f"Overfitting: since epoch {history[best]['epoch']} the loss fell and AP fell from {scores[best]:.3f} to "
            f"{scores[-1]:.3f}. Try augment=light or strong, frozen=backbone, fewer steps, or more images."
        )
    elif len(scores) > 4 and best == len(scores) - 1 and scores[-1] - scores[-1 - len(scores) // 4] > 0.01:
        lines.append("AP was still rising at the end: train longer (more steps or epochs).")
    counts = np.bincount(
        np.concatenate([train_set.target(i)["labels"].numpy() for i in range(len(train_set))]),
        minlength=len(train_set.class_names),
    )
    if few := [f"{n} ({c})" for n, c in zip(train_set.class_names, counts) if c < _FEW_OBJECTS]:
        lines.append(
            f"Too few objects to learn from: {', '.join(few[:8])}. Label more of them, or try repeat_rare=0.1."
        )
    if comparison and half > _LOOSE:
        n = len(comparison.a.image_ids)
        lines.append(
            f"The {n} images of the validation set tell AP to about +-{100 * half:.0f} points: more of them show "
            "smaller differences."
        )
    if report and report.analysis.counts["duplicate"] > _DUPLICATES * max(report.analysis.counts["correct"], 1):
        lines.append("Many objects are found twice: train longer, or remove near-duplicate boxes when predicting.")
    return lines
