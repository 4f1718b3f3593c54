"""``dino_nb.load``: from a checkpoint to detections, in two lines.

detector = dino_nb.load("dino-4scale-r50-24ep")
result = detector.predict("street.jpg", threshold=0.3)
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from inspect import signature
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import nn

from dino_nb.checkpoints.load import load_model, output_names, pick_device
from dino_nb.data.transforms import EVAL_SIZE, eval_transform, normalize
from dino_nb.data.windows import slices
from dino_nb.errors import UserError, disk_errors
from dino_nb.inference import sources
from dino_nb.inference.fusion import mirrored, suppress, weighted_boxes
from dino_nb.inference.keywords import known_keywords, takes
from dino_nb.inference.options import Options
from dino_nb.inference.precision import Amp, choose
from dino_nb.inference.results import Result, Results, class_numbers
from dino_nb.inference.slicing import Found, merge
from dino_nb.inference.sources import Source
from dino_nb.inference.tracking import Tracker
from dino_nb.inference.video import describe, video_writer
from dino_nb.models.compiled import compile_parts
from dino_nb.models.dino import DINO
from dino_nb.models.infer import infer
from dino_nb.models.postprocess import postprocess
from dino_nb.printer import counted


def load(
    name_or_path: str | os.PathLike, device: str | torch.device | None = None, *, compile: bool | str = False
) -> "Detector":
    """A :class:`Detector` from a checkpoint: a file, ``"dino-tiny"``, a zoo name, or a Google Drive id or link.

    Arguments and errors: see ``dino_nb.checkpoints.load.load_model``, and of ``compile`` :class:`Detector`.
    """
    return Detector(load_model(name_or_path, device), compile=compile)


class Detector:
    """A network with names for its outputs, ready to be shown images.

    ``compile=True`` compiles the layers of encoder and decoder, ``compile="reduce-overhead"`` records CUDA graphs too:
    see ``dino_nb.models.compiled``. The first image then takes long; on a CPU nothing is won.

    Attributes:
        model: the ``DINO`` module, in eval mode.
        class_names: a name for each output of the class head, None for outputs without a class (never shown).
        device: where the network is.
        input_size: (short side, long side at most) in pixels that images are resized to.
        threshold: the one that was stored in the checkpoint, else 0.3.
    """

    def __init__(
        self, model: nn.Module, device: str | torch.device | None = None, *, compile: bool | str = False
    ) -> None:
        self.device = pick_device(device)
        self.model = model.eval().to(self.device)
        if isinstance(model, DINO):
            model.optimize()
        if compile:
            compile_parts(model, self.device, compile)
        self.class_names = output_names(model)
        self.input_size: tuple[int, int] = tuple(getattr(model, "input_size", None) or EVAL_SIZE)
        stored = (getattr(model, "thresholds", None) or {}).get("overall")
        self.threshold = float(stored) if isinstance(stored, (int, float)) and 0 <= stored <= 1 else 0.3
        self._amp: dict[Amp, torch.dtype | bool] = {}

    @takes(Options)
    def predict(self, source: Source, options: Options) -> Result | Results:
        """Detect objects in one image or in many. ``detector(source)`` is the same.

        ``source`` is a path, URL, PIL image, array, tensor, folder, pattern, video file, or an iterable of these (see
        ``dino_nb.inference.sources``). The other arguments are explained in ``dino_nb.inference.options.Options``.

        Returns:
            For one image a ``Result``; else ``Results``, a list in the order of the images: those that could not be
            read are in its ``.skipped``, with the reason. A video gives one result per frame, without the frames
            themselves: use :meth:`stream` or :meth:`annotate_video` for these.

        Raises:
            UserError: an argument is out of range, the image (or every one of many) cannot be read, or the GPU's
                memory is too small.
        """
        if sources.is_one(source):
            return next(self._detect(source, replace(options, errors="raise")))
        results = Results()
        for result in self._detect(source, replace(options, skipped=results.skipped)):
            results.append(result.drop_image() if result.frame is not None else result)
        if results.skipped and not results:
            raise UserError(f"none of the images could be read: {sources.listed(results.skipped)}")
        sources.warn_of(results.skipped, stacklevel=4)
        return results

    __call__ = predict

    @takes(Options)
    def stream(self, source: Source, options: Options) -> Iterator[Result]:
        """Yield a ``Result`` per image as soon as it is there, in memory that does not grow: for videos and large
        folders. Arguments as in :meth:`predict`."""
        return self._detect(source, options)

    @partial(known_keywords, more=signature(Options).parameters)
    @disk_errors()
    def annotate_video(
        self,
        path: str | os.PathLike,
        output: str | os.PathLike,
        threshold: float | None = None,
        batch_size: int = 1,
        on_frame: Callable[[Result], object] | None = None,
        *,
        labels: bool | None = None,
        scores: bool = True,
        track: bool = False,
        **options: Any,
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
        asked = Options(threshold, batch_size, **{**options, "errors": "raise"})
        if Path(output).exists() and Path(path).exists() and Path(output).samefile(path):
            raise UserError(f"{output} is the video itself: the copy with boxes needs another name.")
        rate, _ = describe(path)
        threshold = self.threshold if threshold is None else threshold
        tracker = Tracker(rate, threshold) if track else None
        results = self._detect(str(path), replace(asked, threshold=threshold / 2 if track else threshold))
        with video_writer(output, rate, sound_of=path) as write:
            for result in results:
                result = tracker.update(result) if tracker else result
                write((tracker.draw if tracker else Result.draw)(result, labels=labels, scores=scores))
                if on_frame is not None:
                    on_frame(result)
        if tracker:
            tracker.save_counts(Path(output).with_name(f"{Path(output).stem}_counts.csv"))
        return Path(output)

    def forward(
        self, images: list[Image.Image], amp: torch.dtype | bool = False, scale: float = 1.0
    ) -> dict[str, torch.Tensor]:
        """``pred_logits (B, Q, C)`` and ``pred_boxes (B, Q, 4)`` of a batch of upright RGB PIL images, resized to
        ``scale`` times the ``input_size``; ``amp`` as in ``dino_nb.models.infer``."""
        return infer(self.model, self._inputs(images, scale), amp)

    def _inputs(self, images: list[Image.Image], scale: float = 1.0) -> list[torch.Tensor]:
        transform = eval_transform(*(round(side * scale) for side in self.input_size))
        first = next(self.model.parameters(), torch.empty(0))
        return [normalize(transform(image).to(self.device)).to(first.dtype) for image in images]

    def _detect(self, source: Source, options: Options) -> Iterator[Result]:
        """The way of every image: read, looked at, and of what is found there what is asked for."""
        threshold = self.threshold if options.threshold is None else options.threshold
        used = torch.tensor([name is not None for name in self.class_names])
        if options.classes is not None:
            wanted = torch.tensor(class_numbers(options.classes, self.class_names), dtype=torch.int64)
            used &= torch.zeros_like(used).index_fill_(0, wanted, True)
        read = sources.read_all(source, options.errors, options.skipped, options.progress)

        def results() -> Iterator[Result]:
            while batch := list(islice(read, options.batch_size)):
                for one, found in zip(batch, self._find([one.image for one in batch], threshold, options)):
                    scores, labels, boxes = (found[key].cpu() for key in ("scores", "labels", "boxes"))
                    index = ((scores >= threshold) & used[labels]).nonzero().flatten()[: options.max_detections]
                    yield Result(scores[index], labels[index], boxes[index], self.class_names, one, threshold)

        return results()

    def _find(self, images: list[Image.Image], threshold: float, options: Options) -> list[Found]:
        """What all looks at each image find together."""
        keep = max(getattr(getattr(self.model, "config", None), "num_select", 300), options.max_detections or 0)
        amp = self._precision(images[:1], options.amp)

        def once(seen: list[Image.Image], scale: float) -> list[Found]:
            outputs = self.forward(seen, amp, scale)
            return postprocess(outputs, [(image.height, image.width) for image in seen], keep)

        def in_slices(image: Image.Image, scale: float, size: int) -> Found:
            windows, step = slices(*image.size, size, options.slice_overlap), options.batch_size
            found: list[Found] = []
            # the whole image by itself: padding the slices to its shape would be wasted work
            for part in [windows[:1], *(windows[i : i + step] for i in range(1, len(windows), step))]:
                found += once([image.crop(window) for window in part], scale)
            return merge([_certain(one, threshold) for one in found], windows)

        looks = []
        for scale, mirror in options.looks:
            seen = [ImageOps.mirror(image) for image in images] if mirror else images
            if options.slice_size:
                found = [in_slices(image, scale, options.slice_size) for image in seen]
            else:
                found = once(seen, scale)
            if (
                len(options.looks) > 1
            ):  # merging takes its time for each; what is this uncertain is not shown in the end
                found = [_certain(one, min(threshold, 0.05)) for one in found]
            looks.append([mirrored(one, image.width) for one, image in zip(found, seen)] if mirror else found)
        merged = looks[0] if len(looks) == 1 else [weighted_boxes(several) for several in zip(*looks)]
        return merged if options.nms is None else [suppress(found, options.nms) for found in merged]

    def _precision(self, images: list[Image.Image], amp: Amp) -> torch.dtype | bool:
        """What ``infer`` takes as ``amp``; compared on ``images``, once for this detector, if that is to decide."""
        if amp not in self._amp:
            self._amp[amp] = choose(self.model, lambda: self._inputs(images), amp)
        return self._amp[amp]

    def __repr__(self) -> str:
        names = [name for name in self.class_names if name is not None]
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        backbone = getattr(getattr(self.model, "config", None), "backbone", type(self.model).__name__)
        return f"Detector({backbone}, {counted(len(names), 'class', 'classes')}: {shown}; on {self.device})"


def _certain(found: Found, least: float) -> Found:
    return {key: values[found["scores"] >= least].cpu() for key, values in found.items()}
