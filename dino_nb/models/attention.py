"""Multi-scale deformable attention as a layer (Deformable DETR, arXiv 2010.04159, section 4.1)."""

import math

import torch
from torch import nn

from dino_nb.ops import ms_deform_attn_fused


class MSDeformAttn(nn.Module):
    """Each query looks at ``n_points`` learned places a level and head, around its reference.

    Args:
        d_model: channels; n_levels, n_heads, n_points: L, M, P.
    """

    def __init__(self, d_model, n_levels, n_heads, n_points):
        super().__init__()
        self.n_levels, self.n_heads, self.n_points = n_levels, n_heads, n_points
        self.sampling_offsets = nn.Linear(d_model, n_heads * n_levels * n_points * 2)
        self.attention_weights = nn.Linear(d_model, n_heads * n_levels * n_points)
        self.value_proj = nn.Linear(d_model, d_model)
        self.output_proj = nn.Linear(d_model, d_model)
        self.reset_parameters()

    def reset_parameters(self):
        """Heads start in ``n_heads`` directions, points at 1, 2, ... pixels along them; all weigh the same."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angles = torch.arange(self.n_heads, dtype=torch.float32) * (2 * math.pi / self.n_heads)
        directions = torch.stack([angles.cos(), angles.sin()], -1)
        directions = directions / directions.abs().max(-1, keepdim=True).values
        steps = torch.arange(1, self.n_points + 1, dtype=torch.float32)
        bias = directions[:, None, None] * steps[:, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(bias.expand(-1, self.n_levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, query, reference_points, memory, shapes, padding):
        """
        Args:
            query: ``(B, Q, C)``.
            reference_points: ``(B, Q, L, 2)`` xy or ``(B, Q, L, 4)`` cxcywh, in [0, 1] of the padded level.
            memory: ``(B, S, C)``, all levels one after another.
            shapes: list of L ``(h, w)``.
            padding: ``(B, S)`` bool, True on padding, or None where nothing is padded.

        Returns:
            ``(B, Q, C)``.
        """
        b, q, _ = query.shape
        value = self.value_proj(memory)
        if padding is not None:
            value = value.masked_fill(padding[..., None], 0)
        value = value.view(b, -1, self.n_heads, value.shape[-1] // self.n_heads)
        places = (b, q, self.n_heads, self.n_levels, self.n_points)
        offsets = self.sampling_offsets(query).view(*places, 2)
        logits = self.attention_weights(query).view(places)
        return self.output_proj(ms_deform_attn_fused(value, shapes, reference_points, offsets, logits))
