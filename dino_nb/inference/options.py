"""What can be asked of a detector: the arguments of ``predict`` and ``stream``, in one place."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from dino_nb.errors import UserError
from dino_nb.inference.keywords import check_number
from dino_nb.inference.precision import Amp, check_amp
from dino_nb.inference.results import Classes


@dataclass
class Options:
    """
    Args:
        threshold: lowest score, in [0, 1], of what is returned. Default: the detector's own.
        batch_size: images that go through the network together. Images of unequal size are padded, which changes scores
            a little; 1 is what published numbers stand for.
        max_detections: per image; the network's own number (300 in the published ones) if None.
        classes: names or output numbers to look for; None for all.
        amp: precision. ``"auto"``: half precision on a GPU if it agrees with float32 on the first images (how far is
            printed); ``"fp16"``: half precision on a GPU; ``"fp32"``: the published arithmetic.
        slice_size: images larger than this many pixels are also looked at in overlapping squares of that side, which
            finds objects that are too small in the whole image; it takes as much longer as there are squares.
            ``batch_size`` of them go through the network together.
        slice_overlap: share of their side, in [0, 1), that neighbouring squares have in common, at least.
        scales, flip: look at the image at several sizes (1: ``input_size``), and mirrored, and merge what is found by
            weighted boxes: often a little better, and as many times slower.
        nms: leave out boxes that overlap a better one of their class by a larger IoU than this, in [0.01, 1].
        errors: of many images, ``"skip"`` leaves out those that cannot be read and warns; ``"raise"`` stops at the
            first.
        skipped: a list that takes a ``(source, reason)`` pair for each image left out, instead of a warning.
        progress: show a progress bar where it takes more than two seconds.

    Raises:
        UserError: an argument is out of range.
    """

    threshold: float | None = None
    batch_size: int = 1
    max_detections: int | None = None
    _: KW_ONLY
    classes: Classes | None = None
    amp: Amp = "auto"
    slice_size: int | None = None
    slice_overlap: float = 0.2
    scales: Sequence[float] = (1.0,)
    flip: bool = False
    nms: float | None = None
    errors: str = "skip"
    skipped: list[tuple[str, str]] | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if self.errors not in ("raise", "skip"):
            raise UserError(f"errors must be 'raise' or 'skip', not {self.errors!r}.")
        check_amp(self.amp)
        check_number("batch_size", self.batch_size, 1, whole=True)
        check_number("slice_overlap", self.slice_overlap, 0)
        if self.threshold is not None:
            check_number("threshold", self.threshold, 0, 1)
        if self.max_detections is not None:
            check_number("max_detections", self.max_detections, 1, whole=True)
        if self.slice_size is not None:
            check_number("slice_size", self.slice_size, 0, whole=True)
            if self.slice_size < 32 or not self.slice_overlap < 1:
                raise UserError("slice_size must be at least 32 pixels, and slice_overlap in [0, 1).")
        if self.nms is not None:
            check_number("nms", self.nms, 0.01, 1)
        for scale in self.scales:
            check_number("scales: each", scale, 0.1, 4)
        if not len(self.scales):
            raise UserError("scales must name at least one.")

    @property
    def looks(self) -> list[tuple[float, bool]]:
        """At which scale an image is looked at, and whether mirrored."""
        return [
            (float(scale), mirror) for scale in self.scales for mirror in ((False, True) if self.flip else (False,))
        ]
