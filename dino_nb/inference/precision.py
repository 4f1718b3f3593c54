"""Half precision by default on a GPU, once it agrees with float32 on the first images."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dino_nb.errors import UserError
from dino_nb.models.infer import infer
from dino_nb.models.postprocess import postprocess
from dino_nb.printer import counted

Amp = bool | str | torch.dtype  # "auto", "fp16" or True, "fp32" or False, or the very type

_SEEN = 0.3  # detections of this score and more are compared
_SCORE, _SHIFT = 0.05, 0.01  # largest differences: of scores; of boxes, as a share of the input's long side


def choose(
    model: nn.Module, images: Callable[[], list[Tensor]], amp: Amp = "auto", say: Callable[[str], object] = print
) -> torch.dtype | bool:
    """What ``infer`` takes as ``amp``: the type of half precision on a GPU, or False for float32.

    ``"auto"`` compares both on the inputs that ``images()`` gives, says the outcome, and takes half precision if they
    agree.
    """
    check_amp(amp)
    if isinstance(amp, torch.dtype):
        return amp
    half = half_type(next(model.parameters(), torch.empty(0)).device)  # an exported model has its own
    if half is None or amp in (False, "fp32"):
        return False
    if amp != "auto":
        return half
    agrees, what = compare(model, images(), half)
    say(f"{what}: computing in {'half precision' if agrees else 'float32'} (amp='fp32' or 'fp16' chooses).")
    return agrees and half


def check_amp(amp: Amp) -> None:
    """``UserError`` unless ``amp`` is one of those that :func:`choose` knows."""
    if not isinstance(amp, torch.dtype) and amp not in (True, False, "auto", "fp16", "fp32"):
        raise UserError(f"amp must be 'auto', 'fp16' (or True) or 'fp32' (or False), not {amp!r}.")


def half_type(device: torch.device) -> torch.dtype | None:
    """The type of half precision that pays on ``device``: none on a CPU."""
    return torch.float16 if device.type == "cuda" else None


def compare(model: nn.Module, images: list[Tensor], half: torch.dtype) -> tuple[bool, str]:
    """Whether ``model`` finds the same in ``half`` as in float32 on ``images``, and by how much that differs.

    Each detection with a score of 0.3 or more, the best one at least, must have a counterpart of its class with a score
    within 0.05 and a box within 1 % of the input's long side.
    """
    differences = torch.zeros(2)  # of scores and of boxes
    was_training = model.training
    model.eval()
    for image in images:
        size = (image.shape[-2], image.shape[-1])
        want, got = (postprocess(infer(model, [image], amp), [size])[0] for amp in (False, half))
        seen = want["scores"] >= want["scores"].max().clamp(max=_SEEN)
        for s, label, box in zip(*(want[key][seen] for key in ("scores", "labels", "boxes"))):
            scores = (got["scores"] - s).abs() + (got["labels"] != label)
            shifts = (got["boxes"] - box).abs().amax(1) / max(size)
            nearest = (scores / _SCORE + shifts / _SHIFT).argmin()
            found = torch.stack([scores[nearest], shifts[nearest]]).cpu()
            differences = torch.maximum(differences, found)  # not a number stays so
    model.train(was_training)
    score, shift = differences.tolist()
    what = f"half precision on the first {counted(len(images), 'image')}: "
    what += f"scores differ by {score:.4f}, boxes by {100 * shift:.3f} % at most"
    return score <= _SCORE and shift <= _SHIFT, what
