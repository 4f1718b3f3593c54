"""``evaluate``: a COCODIR and a checkpoint in, COCO's numbers out.

result = dino_nb.evaluate("cocodir", "checkpoint.pth")
print(result)                # in a notebook, `result` alone shows tables
result.metrics["AP"]
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from dino_nb import distributed
from dino_nb.checkpoints.load import load_model, pick_device
from dino_nb.data.classes import ClassMatch
from dino_nb.data.dataset import CocoDataset
from dino_nb.data.transforms import eval_transform
from dino_nb.errors import UserError
from dino_nb.evaluation import report
from dino_nb.evaluation.coco import Scores, score
from dino_nb.evaluation.collect import collect_shared, match_model
from dino_nb.prepare.check import check_dataset


@dataclass
class EvalResult:
    """What :func:`evaluate` returns; prints as text, shows as tables in a notebook.

    Attributes:
        scores: ``Scores``; ``metrics`` (the 12 numbers, 0..1 or -1 where undefined) and ``per_class`` are its parts.
        match: ``ClassMatch``: how the model's outputs and the data set's categories were paired.
        results: COCO results, as in ``results.json``.
        dataset: the ``CocoDataset``; ``image_ids``: those of it that were evaluated.
        seconds: wall time of all; ``images_per_second``: of reading pictures and of the network alone.
        settings: checkpoint, device, picture size, batch size, amp.
        output_dir: where results and reports were written, or None.
    """

    scores: Scores
    match: ClassMatch
    results: list = field(repr=False)
    dataset: CocoDataset = field(repr=False)
    image_ids: list = field(repr=False)
    seconds: float
    images_per_second: float
    settings: dict
    output_dir: Path | None = None

    @property
    def metrics(self):
        return self.scores.metrics

    @property
    def per_class(self):
        return self.scores.per_class

    def to_dict(self):
        return report.to_dict(self)

    def __str__(self):
        return report.to_text(self)

    __repr__ = __str__

    def _repr_html_(self):
        return report.to_html(self)


def evaluate(
    cocodir,
    checkpoint,
    *,
    split="val",
    batch_size=1,
    device=None,
    output_dir=None,
    check=True,
    amp=False,
    num_workers=None,
    input_size=None,
    classes="auto",
    limit=None,
    progress=True,
    name=None,
):
    """Score a checkpoint on one split of a COCODIR.

    Args:
        cocodir: folder with ``{train,val[,test]}2017/`` and ``annotations/``.
        checkpoint: whatever ``dino_nb.load`` takes (file, zoo name), a ``Detector``, or a ``DINO`` module.
        split: ``train``, ``val`` or ``test``. Without annotations nothing is scored, but results are made.
        batch_size: pictures a forward pass; published numbers are those of 1.
        device: default: a GPU if there is one; for a given ``Detector`` or module, where it is.
        output_dir: folder for ``results.json`` (COCO results that pycocotools loads, with the data set's own ids) and
            ``report.{txt,html,json}``. Default: nothing is written.
        check: refuse a data set with errors before starting.
        amp: half precision, on a GPU.
        num_workers: processes that read pictures; default: 0 on a CPU, else up to 2.
        input_size: (short side, limit of the long side) in pixels. Default: the model's own, 800 / 1333 if published.
        classes: ``auto``, ``name`` or ``id``: see ``dino_nb.data.classes.match_classes``.
        limit: evaluate the first so many pictures only.
        progress: show a progress bar.
        name: what the reports call the checkpoint. Default: its name or file.

    Of several processes (``torchrun``) each takes its share of the pictures; all return the same result, and the main
    one writes it.

    Returns:
        ``EvalResult``. Raises ``UserError`` if data set and checkpoint have no class in common, a picture cannot be
        read, or the check finds errors.
    """
    started = time.perf_counter()
    model = as_model(checkpoint, device)
    input_size = tuple(input_size or model.input_size)
    if check:
        distributed.run_on_main(_check, cocodir, split, progress)
    dataset = CocoDataset(cocodir, split, eval_transform(*input_size))
    match = match_model(model, dataset.categories, classes)
    if batch_size < 1 or (limit is not None and limit < 1):
        raise UserError("batch_size and limit must be at least 1.")
    count = len(dataset) if limit is None else min(limit, len(dataset))
    if not count:
        raise UserError(f"{dataset.annotation_file} lists no pictures to evaluate.")
    reading = time.perf_counter()
    results = collect_shared(
        model,
        dataset,
        range(count),
        match=match,
        batch_size=batch_size,
        amp=amp,
        num_workers=num_workers,
        progress=progress,
    )
    images_per_second = count / (time.perf_counter() - reading)
    image_ids = [dataset.image_id(i) for i in range(count)]
    scores = score(dataset.coco(), results, image_ids)
    settings = {
        "checkpoint": str(name or (checkpoint if isinstance(checkpoint, (str, Path)) else type(checkpoint).__name__)),
        "device": str(next(model.parameters()).device),
        "input_size": list(input_size),
        "batch_size": batch_size,
        "amp": amp,
    }
    seconds = time.perf_counter() - started
    result = EvalResult(scores, match, results, dataset, image_ids, seconds, images_per_second, settings)
    if output_dir is not None and distributed.is_main():
        report.write(result, output_dir)
    return result


def _check(cocodir, split, progress):
    check_dataset(cocodir, splits=[split], images="header", progress=progress).raise_if_errors()


def as_model(checkpoint, device=None):
    """The ``DINO`` module behind a checkpoint's name or file, a ``Detector`` or a module, on ``device``."""
    model = getattr(checkpoint, "model", checkpoint)  # of a Detector
    if isinstance(model, torch.nn.Module):
        return model if device is None else model.to(pick_device(device))
    return load_model(checkpoint, device)
