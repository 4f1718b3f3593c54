"""The deformable encoder: every token of every level looks at the places around it on all levels."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dino_nb.config import ModelConfig
from dino_nb.models.attention import MSDeformAttn
from dino_nb.models.fast import Linear, by_rows, feed_forward, residual


class EncoderLayer(nn.Module):
    """Deformable self attention and a feed-forward network, each with a residual and a norm after it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c = config.hidden_dim
        self.self_attn = MSDeformAttn(c, config.num_feature_levels, config.nheads, config.enc_n_points)
        self.norm1 = nn.LayerNorm(c)
        self.linear1 = Linear(c, config.dim_feedforward)
        self.linear2 = Linear(config.dim_feedforward, c)
        self.norm2 = nn.LayerNorm(c)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        src: Tensor,
        pos: Tensor,
        reference_points: Tensor,
        spatial_shapes: list[tuple[int, int]],
        key_padding_mask: Tensor | None,
    ) -> Tensor:
        """``src``, ``pos`` and the result: ``(B, S, C)``; the rest as in ``MSDeformAttn``."""
        src2 = self.self_attn(src + pos, reference_points, src, spatial_shapes, key_padding_mask)  # [bs, S, C]
        return by_rows(self._feed_forward, src, src2)

    def _feed_forward(self, src: Tensor, src2: Tensor) -> Tensor:
        src = residual(src, self.dropout(src2))  # [bs, S, C]
        # [bs, S, dim_feedforward] inside
        return self.norm2(feed_forward(src, self.norm1, self.linear1, self.linear2, self.dropout))


class Encoder(nn.Module):
    """``enc_layers`` encoder layers around one grid of reference points."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.enc_layers))
        self.grad_checkpointing = False

    def forward(
        self,
        src: Tensor,
        pos: Tensor,
        spatial_shapes: list[tuple[int, int]],
        valid_ratios: Tensor,
        key_padding_mask: Tensor | None,
    ) -> Tensor:
        """
        Args:
            src, pos: ``(B, S, C)`` tokens of all levels and their position embedding.
            spatial_shapes: list of L ``(h, w)``.
            valid_ratios: ``(B, L, 2)``, the share of each padded level that is image (width, height).
            key_padding_mask: ``(B, S)`` bool or None.

        Returns:
            The memory, ``(B, S, C)``.
        """
        reference_points = get_reference_points(spatial_shapes, valid_ratios)  # [bs, S, L, 2]
        for layer in self.layers:
            inputs = src, pos, reference_points, spatial_shapes, key_padding_mask
            if self.grad_checkpointing and self.training:
                src = checkpoint(layer, *inputs, use_reentrant=False)
            else:
                src = layer(*inputs)
        return src


def cell_centres(size: tuple[int, int], device: torch.device) -> Tensor:
    """``(h, w, 2)`` float32 x, y of the centres of a map's cells, in cells."""
    y, x = (torch.arange(length, dtype=torch.float32, device=device) + 0.5 for length in size)
    return torch.stack([x.expand(y.shape[0], -1), y[:, None].expand(-1, x.shape[0])], -1)


def get_reference_points(spatial_shapes: list[tuple[int, int]], valid_ratios: Tensor) -> Tensor:
    """Cell centres of all levels, seen from each level: ``(B, S, L, 2)`` xy float32 in [0, 1] of the padded level."""
    centres = []
    for level, (h, w) in enumerate(spatial_shapes):
        valid = torch.stack([valid_ratios[:, level, 0] * w, valid_ratios[:, level, 1] * h], -1)  # [bs, 2] cells
        centres.append(cell_centres((h, w), valid.device).flatten(0, 1) / valid[:, None])  # [bs, h * w, 2]
    return torch.cat(centres, 1)[:, :, None] * valid_ratios[:, None]  # [bs, S, 1, 2] * [bs, 1, L, 2]
