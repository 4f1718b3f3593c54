"""The decoder: queries are boxes with a content, refined layer by layer, looking forward twice (section 3.5)."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dino_nb.config import ModelConfig
from dino_nb.models.attention import MSDeformAttn
from dino_nb.models.fast import Linear, feed_forward, residual
from dino_nb.models.layers import MLP, inverse_sigmoid
from dino_nb.models.position import box_embedding


class DecoderLayer(nn.Module):
    """Self attention among queries, deformable cross attention into the memory, and a feed-forward network."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c = config.hidden_dim
        self.cross_attn = MSDeformAttn(c, config.num_feature_levels, config.nheads, config.dec_n_points)
        self.norm1 = nn.LayerNorm(c)
        self.self_attn = nn.MultiheadAttention(c, config.nheads, dropout=config.dropout, batch_first=True)
        self.norm2 = nn.LayerNorm(c)
        self.linear1 = Linear(c, config.dim_feedforward)
        self.linear2 = Linear(config.dim_feedforward, c)
        self.norm3 = nn.LayerNorm(c)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        tgt: Tensor,
        query_pos: Tensor,
        reference_points: Tensor,
        memory: Tensor,
        spatial_shapes: list[tuple[int, int]],
        key_padding_mask: Tensor | None,
        attn_mask: Tensor | None,
    ) -> Tensor:
        """``tgt``, ``query_pos`` and the result: ``(B, Q, C)``; ``attn_mask``: ``(Q, Q)``, added to the attention's
        logits, or None; the rest as in ``Decoder`` and ``MSDeformAttn``."""
        # norm2 comes before norm1, as published: self attention was put first after the layers had their names
        q = k = tgt + query_pos  # [bs, nq, C]
        tgt2 = self.self_attn(q, k, tgt, attn_mask=attn_mask, need_weights=False)[0]  # [bs, nq, C]
        tgt = self.norm2(residual(tgt, self.dropout(tgt2)))
        tgt2 = self.cross_attn(tgt + query_pos, reference_points, memory, spatial_shapes, key_padding_mask)
        tgt = residual(tgt, self.dropout(tgt2))
        # [bs, nq, dim_feedforward] inside
        return self.norm3(feed_forward(tgt, self.norm1, self.linear1, self.linear2, self.dropout))


class Decoder(nn.Module):
    """``dec_layers`` decoder layers; between them the boxes are refined by the shared box head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c = config.hidden_dim
        self.hidden_dim = c
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.dec_layers))
        self.norm = nn.LayerNorm(c)
        self.ref_point_head = MLP(2 * c, c, c, 2)
        self.grad_checkpointing = False

    def forward(
        self,
        tgt: Tensor,
        refpoints_unsigmoid: Tensor,
        memory: Tensor,
        spatial_shapes: list[tuple[int, int]],
        valid_ratios: Tensor,
        key_padding_mask: Tensor | None,
        attn_mask: Tensor | None,
        bbox_embed: nn.Module,
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            tgt: ``(B, Q, C)``; refpoints_unsigmoid: ``(B, Q, 4)`` inverse sigmoid of cxcywh.
            memory: ``(B, S, C)``; spatial_shapes: list of L ``(h, w)``; valid_ratios: ``(B, L, 2)``.
            key_padding_mask: ``(B, S)`` bool, or None.
            attn_mask: ``(Q, Q)`` bool, True where a query must not see another, or None.
            bbox_embed: the box head, shared by all layers.

        Returns:
            hs: ``(layers, B, Q, C)``, the normed output of each layer.
            references: ``(layers, B, Q, 4)`` cxcywh in [0, 1], the boxes that each layer's prediction starts from.
                All but the first carry gradient into the layer before: this is "look forward twice".
        """
        if attn_mask is not None:  # as numbers, once: each layer would keep its own otherwise
            attn_mask = tgt.new_zeros(attn_mask.shape).masked_fill_(attn_mask, -torch.inf)  # [nq, nq]
        reference = refpoints_unsigmoid.sigmoid()  # [bs, nq, 4]
        ratios = torch.cat([valid_ratios, valid_ratios], -1)[:, None]  # [bs, 1, L, 4]
        hs, references = [], [reference]
        for layer in self.layers:
            reference_points = reference[:, :, None] * ratios  # [bs, nq, L, 4]
            # as published, the embedding is of the box as the finest level sees it
            sine = box_embedding(reference_points[:, :, 0], self.hidden_dim)  # [bs, nq, 2 * C]
            query_pos = self.ref_point_head(sine.to(tgt.dtype))  # [bs, nq, C]
            inputs = tgt, query_pos, reference_points, memory, spatial_shapes, key_padding_mask, attn_mask
            if self.grad_checkpointing and self.training:
                tgt = checkpoint(layer, *inputs, use_reentrant=False)
            else:
                tgt = layer(*inputs)
            hs.append(self.norm(tgt))  # [bs, nq, C]
            if len(hs) < len(self.layers):  # the last refinement would start no layer
                # as published, references are refined from the output before the norm, predictions from the one after
                refined = (bbox_embed(tgt) + inverse_sigmoid(reference)).sigmoid()  # [bs, nq, 4]
                references.append(refined)
                reference = refined.detach()
        return torch.stack(hs), torch.stack(references)
