"""The one custom operator of DINO: multi-scale deformable attention.

    from dino_nb import ops
    ops.build()      # optional: build now what the first call would build, and report it
    out = ops.ms_deform_attn(value, [(100, 134), (50, 67)], sampling_locations, attention_weights)
    ops.status()     # what is in use and why

Results are the same bits in every run: on the CPU always; on a GPU the forward always, and the backward under
``torch.use_deterministic_algorithms(True)``.

Importing this compiles nothing. ``DINO_NB_OPS=auto|native|torch`` chooses the implementation.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from dino_nb.ops import library as _library  # noqa: F401  defines the operators
from dino_nb.ops import reference
from dino_nb.ops.native import build, is_native, status

__all__ = ["build", "ms_deform_attn", "ms_deform_attn_fused", "status"]

Shapes = Sequence[tuple[int, int]] | Tensor


def ms_deform_attn(
    value: Tensor, spatial_shapes: Shapes, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
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
    _refuse_forward_mode(value, sampling_locations, attention_weights)
    wide = _wide(value)
    flat = [size for shape in shapes for size in shape]
    return torch.ops.dino_nb.ms_deform_attn(value, flat, sampling_locations.to(wide), attention_weights.to(wide))


def ms_deform_attn_fused(
    value: Tensor, spatial_shapes: Shapes, reference_points: Tensor, sampling_offsets: Tensor, attention_logits: Tensor
) -> Tensor:
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
    return fused_unchecked(value, shapes, reference_points, sampling_offsets, attention_logits)


def fused_unchecked(
    value: Tensor,
    shapes: list[tuple[int, int]],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
) -> Tensor:
    """:func:`ms_deform_attn_fused` for the network: Python's checks of shapes cost as much as a launch."""
    if not is_native(value.device.type):
        return reference.ms_deform_attn_fused(value, shapes, reference_points, sampling_offsets, attention_logits)
    _refuse_forward_mode(value, reference_points, sampling_offsets, attention_logits)
    wide = _wide(value)
    if wide == torch.float64 or sampling_offsets.dtype == torch.float64:
        sampling_offsets = sampling_offsets.to(wide)
    if wide == torch.float64 or attention_logits.dtype == torch.float64:
        attention_logits = attention_logits.to(wide)
    flat = [size for shape in shapes for size in shape]
    return torch.ops.dino_nb.ms_deform_attn_fused(
        value, flat, reference_points.to(wide), sampling_offsets, attention_logits
    )


def _wide(value: Tensor) -> torch.dtype:
    return torch.float64 if value.dtype == torch.float64 else torch.float32


def _refuse_forward_mode(*tensors: Tensor) -> None:
    if any(forward_ad.unpack_dual(x).tangent is not None for x in tensors):
        raise NotImplementedError("ms_deform_attn has no forward-mode derivative; use reverse mode (backward)")


def _sizes(
    value: Tensor, spatial_shapes: Shapes, coordinates: Tensor, weights: Tensor, points: Tensor | None = None
) -> list[tuple[int, int]]:
    """``spatial_shapes`` as a list of (h, w), once everything is known to fit together."""
    if isinstance(spatial_shapes, Tensor):
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


def _expect(name: str, tensor: Tensor, shape: tuple) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must be of shape {shape}, not {tuple(tensor.shape)}")
