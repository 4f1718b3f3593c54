"""``evaluate``: a COCODIR and a checkpoint in, COCO's numbers and a report out.

result = dino_nb.evaluate("cocodir", "checkpoint.pth")
print(result)                # in a notebook, `result` alone shows tables
result.metrics["AP"]
result.show("errors")        # one part of the report
"""

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from dino_nb import distributed
from dino_nb.checkpoints import zoo
from dino_nb.checkpoints.load import as_model
from dino_nb.data.classes import ClassMatch, match_classes
from dino_nb.data.dataset import CocoDataset
from dino_nb.data.transforms import EVAL_SIZE, eval_transform, normalize
from dino_nb.errors import UserError
from dino_nb.evaluation import report
from dino_nb.evaluation.analysis import Analysis
from dino_nb.evaluation.coco import Scores, score
from dino_nb.evaluation.collect import STEPS, collect_predictions
from dino_nb.evaluation.labels import write_labels
from dino_nb.evaluation.stream import Stream, fingerprint
from dino_nb.evaluation.thresholds import Thresholds
from dino_nb.inference.keywords import check_number
from dino_nb.inference.precision import Amp, choose
from dino_nb.prepare.check import check_dataset
from dino_nb.printer import Block, Printed


@dataclass(repr=False)
class EvalResult(Printed):
    """What :func:`evaluate` returns; prints as text, shows as tables in a notebook.

    Attributes:
        scores: ``Scores``; ``metrics`` (the 12 numbers, 0..1 or -1 where undefined) and ``per_class`` are its parts.
        match: how the model's outputs and the data set's categories were paired.
        dataset: what was evaluated on; ``image_ids``: those of it that were.
        seconds: wall time of all; ``images_per_second``: of reading images and of the network alone.
        settings: checkpoint, device, input size, batch size, amp, and for a published checkpoint its published AP.
        threshold: the score from which errors are counted; None for the best F1's.
        milliseconds: per image, by step.
        output_dir: where results and reports were written, or None.
    """

    scores: Scores
    match: ClassMatch
    dataset: CocoDataset
    seconds: float
    images_per_second: float
    settings: dict[str, Any]
    threshold: float | None = None
    milliseconds: dict[str, float] | None = None
    output_dir: Path | None = None

    @property
    def metrics(self) -> dict[str, float]:
        return self.scores.metrics

    @property
    def per_class(self) -> list[dict[str, Any]]:
        return self.scores.per_class

    @property
    def results(self) -> list[dict[str, Any]]:
        """COCO results, as in ``results.json``."""
        return list(self.scores.found)

    @property
    def image_ids(self) -> list[Any]:
        return self.scores.found.image_ids

    @cached_property
    def analysis(self) -> Analysis:
        """Errors, confused classes, suspicious labels: made when it is first asked for."""
        return Analysis(self.scores, self.threshold)

    @property
    def thresholds(self) -> Thresholds:
        """Precision, recall and F1 over the score; ``best`` is the threshold of the highest F1."""
        return self.analysis.thresholds

    @cached_property
    def _positions(self) -> dict[Any, int]:
        return {self.dataset.image_id(i): i for i in range(len(self.dataset))}

    def path(self, image_id: Any) -> Path:
        """The file of an image."""
        return self.dataset.path(self._positions[image_id])

    def show(self, part: str) -> Printed:
        """One part of the report, to print or to end a notebook cell with."""
        return report.part(self, part)

    def save_labels(self, folder: str | Path, format: str = "labelme") -> Path:
        """Write images whose labels may be wrong, with boxes that seem to be missing, for a labelling tool.

        ``format``: ``labelme``, ``yolo``, ``voc`` or ``cvat``. ``dino-nb convert`` reads what was corrected there.
        """
        return write_labels(self, folder, format)

    def to_dict(self) -> dict[str, Any]:
        """Every number of the report, as in ``report.json``."""
        return report.to_dict(self)

    def blocks(self) -> list[Block]:
        return report.short(self)


def evaluate(
    cocodir: str | Path,
    checkpoint: Any,
    *,
    split: str = "val",
    batch_size: int | str = 1,
    device: str | torch.device | None = None,
    output_dir: str | Path | None = None,
    check: bool = True,
    amp: Amp = "auto",
    num_workers: int | None = None,
    input_size: tuple[int, int] | None = None,
    classes: str = "auto",
    limit: int | None = None,
    threshold: float | None = None,
    metrics: str = "hotcoco",
    resume: bool = False,
    progress: bool = True,
    name: str | None = None,
) -> EvalResult:
    """Score a checkpoint on one split of a COCODIR.

    Args:
        cocodir: folder with ``{train,val[,test]}2017/`` and ``annotations/``.
        checkpoint: whatever ``dino_nb.load`` takes (file, zoo name), a ``Detector``, or a ``DINO`` module.
        split: ``train``, ``val`` or ``test``. Without annotations nothing is scored, but results are made.
        batch_size: images per forward pass; published numbers are those of 1. ``"auto"`` takes images together that are
            of one shape when resized, as many as pay: none is padded, and the results are those of 1 but for rounding.
        device: default: a GPU if there is one; for a given ``Detector`` or module, where it is.
        output_dir: folder for ``results.json`` (COCO results that pycocotools loads, with the data set's own ids),
            ``report.{txt,html,json}``, ``per_class.csv``, and labels to check. Default: nothing is written.
        check: refuse a data set with errors before starting.
        amp: ``"auto"``: half precision on a GPU if it agrees with float32 on the first two images (how far is printed);
            ``"fp16"``: half precision on a GPU; ``"fp32"``: the published arithmetic.
        num_workers: processes that read images; default: 0 on a CPU, else up to 2.
        input_size: (short side, limit of the long side) in pixels. Default: the model's own, 800 / 1333 if published.
        classes: ``auto``, ``name`` or ``id``: see ``dino_nb.data.classes.match_classes``.
        limit: evaluate the first so many images only.
        threshold: count errors from this score, 0..1. Default: the one that the checkpoint stores, else the one of
            the highest F1.
        metrics: ``hotcoco``, or ``pycocotools`` (the same numbers, much slower).
        resume: continue an interrupted evaluation in ``output_dir``.
        progress: show a progress bar.
        name: what the reports call the checkpoint. Default: its name or file.

    Of several processes (``torchrun``) each takes its share of the images; all return the same result, and the main
    one writes it.

    Returns:
        ``EvalResult``. Raises ``UserError`` if data set and checkpoint have no class in common, an image cannot be
        read, or the check finds errors.
    """
    started = time.perf_counter()
    if batch_size != "auto":
        check_number("batch_size", batch_size, 1, whole=True)
    if limit is not None:
        check_number("limit", limit, 1, whole=True)
    if threshold is not None:
        check_number("threshold", threshold, 0, 1)
    if resume and output_dir is None:
        raise UserError("resume needs the output_dir of the interrupted evaluation.")
    model: Any = as_model(checkpoint, device)
    if threshold is None:
        stored = (getattr(model, "thresholds", None) or {}).get("overall")
        threshold = stored if isinstance(stored, float) and 0 <= stored <= 1 else None
    if check:
        distributed.run_on_main(_check, cocodir, split, progress)
    short_side, long_side = input_size or model.input_size
    dataset = CocoDataset(cocodir, split, eval_transform(short_side, long_side))
    match = match_classes(dataset.categories, model.config.num_classes, model.class_names, model.category_ids, classes)
    ids = [dataset.image_id(i) for i in range(len(dataset))][:limit]
    if not ids:
        raise UserError(f"{dataset.annotation_file} lists no images to evaluate.")
    half = _precision(model, dataset, len(ids), amp)
    computed = {"input_size": [short_side, long_side], "batch_size": batch_size, "amp": bool(half)}
    settings = {
        "checkpoint": str(name or (checkpoint if isinstance(checkpoint, (str, Path)) else type(checkpoint).__name__)),
        "device": str(next(model.parameters(), torch.empty(0)).device),
        **computed,
        "limit": limit,
    }
    stream = None
    if output_dir is not None:
        data = {"split": dataset.split, "classes": sorted(map(str, match.label_of.items())), "images": [*map(str, ids)]}
        stream = Stream(output_dir, {**computed, **data, "checkpoint": fingerprint(model)}, resume)
    reading, seconds = time.perf_counter(), dict.fromkeys(STEPS, 0.0)
    found = collect_predictions(
        *(model, dataset, range(len(ids))),
        stream=stream,
        match=match,
        batch_size=batch_size,
        amp=half,
        num_workers=num_workers,
        progress=progress,
        seconds=seconds,
    )
    reading = time.perf_counter() - reading
    fresh = len(ids) - len(stream.done if stream else ())
    scores = score(dataset.coco(), found, ids, metrics)
    settings["published"] = _published(name or checkpoint, dataset, settings, model, len(ids))
    spent = distributed.all_gather_objects(seconds)
    each = {step: 1000 * sum(one[step] for one in spent) / max(1, fresh) for step in STEPS}
    took = time.perf_counter() - started
    result = EvalResult(scores, match, dataset, took, fresh / reading, settings, threshold, each)
    if stream is not None:
        if distributed.is_main():
            report.write(result, stream.folder)
        stream.finish()
    return result


def _check(cocodir, split, progress):
    check_dataset(cocodir, splits=[split], images="header", progress=progress).raise_if_errors()


def _precision(model: Any, dataset: CocoDataset, count: int, amp: Amp) -> torch.dtype | bool:
    def images() -> list[torch.Tensor]:
        first = next(model.parameters())
        return [normalize(dataset[i][0].to(first.device)).to(first.dtype) for i in range(min(2, count))]

    chosen = choose(model, images, amp, distributed.print_main)
    return distributed.all_gather_objects(chosen)[0]  # the same for all processes


def _published(name, dataset, settings, model, count):
    """The published AP of a zoo checkpoint on COCO's val2017, and what differs from the protocol; None for others."""
    item = zoo.find(Path(name).name) if isinstance(name, (str, Path)) else None
    if item is None or (dataset.split, len(dataset), len(dataset.categories)) != ("val", 5000, 80):
        return None
    differences = {
        f"batch size {settings['batch_size']} instead of 1": settings["batch_size"] not in (1, "auto"),
        "half precision instead of float32": settings["amp"],
        f"input size {settings['input_size']} instead of {[*EVAL_SIZE]}": settings["input_size"] != [*EVAL_SIZE],
        f"{model.config.num_select} detections per image": model.config.num_select != 300,
        f"{count:,} of 5,000 images": count != len(dataset),
    }
    return {"name": item.name, "AP": item.ap / 100, "differs": [text for text, so in differences.items() if so]}
