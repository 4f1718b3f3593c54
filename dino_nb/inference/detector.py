"""``dino_nb.load``: from a checkpoint to detections, in two lines.

detector = dino_nb.load("dino-4scale-r50-24ep")
result = detector.predict("street.jpg", threshold=0.3)
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import nn

from dino_nb.checkpoints.load import load_model, output_names, pick_device
from dino_nb.data.transforms import EVAL_SIZE, eval_transform
from dino_nb.data.windows import slices
from dino_nb.errors import UserError, disk_errors
from dino_nb.inference import sources
from dino_nb.inference.fusion import mirrored, suppress, weighted_boxes
from dino_nb.inference.keywords import check_number, known_keywords
from dino_nb.inference.results import Classes, Result, Results, class_numbers
from dino_nb.inference.slicing import Found, merge
from dino_nb.inference.sources import Source, SourceImage
from dino_nb.inference.tracking import Tracker
from dino_nb.inference.video import describe, video_writer
from dino_nb.models.dino import DINO
from dino_nb.models.infer import infer
from dino_nb.models.postprocess import postprocess


def load(name_or_path: str | os.PathLike, device: str | torch.device | None = None) -> "Detector":
    """A :class:`Detector` from a checkpoint: a file, ``"dino-tiny"``, a zoo name, or a Google Drive id or link.

    Arguments and errors: see ``dino_nb.checkpoints.load.load_model``.
    """
    return Detector(load_model(name_or_path, device))


@dataclass
class _Options:
    """What :meth:`Detector.stream` was asked for, checked."""

    threshold: float
    batch_size: int
    max_detections: int | None
    used: torch.Tensor  # (outputs,) bool: which may be shown
    amp: bool
    slice_size: int | None
    slice_overlap: float
    looks: list[tuple[float, bool]]  # at which scale, and whether mirrored
    nms: float | None


class Detector:
    """A network with names for its outputs, ready to be shown images.

    Attributes:
        model: the ``DINO`` module, in eval mode.
        class_names: a name for each output of the class head, None for outputs without a class (never shown).
        device: where the network is.
        input_size: (short side, long side at most) in pixels that images are resized to.
        threshold: the one that was stored in the checkpoint, else 0.3.
    """

    def __init__(self, model: nn.Module, device: str | torch.device | None = None) -> None:
        self.device = pick_device(device)
        self.model = model.eval().to(self.device)
        if isinstance(model, DINO):
            model.optimize()
        self.class_names = output_names(model)
        self.input_size: tuple[int, int] = tuple(getattr(model, "input_size", None) or EVAL_SIZE)
        stored = (getattr(model, "thresholds", None) or {}).get("overall")
        self.threshold = float(stored) if isinstance(stored, (int, float)) and 0 <= stored <= 1 else 0.3

    @known_keywords
    def predict(
        self,
        source: Source,
        threshold: float | None = None,
        batch_size: int = 1,
        max_detections: int | None = None,
        *,
        classes: Classes | None = None,
        amp: bool | str = False,
        slice_size: int | None = None,
        slice_overlap: float = 0.2,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        nms: float | None = None,
        errors: str = "skip",
        progress: bool = True,
    ) -> Result | Results:
        """Detect objects in one image or in many. ``detector(source)`` is the same.

        Args:
            source: see ``dino_nb.inference.sources``: a path, URL, PIL image, array, tensor, folder, pattern, video
                file, or an iterable of these.
            threshold: lowest score, in [0, 1], of what is returned. Default: :attr:`threshold`.
            batch_size: images that go through the network together. Images of unequal size are padded, which
                changes scores a little; 1 is what published numbers stand for.
            max_detections: per image; the network's own number (300 in the published ones) if None.
            classes: names or output numbers to look for; None for all.
            amp: half precision (True or ``"fp16"``) where it helps, on a GPU; ignored on a CPU.
            slice_size: images larger than this many pixels are also looked at in overlapping squares of that side,
                which finds objects that are too small in the whole image; it takes as much longer as there are
                squares. ``batch_size`` of them go through the network together.
            slice_overlap: share of their side, in [0, 1), that neighbouring squares have in common, at least.
            scales, flip: look at the image at several sizes (1: ``input_size``), and mirrored, and merge what is found
                by weighted boxes: often a little better, and as many times slower.
            nms: leave out boxes that overlap a better one of their class by a larger IoU than this, in [0.01, 1].
            errors: of many images, ``"skip"`` leaves out those that cannot be read, warns at the end, and lists them
                with the reason in ``.skipped``; ``"raise"`` stops at the first.
            progress: show a progress bar where it takes more than two seconds.

        Returns:
            For one image a ``Result``; else ``Results``, a list in the order of the images. A video gives one result
            per frame, without the frames themselves: use :meth:`stream` or :meth:`annotate_video` for these.

        Raises:
            UserError: an argument is out of range, the image (or every one of many) cannot be read, or the GPU's
                memory is too small.
        """
        one = sources.is_one(source)
        results = Results()
        stream = self.stream(
            source,
            threshold,
            batch_size,
            max_detections,
            classes=classes,
            amp=amp,
            slice_size=slice_size,
            slice_overlap=slice_overlap,
            scales=scales,
            flip=flip,
            nms=nms,
            errors="raise" if one else errors,
            skipped=results.skipped,
            progress=progress,
        )
        if one:
            return next(stream)
        for result in stream:
            results.append(result.drop_image() if result.frame is not None else result)
        if results.skipped and not results:
            raise UserError(f"none of the images could be read: {sources.listed(results.skipped)}")
        sources.warn_of(results.skipped, stacklevel=4)
        return results

    __call__ = predict

    @known_keywords
    def stream(
        self,
        source: Source,
        threshold: float | None = None,
        batch_size: int = 1,
        max_detections: int | None = None,
        *,
        classes: Classes | None = None,
        amp: bool | str = False,
        slice_size: int | None = None,
        slice_overlap: float = 0.2,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        nms: float | None = None,
        errors: str = "skip",
        skipped: list[tuple[str, str]] | None = None,
        progress: bool = False,
    ) -> Iterator[Result]:
        """Yield a ``Result`` per image as soon as it is there, in memory that does not grow: for videos and large
        folders. Arguments as in :meth:`predict`; ``skipped`` is a list that takes a ``(source, reason)`` pair for
        each image left out (default: each is a warning)."""
        if errors not in ("raise", "skip"):
            raise UserError(f"errors must be 'raise' or 'skip', not {errors!r}.")
        if amp not in (True, False, "fp16", "fp32"):
            raise UserError(f"amp must be True, False, 'fp16' or 'fp32', not {amp!r}.")
        threshold = self.threshold if threshold is None else threshold
        check_number("threshold", threshold, 0, 1)
        check_number("batch_size", batch_size, 1, whole=True)
        if max_detections is not None:
            check_number("max_detections", max_detections, 1, whole=True)
        check_number("slice_size", 32 if slice_size is None else slice_size, 0, whole=True)
        check_number("slice_overlap", slice_overlap, 0)
        if slice_size is not None and (slice_size < 32 or not slice_overlap < 1):
            raise UserError("slice_size must be at least 32 pixels, and slice_overlap in [0, 1).")
        if nms is not None:
            check_number("nms", nms, 0.01, 1)
        for scale in scales:
            check_number("scales: each", scale, 0.1, 4)
        if not len(scales):
            raise UserError("scales must name at least one.")
        looks = [(float(scale), mirror) for scale in scales for mirror in ((False, True) if flip else (False,))]
        used = torch.tensor([name is not None for name in self.class_names])
        if classes is not None:
            wanted = torch.tensor(class_numbers(classes, self.class_names), dtype=torch.int64)
            used &= torch.zeros_like(used).index_fill_(0, wanted, True)
        options = _Options(
            threshold, batch_size, max_detections, used, amp in (True, "fp16"), slice_size, slice_overlap, looks, nms
        )
        return self._stream(sources.read_all(source, errors, skipped, progress), options)

    @known_keywords
    @disk_errors()
    def annotate_video(
        self,
        path: str | os.PathLike,
        output: str | os.PathLike,
        threshold: float | None = None,
        batch_size: int = 1,
        on_frame: Callable[[Result], object] | None = None,
        *,
        max_detections: int | None = None,
        classes: Classes | None = None,
        amp: bool | str = False,
        slice_size: int | None = None,
        labels: bool | None = None,
        scores: bool = True,
        track: bool = False,
        progress: bool = True,
    ) -> Path:
        """Write a video's copy with boxes drawn on it (``.mp4``, H.264) and return its path. Sound is kept if it can be
        copied as it is.

        Args:
            on_frame: called with the ``Result`` of every frame, for counting.
            labels, scores: see ``Result.draw``.
            track: follow the objects (needs the package trackers): boxes get numbers and traces, and the number of
                objects of each class is written beside the video, to ``NAME_counts.csv``.

        Other arguments as in :meth:`predict`. Frames stream through: memory does not grow with the length.
        """
        if Path(output).exists() and Path(path).exists() and Path(output).samefile(path):
            raise UserError(f"{output} is the video itself: the copy with boxes needs another name.")
        rate, _ = describe(path)
        threshold = self.threshold if threshold is None else threshold
        check_number("threshold", threshold, 0, 1)
        tracker = Tracker(rate, threshold) if track else None
        results = self.stream(
            str(path),
            threshold / 2 if track else threshold,
            batch_size,
            max_detections,
            classes=classes,
            amp=amp,
            slice_size=slice_size,
            errors="raise",
            progress=progress,
        )
        with video_writer(output, rate, sound_of=path) as write:
            for result in results:
                result = tracker.update(result) if tracker else result
                write((tracker.draw if tracker else Result.draw)(result, labels=labels, scores=scores))
                if on_frame is not None:
                    on_frame(result)
        if tracker:
            tracker.save_counts(Path(output).with_name(f"{Path(output).stem}_counts.csv"))
        return Path(output)

    def forward(self, images: list[Image.Image], amp: bool = False, scale: float = 1.0) -> dict[str, torch.Tensor]:
        """``pred_logits (B, Q, C)`` and ``pred_boxes (B, Q, 4)`` of a batch of upright RGB PIL images, resized to
        ``scale`` times the ``input_size``."""
        transform = eval_transform(*(round(side * scale) for side in self.input_size))
        first = next(self.model.parameters(), torch.empty(0))
        return infer(self.model, [transform(image).to(self.device, first.dtype) for image in images], amp)

    def _stream(self, images: Iterator[SourceImage], options: _Options) -> Iterator[Result]:
        batch: list[SourceImage] = []
        for image in images:
            batch.append(image)
            if len(batch) == options.batch_size:
                yield from self._detect(batch, options)
                batch = []
        if batch:
            yield from self._detect(batch, options)

    def _detect(self, batch: list[SourceImage], options: _Options) -> Iterator[Result]:
        config = getattr(self.model, "config", None)
        keep = max(getattr(config, "num_select", 300), options.max_detections or 0)
        images = [source.image for source in batch]
        looks = [self._look(images, keep, scale, mirror, options) for scale, mirror in options.looks]
        everything = looks[0] if len(looks) == 1 else [weighted_boxes(several) for several in zip(*looks)]
        for source, found in zip(batch, everything):
            found = found if options.nms is None else suppress(found, options.nms)
            scores, labels, boxes = (found[key].cpu() for key in ("scores", "labels", "boxes"))
            index = ((scores >= options.threshold) & options.used[labels]).nonzero().flatten()[: options.max_detections]
            yield Result(scores[index], labels[index], boxes[index], self.class_names, source, options.threshold)

    def _look(self, images: list[Image.Image], keep: int, scale: float, mirror: bool, options: _Options) -> list[Found]:
        """What one look at each image finds, its slices included."""
        images = [ImageOps.mirror(image) for image in images] if mirror else images
        if options.slice_size:
            found = [self._find_in_slices(image, keep, scale, options.slice_size, options) for image in images]
        else:
            found = self._find(images, keep, scale, options.amp)
        if len(options.looks) > 1:  # merging takes its time for each; what is this uncertain is not shown in the end
            least = min(options.threshold, 0.05)
            found = [_certain(one, least) for one in found]
        return [mirrored(one, image.width) for one, image in zip(found, images)] if mirror else found

    def _find(self, images: list[Image.Image], keep: int, scale: float, amp: bool) -> list[Found]:
        outputs = self.forward(images, amp, scale)
        return postprocess(outputs, [(image.height, image.width) for image in images], keep)

    def _find_in_slices(self, image: Image.Image, keep: int, scale: float, size: int, options: _Options) -> Found:
        windows, step = slices(*image.size, size, options.slice_overlap), options.batch_size
        found: list[Found] = []
        # the whole image by itself: padding the slices to its shape would be wasted work
        for part in [windows[:1], *(windows[i : i + step] for i in range(1, len(windows), step))]:
            found += self._find([image.crop(window) for window in part], keep, scale, options.amp)
        return merge([_certain(one, options.threshold) for one in found], windows)

    def __repr__(self) -> str:
        names = [name for name in self.class_names if name is not None]
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        backbone = getattr(getattr(self.model, "config", None), "backbone", type(self.model).__name__)
        count = f"{len(names)} class{'es' if len(names) != 1 else ''}"
        return f"Detector({backbone}, {count}: {shown}; on {self.device})"


def _certain(found: Found, least: float) -> Found:
    return {key: values[found["scores"] >= least].cpu() for key, values in found.items()}
