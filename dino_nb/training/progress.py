"""Seeing a run while it runs: a bar, a log file, and curves."""

import json
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from dino_nb.files import atomic_path, write_text
from dino_nb.training.memory import peak_memory

LOG, CURVES = "log.jsonl", "curves.png"
_MOST_RECORDS = 20_000


class Progress:
    """Reports of one run: a bar with ETA, images/s and memory; ``log.jsonl``; curves as PNG and in the notebook.

    Args:
        output_dir: where ``log.jsonl`` and ``curves.png`` go.
        total_steps: optimiser steps of the whole run.
        device: whose memory is shown.
        active: False in all processes but the first, which then neither print nor write.
        live: draw the curves into the notebook after each epoch; None: where there is a notebook.
        tensorboard: also write TensorBoard events (needs the ``tensorboard`` package) to ``output_dir/tensorboard``.
    """

    def __init__(
        self,
        output_dir: str | Path,
        total_steps: int,
        device: torch.device,
        active: bool = True,
        live: bool | None = None,
        tensorboard: bool = False,
    ) -> None:
        self.folder, self.device, self.active = Path(output_dir), device, active
        self.live = in_notebook() if live is None else live
        self.records: list[dict] = []
        self._display: Any = None
        self._writer: Any = None
        self._images = 0
        self._began = time.monotonic()
        self.bar = tqdm(total=total_steps, disable=not active, unit="step", dynamic_ncols=True, desc="training")
        if tensorboard and active:
            try:
                from torch.utils.tensorboard import SummaryWriter

                self._writer = SummaryWriter(str(self.folder / "tensorboard"))
            except ImportError:
                self.say("TensorBoard events are not written: `pip install tensorboard` first.")

    def begin(self, step: int, history: list[dict]) -> None:
        """Make the log that of a run at ``step`` with the evaluations ``history``, and set the bar there.

        A new run begins an empty log. What a killed run logged after its last state is dropped: it will happen again.
        """
        path = self.folder / LOG
        steps = [r for r in read_log(path) if r["kind"] == "step" and r["step"] <= step] if path.exists() else []
        epochs = [{"kind": "epoch", **{k: _plain(v) for k, v in record.items()}} for record in history]
        self.records = sorted(steps + epochs, key=lambda r: r["step"])
        if self.active:
            write_text(path, "".join(json.dumps(r) + "\n" for r in self.records))
        self.bar.update(step - self.bar.n)
        self.bar.unpause()

    def step(self, record: dict[str, Any], images: int) -> None:
        """One optimiser step over so many ``images``: ``record`` has ``step``, ``epoch``, ``loss``, ``lr``, ...."""
        self._images += images
        rate = self._images / max(time.monotonic() - self._began, 1e-9)
        self._log({"kind": "step", **record, "images_per_s": round(rate, 3)})
        memory = peak_memory(self.device) / 2**30
        self.bar.set_postfix_str(
            f"epoch {record['epoch']}, loss {record['loss']:.3f}, {rate:.1f} images/s, {memory:.1f} GiB", refresh=False
        )
        self.bar.update()

    def epoch(self, record: dict[str, Any]) -> None:
        """One evaluation: ``record`` holds ``step``, ``epoch``, ``AP``, ``AP50``; draws the curves."""
        self._log({"kind": "epoch", **record})
        self.say(f"epoch {record['epoch']}: AP {record['AP']:.3f}, AP50 {record['AP50']:.3f}")
        if self.active:
            self._draw()
        self._images, self._began = 0, time.monotonic()  # the rate is that of training, not of evaluation

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self.active:
            tqdm.write(text)

    def _draw(self) -> None:
        """Write ``curves.png``; in a notebook show the same figure, replacing the one before."""
        with atomic_path(self.folder / CURVES) as temporary:
            curves(self.records).savefig(temporary, format="png", dpi=100)
        if self.live:
            from IPython.display import Image, display

            image = Image(filename=str(self.folder / CURVES))
            if self._display is None:
                self._display = display(image, display_id=True)
            else:
                self._display.update(image)

    def close(self) -> None:
        """End the bar and the events."""
        self.bar.close()
        if self._writer:
            self._writer.close()

    def _log(self, record: dict[str, Any]) -> None:
        record = {k: _plain(v) for k, v in record.items()}
        self.records.append(record)
        if len(self.records) > _MOST_RECORDS:  # a long run must not fill the host's memory with its own log
            self.records = [r for i, r in enumerate(self.records) if r["kind"] == "epoch" or i % 2]
        if not self.active:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if self._writer:
            for name, value in record.items():
                if isinstance(value, float):
                    self._writer.add_scalar(f"{record['kind']}/{name}", value, record["step"])


def read_log(path: str | Path) -> list[dict]:
    """The records of a ``log.jsonl``; a last line that a crash cut short is left out."""
    records = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def curves(records: list[dict]) -> Any:
    """A matplotlib figure of loss per step, AP and AP50 per epoch, and the learning rate."""
    from matplotlib.figure import Figure  # not pyplot: it would keep every figure of a long run

    steps = [r for r in records if r["kind"] == "step" and r["loss"] is not None]
    epochs = [r for r in records if r["kind"] == "epoch"]
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    loss, score, rate = figure.subplots(1, 3)
    loss.plot([r["step"] for r in steps], [r["loss"] for r in steps], color="0.8", linewidth=1)
    loss.plot([r["step"] for r in steps], _smooth([r["loss"] for r in steps]), color="tab:blue")
    loss.set(title="loss", xlabel="step")
    for name in ("AP", "AP50"):
        score.plot([r["epoch"] for r in epochs], [r[name] for r in epochs], marker=".", label=name)
    score.set(title="validation", xlabel="epoch", ylim=(0, 1))
    score.legend(loc="lower right")
    rate.plot([r["step"] for r in steps], [r["lr"] for r in steps], color="tab:orange")
    rate.set(title="learning rate", xlabel="step")
    return figure


def _smooth(values: Iterable[float], keep: float = 0.95) -> list[float]:
    """An exponential average, corrected for its start."""
    out, average = [], 0.0
    for n, value in enumerate(values, 1):
        average = keep * average + (1 - keep) * value
        out.append(average / (1 - keep**n))
    return out


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel (Colab's too)."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    return shell is not None and hasattr(shell, "kernel")
