"""The one custom operator of DINO: multi-scale deformable attention.

    from dino_nb import ops
    ops.build()      # optional: builds now what the first call would build, and says so
    out = ops.ms_deform_attn(value, [(100, 134), (50, 67)], sampling_locations, attention_weights)
    ops.status()     # what is in use and why

The same bits come out in every run on the CPU; on a GPU the forward is so always, and the backward where
``torch.use_deterministic_algorithms(True)`` is set.

Importing this compiles nothing. ``DINO_NB_OPS=auto|native|torch`` chooses the implementation.
"""

import torch

from dino_nb.ops import library as _library  # noqa: F401  defines the operators
from dino_nb.ops import reference
from dino_nb.ops.native import build, is_native, status

__all__ = ["build", "ms_deform_attn", "ms_deform_attn_fused", "status"]


def ms_deform_attn(value, spatial_shapes, sampling_locations, attention_weights):
    """Weighted sum of bilinear samples of a feature pyramid (zero outside; pixel centres at ``(i + 0.5) / size``).

    Args:
        value: ``(N, S, M, D)``, S the cells of all levels; float16, bfloat16, float32 or float64.
        spatial_shapes: list of L ``(h, w)`` (a CPU tensor is accepted: it is read without waiting for a GPU).
        sampling_locations: ``(N, Q, M, L, P, 2)`` xy in [0, 1] of each level. Computed in float32 (float64 with
            float64 values); outside, infinite or NaN: the sample is zero.
        attention_weights: ``(N, Q, M, L, P)``, computed like the locations.

    Returns:
        ``(N, Q, M * D)``, of the type of ``value``.

    Raises:
        ValueError: shapes that do not fit together.
    """
    shapes = _sizes(value, spatial_shapes, sampling_locations, attention_weights)
    if not is_native(value.device.type):
        return reference.ms_deform_attn(value, shapes, sampling_locations, attention_weights)
    wide = _wide(value)
    sizes = [size for shape in shapes for size in shape]
    return torch.ops.dino_nb.ms_deform_attn(value, sizes, sampling_locations.to(wide), attention_weights.to(wide))


def ms_deform_attn_fused(value, spatial_shapes, reference_points, sampling_offsets, attention_logits):
    """:func:`ms_deform_attn` from raw projections: softmax over L * P and location arithmetic are inside.

    Args:
        value, spatial_shapes: as in :func:`ms_deform_attn`.
        reference_points: ``(N, Q, L, 2)`` xy or ``(N, Q, L, 4)`` cxcywh in [0, 1], computed in float32 (or float64).
        sampling_offsets: ``(N, Q, M, L, P, 2)``: pixels of the level for 2-d references, 1/P of half the box size
            for 4-d ones. May be of 16 bits, as may the logits.
        attention_logits: ``(N, Q, M, L, P)``.

    Returns:
        ``(N, Q, M * D)``, of the type of ``value``.

    Raises:
        ValueError: shapes that do not fit together.
    """
    shapes = _sizes(value, spatial_shapes, sampling_offsets, attention_logits, reference_points)
    if not is_native(value.device.type):
        return reference.ms_deform_attn_fused(value, shapes, reference_points, sampling_offsets, attention_logits)
    wide = _wide(value)
    if wide == torch.float64 or sampling_offsets.dtype == torch.float64:
        sampling_offsets = sampling_offsets.to(wide)
    if wide == torch.float64 or attention_logits.dtype == torch.float64:
        attention_logits = attention_logits.to(wide)
    return torch.ops.dino_nb.ms_deform_attn_fused(
        value,
        [size for shape in shapes for size in shape],
        reference_points.to(wide),
        sampling_offsets,
        attention_logits,
    )


def _wide(value):
    return torch.float64 if value.dtype == torch.float64 else torch.float32


def _sizes(value, spatial_shapes, coordinates, weights, points=None):
    """``spatial_shapes`` as a list of (h, w), once everything is known to fit together."""
    if isinstance(spatial_shapes, torch.Tensor):
        if spatial_shapes.device.type != "cpu":
            raise ValueError("spatial_shapes is on a GPU, and reading it would wait for it: pass a list of (h, w)")
        spatial_shapes = spatial_shapes.tolist()
    shapes = [(h, w) for h, w in spatial_shapes]
    if value.dim() != 4:
        raise ValueError(f"value must be of shape (N, S, M, D), not {tuple(value.shape)}")
    n, cells, heads, _ = value.shape
    total = sum(h * w for h, w in shapes)
    if total != cells or any(h < 1 or w < 1 for h, w in shapes):
        raise ValueError(f"spatial_shapes {shapes} add up to {total} cells, but value has {cells}")
    if coordinates.dim() != 6:
        raise ValueError(f"locations or offsets must be of shape (N, Q, M, L, P, 2), not {tuple(coordinates.shape)}")
    queries, sampled = coordinates.shape[1], coordinates.shape[4]
    _expect("locations or offsets", coordinates, (n, queries, heads, len(shapes), sampled, 2))
    _expect("attention weights", weights, (n, queries, heads, len(shapes), sampled))
    if points is not None:
        if points.dim() != 4 or points.shape[-1] not in (2, 4):
            raise ValueError(f"reference points must be of shape (N, Q, L, 2 or 4), not {tuple(points.shape)}")
        _expect("reference points", points, (n, queries, len(shapes), points.shape[-1]))
    return shapes


def _expect(name, tensor, shape):
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must be of shape {shape}, not {tuple(tensor.shape)}")
