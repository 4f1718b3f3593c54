"""``batch_size="auto"``: images of one shape go through the network together, so that none is padded."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dino_nb.errors import UserError
from dino_nb.models.infer import infer

_MOST = 16  # images
_CPU_PIXELS = 500_000  # beyond that, larger batches no longer paid where it was measured


class AutoBatch:
    """Joins images into batches and runs them.

    On a GPU a batch takes up to half of the memory that is free after the first image, which goes alone and shows how
    much a pixel needs; where that is still too much, batches are halved. On a CPU it has up to 500,000 pixels.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pixels = 1 if device.type == "cuda" else _CPU_PIXELS  # of a batch

    def joined(self, single: Iterable[tuple]) -> Iterator[tuple]:
        """The batches of one, ``(images, ...)`` each, that follow each other with images of one shape, as larger ones.

        ``images``: one ``(3, H, W)`` tensor.
        """
        parts: list[tuple] = []
        for one in single:
            (image,) = one[0]
            if parts and (image.shape != parts[0][0][0].shape or len(parts) >= self._most(image)):
                yield _batch(parts)
                parts = []
            parts.append(one)
        if parts:
            yield _batch(parts)

    def infer(self, model: nn.Module, images: list[Tensor], amp: bool | torch.dtype) -> dict[str, Tensor]:
        """``dino_nb.models.infer.infer`` of images of one shape."""
        if self.device.type == "cuda" and self.pixels == 1:
            return self._measured(model, images, amp)
        try:
            return infer(model, images, amp)
        except UserError as error:
            if len(images) == 1 or not isinstance(error.__cause__, torch.cuda.OutOfMemoryError):
                raise
        half = (len(images) + 1) // 2
        self.pixels = half * images[0][0].numel()
        torch.cuda.empty_cache()
        halves = [self.infer(model, part, amp) for part in (images[:half], images[half:])]
        return {key: torch.cat([one[key] for one in halves]) for key in halves[0]}

    def _most(self, image: Tensor) -> int:
        return max(1, min(_MOST, self.pixels // image[0].numel()))

    def _measured(self, model: nn.Module, images: list[Tensor], amp: bool | torch.dtype) -> dict[str, Tensor]:
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        outputs = infer(model, images, amp)
        needed = (torch.cuda.max_memory_allocated(self.device) - before) / images[0][0].numel()  # bytes a pixel
        torch.cuda.empty_cache()
        self.pixels = max(2, int(torch.cuda.mem_get_info(self.device)[0] / 2 / needed))
        return outputs


def _batch(parts: list[tuple]) -> tuple[Any, ...]:
    return tuple([x for one in column for x in one] for column in zip(*parts))
