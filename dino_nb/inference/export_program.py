"""A network as it is exported: post-processing inside, and the attention op in forms that other runtimes know."""

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dino_nb.models import attention
from dino_nb.models.dino import DINO
from dino_nb.models.postprocess import select

OPSET = 17
PLUGIN = "MultiscaleDeformableAttnPlugin_TRT"
PLUGIN_DOMAIN = "trt.plugins"


class Program(nn.Module):
    """A network with its post-processing."""

    def __init__(self, model: DINO) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, target_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(B, 3, H, W)`` and ``(B, 2)`` to scores ``(B, K)``, labels ``(B, K)`` and boxes ``(B, K, 4)``."""
        scores, labels, boxes = select(self.model(images), self.model.config.num_select)
        return scores, labels, boxes * target_sizes.flip(1).repeat(1, 2)[:, None].to(boxes.dtype)


def gather_form(
    value: Tensor, spatial_shapes: Sequence, reference_points: Tensor, offsets: Tensor, logits: Tensor
) -> Tensor:
    """``ops.ms_deform_attn_fused`` by picking rows: plain indexing, which every runtime computes alike."""
    places = _locations(spatial_shapes, reference_points, offsets)
    return sample_rows(value, spatial_shapes, places, _weights(logits)).flatten(2)


def plugin_form(
    value: Tensor, spatial_shapes: Sequence, reference_points: Tensor, offsets: Tensor, logits: Tensor
) -> Tensor:
    """The same as one node, which TensorRT maps to its plugin."""
    places = torch.stack(_locations(spatial_shapes, reference_points, offsets), 3)  # [n, q, m, L, P, 2]
    shapes = torch.stack([torch.stack([torch.as_tensor(side) for side in shape]) for shape in spatial_shapes])
    starts = torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])
    inputs = value, shapes.int(), starts.int(), places, _weights(logits)
    return _plugin(*inputs).view(*value.shape[:1], *logits.shape[1:2], -1)


@torch.library.custom_op("dino_nb::tensorrt_plugin", mutates_args=())
def _plugin(value: Tensor, shapes: Tensor, starts: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    return PluginBody()(value, shapes.long(), starts, places, weights).contiguous()


def _plugin_node(g: Any, *inputs: Any) -> Any:
    """The ONNX node of :func:`plugin_form`. TensorRT finds its plugin by type, version and namespace."""
    node = g.op(f"{PLUGIN_DOMAIN}::{PLUGIN}", *inputs, plugin_version_s="1", plugin_namespace_s="")
    node.setType(inputs[0].type().with_sizes([None] * 4))
    return node


class PluginBody(nn.Module):
    """What TensorRT's plugin computes."""

    def forward(self, value: Tensor, shapes: Tensor, starts: Tensor, places: Tensor, weights: Tensor) -> Tensor:
        """``(N, S, M, D)``, ``(L, 2)``, ``(L,)``, ``(N, Q, M, L, P, 2)`` in [0, 1], ``(N, Q, M, L, P)`` to
        ``(N, Q, M, D)``."""
        return sample_rows(value, [shape.unbind(0) for shape in shapes.unbind(0)], places.unbind(3), weights)


def sample_rows(value: Tensor, spatial_shapes: Sequence, places: Sequence[Tensor], weights: Tensor) -> Tensor:
    """``(N, Q, M, D)``: the weighted bilinear samples of ``value (N, S, M, D)``, picked row by row.

    ``places``: for each of the L levels ``(N, Q, M, P, 2)`` xy in [0, 1]; ``weights``: ``(N, Q, M, L, P)``.
    """
    n, cells, m, d = value.shape
    q, points = weights.shape[1], weights.shape[4]
    rows = value.transpose(1, 2).reshape(-1, d)  # [n * m * cells, d]
    start = torch.arange(n * m, device=value.device).view(n, m, 1, 1) * cells
    out: Tensor | float = 0.0
    for level, (h, w) in enumerate(spatial_shapes):
        x, y = places[level].transpose(1, 2).unbind(-1)  # [n, m, q, P]
        x, y = x * w - 0.5, y * h - 0.5
        left, top = x.floor(), y.floor()
        fx, fy = x - left, y - top
        index, share = [], []
        for dx, dy, part in (
            (0, 0, (1 - fx) * (1 - fy)),
            (1, 0, fx * (1 - fy)),
            (0, 1, (1 - fx) * fy),
            (1, 1, fx * fy),
        ):
            column, row = left + dx, top + dy
            inside = (column >= 0) & (column <= w - 1) & (row >= 0) & (row <= h - 1)
            index.append(torch.where(inside, row * w + column, torch.zeros_like(row)).long() + start)
            share.append(torch.where(inside, part, torch.zeros_like(part)) * weights[:, :, :, level].transpose(1, 2))
        sampled = rows[torch.cat(index, -1).flatten()].view(n, m, q, 4 * points, d)
        out = out + (torch.cat(share, -1)[..., None, :] @ sampled)[..., 0, :]  # [n, m, q, d]
        start = start + h * w
    return out.transpose(1, 2)  # type: ignore[union-attr]


def trace_onnx(
    module: nn.Module,
    inputs: dict[str, Tensor],
    outputs: list[str],
    free: dict[str, dict[int, str]],
    file: str | io.BytesIO,
) -> None:
    """Write ``module`` as ONNX; ``free`` are the axes of inputs and outputs, by name, whose sizes stay open."""
    torch.onnx.register_custom_op_symbolic("dino_nb::tensorrt_plugin", _plugin_node, OPSET)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            file,  # type: ignore[arg-type]
            dynamo=False,  # the other exporter takes minutes for a graph of this size, and fixes some of its sizes
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes=free,
        )


@contextlib.contextmanager
def traceable(form: Callable[..., Tensor]) -> Iterator[None]:
    """The network with ``form`` in place of compiled code; warnings about what is meant to be constant are off."""
    before, fast = attention.fused_unchecked, torch.backends.mha.get_fastpath_enabled()
    attention.fused_unchecked = form
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        attention.fused_unchecked = before
        torch.backends.mha.set_fastpath_enabled(fast)


def _locations(spatial_shapes: Sequence, reference_points: Tensor, offsets: Tensor) -> list[Tensor]:
    """Where queries look: for each level ``(N, Q, M, P, 2)`` xy in [0, 1], as ``ops.reference`` has it."""
    places = []
    for level, (h, w) in enumerate(spatial_shapes):
        reference, moved = reference_points[:, :, None, level, None], offsets[:, :, :, level]
        if reference.shape[-1] == 2:
            moved = torch.stack([moved[..., 0] / w, moved[..., 1] / h], -1)
        else:
            moved = moved / offsets.shape[4] * reference[..., 2:] * 0.5
        places.append(reference[..., :2] + moved)
    return places


def _weights(logits: Tensor) -> Tensor:
    return logits.flatten(-2).softmax(-1).view(logits.shape)
