"""Sine embeddings of pixels and boxes. All in float32 whatever the model's type: half would merge neighbours."""

import math

import torch


def _frequencies(num_feats, temperature, device):
    index = torch.arange(num_feats, dtype=torch.float32, device=device)
    return temperature ** (2 * (index // 2) / num_feats)


def _interleave(angles):
    """sin of the even and cos of the odd entries of the last dimension."""
    return torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), -1).flatten(-2)


def pixel_embedding(mask, hidden_dim, temperature):
    """Position of every pixel inside its picture (DETR's sine embedding, normalised).

    Args:
        mask: ``(B, H, W)`` bool, True on padding.
        hidden_dim: channels, half of them for y and half for x.
        temperature: 20 in DINO.

    Returns:
        ``(B, H * W, hidden_dim)`` float32.
    """
    inside = ~mask
    y = inside.cumsum(1, dtype=torch.float32)
    x = inside.cumsum(2, dtype=torch.float32)
    y = y / (y[:, -1:] + 1e-6) * (2 * math.pi)
    x = x / (x[:, :, -1:] + 1e-6) * (2 * math.pi)
    frequencies = _frequencies(hidden_dim // 2, temperature, mask.device)
    return torch.cat([_interleave(v[..., None] / frequencies) for v in (y, x)], -1).flatten(1, 2)


def box_embedding(boxes, hidden_dim):
    """Sine embedding of boxes (DAB-DETR's positional query), ``hidden_dim / 2`` channels a coordinate.

    Args:
        boxes: ``(..., 4)`` cxcywh in [0, 1].

    Returns:
        ``(..., 2 * hidden_dim)`` in the order y, x, w, h, of the type of ``boxes``.
    """
    frequencies = _frequencies(hidden_dim // 2, 10000, boxes.device)
    x, y, w, h = (boxes * (2 * math.pi)).unbind(-1)
    return torch.cat([_interleave(v[..., None] / frequencies) for v in (y, x, w, h)], -1)
