"""Images of unequal size as one padded tensor and its mask."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dino_nb.errors import UserError


def pad_images(images: list[Tensor] | Tensor, least_side: int = 1) -> tuple[Tensor, Tensor]:
    """Stack ``images`` at the top left of one zero-filled batch.

    Args:
        images: list of B tensors ``(3, H_i, W_i)`` of one type and device, or one tensor ``(B, 3, H, W)``.
        least_side: minimum height and width of the batch, in pixels.

    Returns:
        ``batch (B, 3, H, W)`` with H, W the largest sizes, and ``mask (B, H, W)`` bool, True on padding.

    Raises:
        UserError: images of another shape.
    """
    if isinstance(images, Tensor):
        if images.ndim != 4:
            raise UserError(f"a batch of images must be (B, 3, H, W), not {tuple(images.shape)}; pass one as [image].")
        if min(images.shape[-2:]) >= least_side:
            return images, torch.zeros(images.shape[0], *images.shape[-2:], dtype=torch.bool, device=images.device)
    images = list(images)
    if not images or any(image.ndim != 3 or image.shape[0] != 3 for image in images):
        raise UserError(f"images must be a list of (3, H, W) tensors, not {[tuple(i.shape) for i in images]}.")
    height, width = (max(least_side, *(image.shape[d] for image in images)) for d in (1, 2))
    batch = images[0].new_zeros(len(images), 3, height, width)
    mask = torch.ones(len(images), height, width, dtype=torch.bool, device=batch.device)
    for i, image in enumerate(images):
        _, h, w = image.shape
        batch[i, :, :h, :w] = image
        mask[i, :h, :w] = False
    return batch, mask


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """``(B, H, W)`` bool to ``(B, *size)`` by nearest neighbour, as published."""
    return F.interpolate(mask[None].float(), size=size)[0].bool()


def valid_sizes(masks: list[Tensor]) -> Tensor:
    """Cells of each padded level that are image: ``(B, L, 2)`` float32, (width, height)."""
    return torch.stack([torch.stack([(~m[:, 0]).sum(1), (~m[:, :, 0]).sum(1)], -1).float() for m in masks], 1)
