"""Multi-scale deformable attention in plain PyTorch: what the native op must compute, and its fallback.

Deformable DETR (arXiv 2010.04159), equation 3. Shapes: N images, S = sum of H*W over levels, M heads, D channels a
head, Q queries, L levels, P points.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

Shapes = list[tuple[int, int]]


def sampling_locations(reference_points: Tensor, sampling_offsets: Tensor, spatial_shapes: Shapes) -> Tensor:
    """Where each query looks, in [0, 1] of each level (values outside look at nothing).

    Args:
        reference_points: ``(N, Q, L, 2)`` xy, or ``(N, Q, L, 4)`` cxcywh, in [0, 1] of the padded image.
        sampling_offsets: ``(N, Q, M, L, P, 2)``; in pixels of the level for 2-d references, in 1/P of half the
            box size for 4-d references.
        spatial_shapes: list of L ``(h, w)``.

    Returns:
        ``(N, Q, M, L, P, 2)`` xy.
    """
    if reference_points.shape[-1] == 2:
        wh = torch.tensor([(w, h) for h, w in spatial_shapes], dtype=reference_points.dtype).to(reference_points.device)
        return reference_points[:, :, None, :, None] + sampling_offsets / wh.view(-1, 1, 2)
    points = sampling_offsets.shape[-2]
    xy, wh = reference_points[:, :, None, :, None].split(2, -1)
    # a box of no finite size looks at nothing (wh - wh is NaN), and its offsets get a gradient of zero, not NaN
    return xy + (wh - wh) + sampling_offsets / points * wh.nan_to_num(0, 0, 0) * 0.5


def ms_deform_attn(
    value: Tensor, spatial_shapes: Shapes, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Weighted sum of bilinear samples, one ``grid_sample`` a level (zero padding, ``align_corners=False``).

    16-bit values are computed in float32: a location rounded to 16 bits would be off by a noticeable part of a pixel.

    Args:
        value: ``(N, S, M, D)``.
        spatial_shapes: list of L ``(h, w)``.
        sampling_locations: ``(N, Q, M, L, P, 2)`` xy in [0, 1].
        attention_weights: ``(N, Q, M, L, P)``.

    Returns:
        ``(N, Q, M * D)``, of the type of ``value``.
    """
    n, _, m, d = value.shape
    q, p = sampling_locations.shape[1], sampling_locations.shape[4]
    compute = torch.float64 if value.dtype == torch.float64 else torch.float32
    if n * q * m * d * len(spatial_shapes) * p == 0:  # grid_sample refuses empty tensors
        empty = value.sum() + sampling_locations.sum() + attention_weights.sum()
        return (value.new_zeros(n, q, m * d) + empty * 0).to(value.dtype)
    # NaN and infinite places lie outside, as in the native op; beyond 10 everything is outside anyway
    grids = (2 * sampling_locations.to(compute) - 1).clamp(-10, 10).nan_to_num(-10)
    levels = value.to(compute).split([h * w for h, w in spatial_shapes], 1)
    sampled = []
    for level, (h, w) in enumerate(spatial_shapes):
        image = levels[level].permute(0, 2, 3, 1).reshape(n * m, d, h, w)
        grid = grids[:, :, :, level].transpose(1, 2).reshape(n * m, q, p, 2)
        sampled.append(F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    weights = attention_weights.permute(0, 2, 1, 3, 4).reshape(n * m, 1, q, -1).to(compute)
    out = (torch.cat(sampled, -1) * weights).sum(-1)  # (N*M, D, Q)
    return out.reshape(n, m * d, q).transpose(1, 2).contiguous().to(value.dtype)


def ms_deform_attn_fused(
    value: Tensor, spatial_shapes: Shapes, reference_points: Tensor, sampling_offsets: Tensor, attention_logits: Tensor
) -> Tensor:
    """The same from raw projections: softmax over the L * P points and the location arithmetic are inside.

    Args:
        value, spatial_shapes: as in :func:`ms_deform_attn`.
        reference_points, sampling_offsets: as in :func:`sampling_locations`.
        attention_logits: ``(N, Q, M, L, P)``.
    """
    compute = torch.float64 if value.dtype == torch.float64 else torch.float32
    weights = attention_logits.to(compute).flatten(-2).softmax(-1).view(attention_logits.shape)
    locations = sampling_locations(reference_points.to(compute), sampling_offsets.to(compute), spatial_shapes)
    return ms_deform_attn(value, spatial_shapes, locations, weights)
