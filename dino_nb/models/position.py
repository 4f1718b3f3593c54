"""Sine embeddings of pixels and boxes, always in float32: 16 bits would merge neighbours."""

import math

import torch
from torch import Tensor


def _sine(angles: Tensor, num_feats: int, temperature: float) -> Tensor:
    """``(...)`` to ``(..., num_feats)``: sin and cos in turn, at ``num_feats / 2`` frequencies."""
    index = torch.arange(num_feats, dtype=torch.float32, device=angles.device)
    x = angles[..., None] / temperature ** (2 * (index // 2) / num_feats)
    return torch.stack((x[..., 0::2].sin(), x[..., 1::2].cos()), -1).flatten(-2)


def pixel_embedding(valid_size: Tensor, size: tuple[int, int], hidden_dim: int, temperature: float) -> tuple:
    """Position of every cell of a feature map inside its image (DETR's sine embedding, normalised).

    The y half of a cell's embedding depends on its row alone and the x half on its column, so only h + w rows are
    computed here.

    Args:
        valid_size: ``(B, 2)`` float32 (width, height): the cells of each map that are image.
        size: ``(h, w)`` of the padded map.
        hidden_dim: channels, half of them for y and half for x.
        temperature: 20 in DINO.

    Returns:
        ``(B, h, hidden_dim / 2)`` for y and ``(B, w, hidden_dim / 2)`` for x, float32.
    """
    halves = []
    for length, valid in zip(size, valid_size.flip(1).unbind(1)):  # y, then x
        cell = torch.arange(1, length + 1, dtype=torch.float32, device=valid_size.device)
        cell = torch.minimum(cell, valid[:, None])  # [bs, length]; beyond the image it stays at the last cell
        angles = cell / (valid[:, None] + 1e-6) * (2 * math.pi)
        halves.append(_sine(angles, hidden_dim // 2, temperature))
    return tuple(halves)


def box_embedding(boxes: Tensor, hidden_dim: int) -> Tensor:
    """Sine embedding of boxes (DAB-DETR's positional query), ``hidden_dim / 2`` channels a coordinate.

    Args:
        boxes: ``(..., 4)`` cxcywh in [0, 1].

    Returns:
        ``(..., 2 * hidden_dim)`` in the order y, x, w, h (as published), of the type of ``boxes``.
    """
    x, y, w, h = (boxes * (2 * math.pi)).unbind(-1)
    return _sine(torch.stack([y, x, w, h], -1), hidden_dim // 2, 10000).flatten(-2)
