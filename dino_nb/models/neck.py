"""From backbone maps to the levels of the encoder."""

import torch
from torch import nn


class Neck(nn.Module):
    """1x1 convolutions on the backbone's maps; further levels by 3x3 stride-2 convolutions from the last one."""

    def __init__(self, in_channels, hidden_dim, num_levels):
        super().__init__()
        extra = num_levels - len(in_channels)
        self.proj = nn.ModuleList(_project(c, hidden_dim, 1, 1) for c in in_channels)
        for i in range(extra):
            self.proj.append(_project(in_channels[-1] if i == 0 else hidden_dim, hidden_dim, 3, 2))
        for conv, _ in self.proj:
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, features):
        """List of ``(B, C_i, h_i, w_i)`` to a list of ``num_levels`` maps ``(B, hidden_dim, h, w)``."""
        levels = [proj(f) for proj, f in zip(self.proj, features)]
        for i, proj in enumerate(self.proj[len(features) :]):
            levels.append(proj(features[-1] if i == 0 else levels[-1]))
        return levels


def _project(in_channels, hidden_dim, kernel, stride):
    return nn.Sequential(
        nn.Conv2d(in_channels, hidden_dim, kernel, stride, padding=kernel // 2), nn.GroupNorm(32, hidden_dim)
    )


def flatten_levels(maps):
    """List of ``(B, C, h, w)`` to tokens ``(B, S, C)``, level after level, row by row."""
    return torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)
