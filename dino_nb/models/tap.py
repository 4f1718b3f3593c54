"""Look inside one forward pass: what each layer attended to, predicted and started from.

    with watch(model) as seen:
        model([image])
    seen.boxes                             # (layers, B, Q, 4): every decoder layer's boxes
    seen.decoder[-1].sampling_locations()  # (B, Q, M, L, P, 2): where the last layer's queries looked

The network itself holds nothing for this: it is hooked while ``watch`` is open and as it was afterwards.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dino_nb.models.attention import MSDeformAttn
from dino_nb.models.dino import DINO
from dino_nb.ops import reference


@dataclass
class Attention:
    """One deformable attention, computed for the queries that are asked for.

    Attributes:
        query: ``(B, Q, C)``; in the encoder the queries are the tokens of all levels.
        reference_points: ``(B, Q, L, 2)`` xy (encoder) or ``(B, Q, L, 4)`` cxcywh (decoder), in [0, 1] of the padded
            image.
        spatial_shapes: list of L ``(h, w)``.
    """

    module: MSDeformAttn
    query: Tensor
    reference_points: Tensor
    spatial_shapes: list[tuple[int, int]]

    @torch.no_grad()
    def sampling_locations(self, queries: list[int] | Tensor | slice = slice(None)) -> Tensor:
        """``(B, len(queries), M, L, P, 2)`` xy in [0, 1] of the padded image (default: of all queries)."""
        offsets, _ = self.module.offsets_and_logits(self.query[:, queries])
        points = self.reference_points[:, queries]
        return reference.sampling_locations(points, offsets.to(points.dtype), self.spatial_shapes)

    @torch.no_grad()
    def attention_weights(self, queries: list[int] | Tensor | slice = slice(None)) -> Tensor:
        """``(B, len(queries), M, L, P)``, summing to 1 over L and P for each head."""
        _, logits = self.module.offsets_and_logits(self.query[:, queries])
        return logits.float().flatten(-2).softmax(-1).view(logits.shape)


@dataclass
class Trace:
    """What one forward pass in eval mode did.

    Attributes:
        spatial_shapes: list of L ``(h, w)``; tokens are all levels, one after another, row by row.
        valid_ratios: ``(B, L, 2)``, the share of each padded level that is image (width, height).
        memory: ``(B, S, C)``, the encoder's output.
        proposals: of the query selection, best first: ``tokens (B, Q)`` int64, ``pred_logits (B, Q, num_classes)``,
            ``pred_boxes (B, Q, 4)`` (where the queries start) and ``proposal_boxes (B, Q, 4)`` (the grid's).
        references: ``(layers, B, Q, 4)`` cxcywh, the boxes that each decoder layer started from.
        boxes, logits: ``(layers, B, Q, 4)`` cxcywh and ``(layers, B, Q, num_classes)``, each layer's predictions.
        encoder, decoder: the deformable attention of each layer.
    """

    spatial_shapes: list[tuple[int, int]] = field(default_factory=list)
    valid_ratios: Tensor = field(default_factory=lambda: torch.empty(0))
    memory: Tensor = field(default_factory=lambda: torch.empty(0))
    proposals: dict[str, Tensor] = field(default_factory=dict)
    references: Tensor = field(default_factory=lambda: torch.empty(0))
    boxes: Tensor = field(default_factory=lambda: torch.empty(0))
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    encoder: list[Attention] = field(default_factory=list)
    decoder: list[Attention] = field(default_factory=list)


@contextmanager
def watch(model: DINO) -> Iterator[Trace]:
    """A ``Trace`` that the next forward pass of ``model`` within the context fills; a later pass replaces it."""
    seen = Trace()

    def start(_: nn.Module, args: tuple) -> None:
        seen.encoder.clear()
        seen.decoder.clear()

    def encoder(_: nn.Module, args: tuple, output: Tensor) -> None:
        seen.spatial_shapes, seen.valid_ratios, seen.memory = args[2], args[3], output

    def decoder(_: nn.Module, args: tuple, output: tuple[Tensor, Tensor]) -> None:
        seen.references = output[1]

    def end(_: nn.Module, args: tuple, outputs: dict) -> None:
        layers = [*outputs["aux_outputs"], outputs]
        seen.proposals = outputs["interm_outputs"]
        seen.boxes = torch.stack([layer["pred_boxes"] for layer in layers])
        seen.logits = torch.stack([layer["pred_logits"] for layer in layers])

    with ExitStack() as hooks:
        for handle in (
            model.register_forward_pre_hook(start),
            model.encoder.register_forward_hook(encoder),
            model.decoder.register_forward_hook(decoder),
            model.register_forward_hook(end),
            *(_watch_attention(m, seen.encoder) for m in model.encoder.modules() if isinstance(m, MSDeformAttn)),
            *(_watch_attention(m, seen.decoder) for m in model.decoder.modules() if isinstance(m, MSDeformAttn)),
        ):
            hooks.callback(handle.remove)
        yield seen


def _watch_attention(module: MSDeformAttn, kept: list[Attention]) -> torch.utils.hooks.RemovableHandle:
    def hook(module: MSDeformAttn, args: tuple, _: Tensor) -> None:
        query, reference_points, _, spatial_shapes = args[:4]
        kept.append(Attention(module, query, reference_points, spatial_shapes))

    return module.register_forward_hook(hook)
