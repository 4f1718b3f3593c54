"""``dino_nb.load``: from a checkpoint to detections, in two lines.

detector = dino_nb.load("dino-4scale-r50-24ep")
result = detector.predict("street.jpg", threshold=0.3)
"""

import warnings
from pathlib import Path

import torch

from dino_nb.checkpoints.load import load_model, output_names, pick_device
from dino_nb.data.transforms import EVAL_SIZE, eval_transform
from dino_nb.errors import UserError
from dino_nb.inference import sources
from dino_nb.inference.results import Result, Results, class_numbers
from dino_nb.inference.slicing import merge, slices
from dino_nb.inference.video import describe, video_writer
from dino_nb.models.postprocess import infer, postprocess


def load(name_or_path, device=None):
    """A :class:`Detector` from a checkpoint: a file, ``"dino-tiny"``, a zoo name, or a Google Drive id or link.

    Arguments and errors: see ``dino_nb.checkpoints.load.load_model``.
    """
    return Detector(load_model(name_or_path, device))


class Detector:
    """A network with names for its outputs, ready to be shown pictures.

    Attributes:
        model: the ``DINO`` module, in eval mode.
        class_names: a name for each output of the class head, None for outputs without a class (never shown).
        device: where the network is.
        input_size: (short side, long side at most) in pixels that pictures are resized to.
    """

    def __init__(self, model, device=None):
        self.device = pick_device(device)
        self.model = model.eval().to(self.device)
        self.class_names = output_names(model)
        self.input_size = tuple(getattr(model, "input_size", None) or EVAL_SIZE)

    def predict(self, source, threshold=0.3, batch_size=1, max_detections=None, **options):
        """Detect objects in one or many pictures.

        Args:
            source: see ``dino_nb.inference.sources``: a path, URL, PIL picture, array, tensor, folder, pattern, video
                file, or an iterable of these.
            threshold: least score in [0, 1] of what is returned.
            batch_size: pictures that go through the network together. Pictures of unequal size are padded, which
                changes scores a little; 1 is what published numbers stand for.
            max_detections: at most so many a picture; the network's own number (300 in the published ones) if None.
            classes: names or output numbers to look for; None for all.
            amp: half precision where it helps, on a GPU; a CPU takes no notice of it.
            slice_size: pictures larger than so many pixels are also looked at in overlapping squares of that side,
                which finds objects that are too small in the whole picture; it takes as much longer as there are
                squares. ``batch_size`` of them go through the network together.
            slice_overlap: share of their side that neighbouring squares have in common, at least.
            errors: ``"raise"`` stops at a picture that cannot be read; ``"skip"`` leaves it out of the returned list,
                warns at the end, and lists it with the reason in ``.skipped``.

        Returns:
            For one picture a ``Result``; else ``Results``, a list in the order of the pictures. A video gives one
            result a frame, without the frames themselves: use :meth:`stream` or :meth:`annotate_video` for these.
        """
        if sources.is_one(source):
            return next(self.stream(source, threshold, batch_size, max_detections, **{**options, "errors": "raise"}))
        results = Results()
        for result in self.stream(source, threshold, batch_size, max_detections, skipped=results.skipped, **options):
            results.append(result.drop_image() if result.frame is not None else result)
        if results.skipped:
            listed = "; ".join(reason for _, reason in results.skipped[:5])
            more = f" (and {len(results.skipped) - 5} more, see .skipped)" if len(results.skipped) > 5 else ""
            warnings.warn(f"{len(results.skipped)} picture(s) were left out: {listed}{more}", stacklevel=2)
        return results

    def stream(
        self,
        source,
        threshold=0.3,
        batch_size=1,
        max_detections=None,
        *,
        classes=None,
        amp=False,
        slice_size=None,
        slice_overlap=0.2,
        errors="raise",
        skipped=None,
    ):
        """Yield a ``Result`` a picture as soon as it is there, in memory that does not grow: for videos and large
        folders. Arguments as in :meth:`predict`; ``skipped`` is a list that takes ``(source, reason)`` pairs."""
        if errors not in ("raise", "skip"):
            raise UserError(f"errors must be 'raise' or 'skip', not {errors!r}.")
        if not 0 <= threshold <= 1:
            raise UserError(f"threshold must be in [0, 1], not {threshold}.")
        if batch_size < 1 or (max_detections is not None and max_detections < 1):
            raise UserError("batch_size and max_detections must be at least 1.")
        if slice_size is not None and (slice_size < 32 or not 0 <= slice_overlap < 1):
            raise UserError("slice_size must be at least 32 pixels, and slice_overlap in [0, 1).")
        slicing = slice_size and (slice_size, slice_overlap, batch_size)
        wanted = None if classes is None else class_numbers(classes, self.class_names)
        skipped = [] if skipped is None else skipped
        batch = []
        for picture in _readable(source, errors, skipped):
            batch.append(picture)
            if len(batch) == batch_size:
                yield from self._detect(batch, threshold, max_detections, wanted, amp, slicing)
                batch = []
        if batch:
            yield from self._detect(batch, threshold, max_detections, wanted, amp, slicing)

    def annotate_video(self, path, output, threshold=0.3, batch_size=1, on_frame=None, **options):
        """Write a video's copy with boxes drawn on it (``.mp4``, H.264, without sound) and return its path.

        ``on_frame(result)`` is called for every frame, for progress or counting; other arguments as in
        :meth:`predict`. Frames stream through: memory does not grow with the length.
        """
        if Path(output).exists() and Path(output).samefile(path):
            raise UserError(f"{output} is the video itself: the copy with boxes needs another name.")
        rate, _ = describe(path)
        with video_writer(output, rate) as write:
            for result in self.stream(str(path), threshold, batch_size, **options):
                write(result.draw())
                if on_frame is not None:
                    on_frame(result)
        return Path(output)

    def _detect(self, pictures, threshold, max_detections, wanted, amp, slicing):
        config = getattr(self.model, "config", None)
        keep = max(getattr(config, "num_select", 300), max_detections or 0)
        used = torch.tensor([name is not None for name in self.class_names])
        if wanted is not None:
            used &= torch.zeros_like(used).index_fill_(0, torch.tensor(wanted, dtype=torch.int64), True)
        images = [picture.image for picture in pictures]
        if slicing:
            everything = [self._find_in_slices(image, keep, threshold, amp, *slicing) for image in images]
        else:
            everything = self._find(images, keep, amp)
        for picture, found in zip(pictures, everything):
            scores, labels, boxes = (found[key].cpu() for key in ("scores", "labels", "boxes"))
            index = ((scores >= threshold) & used[labels]).nonzero().flatten()[:max_detections]
            yield Result(scores[index], labels[index], boxes[index], self.class_names, picture)

    def _find(self, images, keep, amp):
        return postprocess(self.forward(images, amp), [(image.height, image.width) for image in images], keep)

    def _find_in_slices(self, image, keep, threshold, amp, size, overlap, batch_size):
        windows, found = slices(*image.size, size, overlap), []
        # the whole picture by itself: padding the slices to its shape would be wasted work
        for part in [windows[:1], *(windows[i : i + batch_size] for i in range(1, len(windows), batch_size))]:
            found += self._find([image.crop(window) for window in part], keep, amp)
        certain = [{key: values[one["scores"] >= threshold].cpu() for key, values in one.items()} for one in found]
        return merge(certain, windows)

    def forward(self, images, amp=False):
        """``pred_logits`` and ``pred_boxes`` of a batch of upright RGB PIL pictures."""
        transform = eval_transform(*self.input_size)
        first = next(self.model.parameters(), torch.empty(0))
        return infer(self.model, [transform(image).to(self.device, first.dtype) for image in images], amp)

    def __repr__(self):
        names = [name for name in self.class_names if name is not None]
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        backbone = getattr(getattr(self.model, "config", None), "backbone", type(self.model).__name__)
        return f"Detector({backbone}, {len(names)} classes: {shown}; on {self.device})"


def _readable(source, errors, skipped):
    for number, leaf in enumerate(sources.leaves(source)):
        try:
            yield from sources.read(leaf, number)
        except UserError as error:
            if errors == "raise":
                raise
            skipped.append((leaf if isinstance(leaf, str) else f"picture {number}", str(error)))
