"""The deformable encoder: every token of every level looks at the places around it on all levels."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from dino_nb.models.attention import MSDeformAttn


class EncoderLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        c = config.hidden_dim
        self.self_attn = MSDeformAttn(c, config.num_feature_levels, config.nheads, config.enc_n_points)
        self.norm1 = nn.LayerNorm(c)
        self.linear1 = nn.Linear(c, config.dim_feedforward)
        self.linear2 = nn.Linear(config.dim_feedforward, c)
        self.norm2 = nn.LayerNorm(c)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x, pos, reference_points, shapes, padding):
        attended = self.self_attn(x + pos, reference_points, x, shapes, padding)
        x = self.norm1(x + self.dropout(attended))
        return self.norm2(x + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x))))))


class Encoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.enc_layers))
        self.checkpointing = False

    def forward(self, x, pos, shapes, ratios, padding):
        """
        Args:
            x, pos: ``(B, S, C)`` tokens of all levels and their position embedding.
            shapes: list of L ``(h, w)``.
            ratios: ``(B, L, 2)`` valid ratios.
            padding: ``(B, S)`` bool or None.

        Returns:
            The memory, ``(B, S, C)``.
        """
        reference_points = grid_reference_points(shapes, ratios)
        for layer in self.layers:
            if self.checkpointing and self.training:
                x = checkpoint(layer, x, pos, reference_points, shapes, padding, use_reentrant=False)
            else:
                x = layer(x, pos, reference_points, shapes, padding)
        return x


def grid_reference_points(shapes, ratios):
    """Cell centres of all levels, seen from each level: ``(B, S, L, 2)`` xy float32 in [0, 1] of the padded level."""
    centres = []
    for level, (h, w) in enumerate(shapes):
        y, x = torch.meshgrid(
            torch.linspace(0.5, h - 0.5, h, device=ratios.device),
            torch.linspace(0.5, w - 0.5, w, device=ratios.device),
            indexing="ij",
        )
        size = ratios[:, None, level] * torch.tensor([w, h], dtype=torch.float32).to(ratios.device)
        centres.append(torch.stack([x.flatten(), y.flatten()], -1)[None] / size)
    return torch.cat(centres, 1)[:, :, None] * ratios[:, None]
