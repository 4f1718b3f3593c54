"""Multi-scale deformable attention as a layer (Deformable DETR, arXiv 2010.04159, section 4.1)."""

import math

import torch
from torch import Tensor, nn

from dino_nb.models.fast import Linear
from dino_nb.ops import fused_unchecked


class MSDeformAttn(nn.Module):
    """Each query looks at ``n_points`` learned places per level and head, around its reference.

    Args:
        d_model: channels; n_levels, n_heads, n_points: L, M, P.
    """

    def __init__(self, d_model: int, n_levels: int, n_heads: int, n_points: int) -> None:
        super().__init__()
        self.n_levels, self.n_heads, self.n_points = n_levels, n_heads, n_points
        self.sampling_offsets = Linear(d_model, n_heads * n_levels * n_points * 2)
        self.attention_weights = Linear(d_model, n_heads * n_levels * n_points)
        self.value_proj = Linear(d_model, d_model)
        self.output_proj = Linear(d_model, d_model)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Heads start in ``n_heads`` directions, points at 1, 2, ... pixels along them, all with the same weight."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angles = torch.arange(self.n_heads, dtype=torch.float32) * (2 * math.pi / self.n_heads)
        directions = torch.stack([angles.cos(), angles.sin()], -1)
        directions = directions / directions.abs().max(-1, keepdim=True).values
        steps = torch.arange(1, self.n_points + 1, dtype=torch.float32)
        bias = directions[:, None, None] * steps[:, None]  # [M, 1, P, 2]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(bias.expand(-1, self.n_levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def offsets_and_logits(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, Q, M, L, P, 2)`` sampling offsets and ``(B, Q, M, L, P)`` attention logits of ``query (B, Q, C)``."""
        places = (*query.shape[:2], self.n_heads, self.n_levels, self.n_points)
        return self.sampling_offsets(query).view(*places, 2), self.attention_weights(query).view(places)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        memory: Tensor,
        spatial_shapes: list[tuple[int, int]],
        key_padding_mask: Tensor | None,
    ) -> Tensor:
        """
        Args:
            query: ``(B, Q, C)``.
            reference_points: ``(B, Q, L, 2)`` xy or ``(B, Q, L, 4)`` cxcywh, in [0, 1] of the padded level.
            memory: ``(B, S, C)``, all levels one after another.
            spatial_shapes: list of L ``(h, w)``.
            key_padding_mask: ``(B, S)`` bool, True on padding, or None where nothing is padded.

        Returns:
            ``(B, Q, C)``.
        """
        value = self.value_proj(memory)  # [bs, S, C]
        if key_padding_mask is not None:
            value = value.masked_fill(key_padding_mask[..., None], 0)
        value = value.view(*value.shape[:2], self.n_heads, -1)  # [bs, S, M, C / M]
        offsets, logits = self.offsets_and_logits(query)  # [bs, nq, M, L, P, 2], [bs, nq, M, L, P]
        return self.output_proj(fused_unchecked(value, spatial_shapes, reference_points, offsets, logits))
