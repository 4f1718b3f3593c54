"""``dino_nb.load``: from a checkpoint to detections, in two lines.

detector = dino_nb.load("dino-4scale-r50-24ep")
result = detector.predict("street.jpg", threshold=0.3)
"""

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from tqdm.auto import tqdm

from dino_nb.checkpoints.load import load_model, output_names, pick_device
from dino_nb.data.transforms import EVAL_SIZE, eval_transform
from dino_nb.errors import UserError
from dino_nb.inference import sources
from dino_nb.inference.keywords import known_keywords
from dino_nb.inference.results import Classes, Result, Results, class_numbers
from dino_nb.inference.slicing import Found, merge, slices
from dino_nb.inference.sources import Source, SourceImage
from dino_nb.inference.video import describe, is_video, video_writer
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


class Detector:
    """A network with names for its outputs, ready to be shown images.

    Attributes:
        model: the ``DINO`` module, in eval mode.
        class_names: a name for each output of the class head, None for outputs without a class (never shown).
        device: where the network is.
        input_size: (short side, long side at most) in pixels that images are resized to.
    """

    def __init__(self, model: nn.Module, device: str | torch.device | None = None) -> None:
        self.device = pick_device(device)
        self.model = model.eval().to(self.device)
        self.class_names = output_names(model)
        self.input_size: tuple[int, int] = tuple(getattr(model, "input_size", None) or EVAL_SIZE)

    @known_keywords
    def predict(
        self,
        source: Source,
        threshold: float = 0.3,
        batch_size: int = 1,
        max_detections: int | None = None,
        *,
        classes: Classes | None = None,
        amp: bool = False,
        slice_size: int | None = None,
        slice_overlap: float = 0.2,
        errors: str = "skip",
        progress: bool = True,
    ) -> Result | Results:
        """Detect objects in one image or in many. ``detector(source)`` is the same.

        Args:
            source: see ``dino_nb.inference.sources``: a path, URL, PIL image, array, tensor, folder, pattern, video
                file, or an iterable of these.
            threshold: lowest score, in [0, 1], of what is returned.
            batch_size: images that go through the network together. Images of unequal size are padded, which
                changes scores a little; 1 is what published numbers stand for.
            max_detections: per image; the network's own number (300 in the published ones) if None.
            classes: names or output numbers to look for; None for all.
            amp: half precision where it helps, on a GPU; ignored on a CPU.
            slice_size: images larger than this many pixels are also looked at in overlapping squares of that side,
                which finds objects that are too small in the whole image; it takes as much longer as there are
                squares. ``batch_size`` of them go through the network together.
            slice_overlap: share of their side, in [0, 1), that neighbouring squares have in common, at least.
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
            errors="raise" if one else errors,
            skipped=results.skipped,
            progress=progress,
        )
        if one:
            return next(stream)
        for result in stream:
            results.append(result.drop_image() if result.frame is not None else result)
        if results.skipped:
            listed = "; ".join(reason for _, reason in results.skipped[:5])
            more = f" (and {len(results.skipped) - 5} more, see .skipped)" if len(results.skipped) > 5 else ""
            if not results:
                raise UserError(f"none of the images could be read: {listed}{more}")
            warnings.warn(f"{len(results.skipped)} image(s) were left out: {listed}{more}", stacklevel=3)
        return results

    __call__ = predict

    @known_keywords
    def stream(
        self,
        source: Source,
        threshold: float = 0.3,
        batch_size: int = 1,
        max_detections: int | None = None,
        *,
        classes: Classes | None = None,
        amp: bool = False,
        slice_size: int | None = None,
        slice_overlap: float = 0.2,
        errors: str = "skip",
        skipped: list[tuple[str, str]] | None = None,
        progress: bool = False,
    ) -> Iterator[Result]:
        """Yield a ``Result`` per image as soon as it is there, in memory that does not grow: for videos and large
        folders. Arguments as in :meth:`predict`; ``skipped`` is a list that takes a ``(source, reason)`` pair for
        each image left out (default: each is a warning)."""
        if errors not in ("raise", "skip"):
            raise UserError(f"errors must be 'raise' or 'skip', not {errors!r}.")
        if not 0 <= threshold <= 1:
            raise UserError(f"threshold must be in [0, 1], not {threshold}.")
        if batch_size < 1 or (max_detections is not None and max_detections < 1):
            raise UserError("batch_size and max_detections must be at least 1.")
        if slice_size is not None and (slice_size < 32 or not 0 <= slice_overlap < 1):
            raise UserError("slice_size must be at least 32 pixels, and slice_overlap in [0, 1).")
        used = torch.tensor([name is not None for name in self.class_names])
        if classes is not None:
            wanted = torch.tensor(class_numbers(classes, self.class_names), dtype=torch.int64)
            used &= torch.zeros_like(used).index_fill_(0, wanted, True)
        options = _Options(threshold, batch_size, max_detections, used, amp, slice_size, slice_overlap)
        return self._stream(_readable(source, errors, skipped, progress), options)

    @known_keywords
    def annotate_video(
        self,
        path: str | os.PathLike,
        output: str | os.PathLike,
        threshold: float = 0.3,
        batch_size: int = 1,
        on_frame: Callable[[Result], object] | None = None,
        *,
        max_detections: int | None = None,
        classes: Classes | None = None,
        amp: bool = False,
        slice_size: int | None = None,
        slice_overlap: float = 0.2,
        labels: bool | None = None,
        scores: bool = True,
        progress: bool = True,
    ) -> Path:
        """Write a video's copy with boxes drawn on it (``.mp4``, H.264, without sound) and return its path.

        ``on_frame(result)`` is called for every frame, for counting; ``labels`` and ``scores`` as in ``Result.draw``,
        other arguments as in :meth:`predict`. Frames stream through: memory does not grow with the length.
        """
        if Path(output).exists() and Path(path).exists() and Path(output).samefile(path):
            raise UserError(f"{output} is the video itself: the copy with boxes needs another name.")
        results = self.stream(
            str(path),
            threshold,
            batch_size,
            max_detections,
            classes=classes,
            amp=amp,
            slice_size=slice_size,
            slice_overlap=slice_overlap,
            errors="raise",
            progress=progress,
        )
        rate, _ = describe(path)
        with video_writer(output, rate) as write:
            for result in results:
                write(result.draw(labels=labels, scores=scores))
                if on_frame is not None:
                    on_frame(result)
        return Path(output)

    def forward(self, images: list[Image.Image], amp: bool = False) -> dict[str, torch.Tensor]:
        """``pred_logits (B, Q, C)`` and ``pred_boxes (B, Q, 4)`` of a batch of upright RGB PIL images."""
        transform = eval_transform(*self.input_size)
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
        if options.slice_size:
            everything = [self._find_in_slices(image, keep, options.slice_size, options) for image in images]
        else:
            everything = self._find(images, keep, options.amp)
        for source, found in zip(batch, everything):
            scores, labels, boxes = (found[key].cpu() for key in ("scores", "labels", "boxes"))
            index = ((scores >= options.threshold) & options.used[labels]).nonzero().flatten()[: options.max_detections]
            yield Result(scores[index], labels[index], boxes[index], self.class_names, source)

    def _find(self, images: list[Image.Image], keep: int, amp: bool) -> list[Found]:
        return postprocess(self.forward(images, amp), [(image.height, image.width) for image in images], keep)

    def _find_in_slices(self, image: Image.Image, keep: int, size: int, options: _Options) -> Found:
        windows, step = slices(*image.size, size, options.slice_overlap), options.batch_size
        found: list[Found] = []
        # the whole image by itself: padding the slices to its shape would be wasted work
        for part in [windows[:1], *(windows[i : i + step] for i in range(1, len(windows), step))]:
            found += self._find([image.crop(window) for window in part], keep, options.amp)
        certain = [{k: values[one["scores"] >= options.threshold].cpu() for k, values in one.items()} for one in found]
        return merge(certain, windows)

    def __repr__(self) -> str:
        names = [name for name in self.class_names if name is not None]
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        backbone = getattr(getattr(self.model, "config", None), "backbone", type(self.model).__name__)
        count = f"{len(names)} class{'es' if len(names) != 1 else ''}"
        return f"Detector({backbone}, {count}: {shown}; on {self.device})"


def _readable(
    source: Source, errors: str, skipped: list[tuple[str, str]] | None, progress: bool
) -> Iterator[SourceImage]:
    known = isinstance(source, (str, os.PathLike, list, tuple))  # else perhaps endless
    leaves = list(sources.leaves(source)) if known else sources.leaves(source)
    total = len(leaves) if isinstance(leaves, list) else None
    quiet = not progress or (total == 1 and not is_video(leaves[0]) if isinstance(leaves, list) else False)
    unit = "image"
    if isinstance(leaves, list) and total == 1 and isinstance(leaves[0], str) and is_video(leaves[0]):
        total, unit = describe(leaves[0])[1], "frame"
    with tqdm(total=total, desc="detecting", disable=quiet, delay=2, unit=unit) as bar:
        for number, leaf in enumerate(leaves):
            try:
                for image in sources.read(leaf, number):
                    yield image
                    bar.update()
            except UserError as error:
                if errors == "raise":
                    raise
                name = leaf if isinstance(leaf, str) else f"image {number}"
                if skipped is None:
                    warnings.warn(f"left out: {error}", stacklevel=2)
                else:
                    skipped.append((name, str(error)))
