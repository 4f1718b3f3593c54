"""The decoder: queries are boxes with a content, refined layer by layer, looking forward twice (section 3.5)."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from dino_nb.models.attention import MSDeformAttn
from dino_nb.models.heads import MLP, inverse_sigmoid
from dino_nb.models.position import box_embedding


class DecoderLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        c = config.hidden_dim
        self.cross_attn = MSDeformAttn(c, config.num_feature_levels, config.nheads, config.dec_n_points)
        self.norm1 = nn.LayerNorm(c)
        self.self_attn = nn.MultiheadAttention(c, config.nheads, dropout=config.dropout, batch_first=True)
        self.norm2 = nn.LayerNorm(c)
        self.linear1 = nn.Linear(c, config.dim_feedforward)
        self.linear2 = nn.Linear(config.dim_feedforward, c)
        self.norm3 = nn.LayerNorm(c)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x, pos, reference_points, memory, shapes, padding, attn_mask):
        q = x + pos
        attended = self.self_attn(q, q, x, attn_mask=attn_mask, need_weights=False)[0]
        x = self.norm2(x + self.dropout(attended))
        attended = self.cross_attn(x + pos, reference_points, memory, shapes, padding)
        x = self.norm1(x + self.dropout(attended))
        return self.norm3(x + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x))))))


class Decoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        c = config.hidden_dim
        self.hidden_dim = c
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.dec_layers))
        self.norm = nn.LayerNorm(c)
        self.ref_point_head = MLP(2 * c, c, c, 2)
        self.checkpointing = False

    def forward(self, content, reference_logits, memory, shapes, ratios, padding, attn_mask, bbox_embed):
        """
        Args:
            content: ``(B, Q, C)``; reference_logits: ``(B, Q, 4)`` inverse sigmoid of cxcywh.
            memory: ``(B, S, C)``; shapes: list of L ``(h, w)``; ratios: ``(B, L, 2)``; padding: ``(B, S)`` or None.
            attn_mask: ``(Q, Q)`` bool, True where a query must not see another, or None.
            bbox_embed: the box head, shared by all layers.

        Returns:
            hidden: list of ``(B, Q, C)``, the normed output of each layer.
            references: list of ``(B, Q, 4)`` cxcywh in [0, 1], the boxes that each layer's prediction starts from.
                All but the first carry gradient into the layer before: this is "look forward twice".
        """
        box = reference_logits.sigmoid()
        box_ratios = torch.cat([ratios, ratios], -1)[:, None]  # (B, 1, L, 4)
        hidden, references, x = [], [box], content
        for layer in self.layers:
            reference_points = box[:, :, None] * box_ratios
            sine = box_embedding(reference_points[:, :, 0], self.hidden_dim)
            pos = self.ref_point_head(sine.to(content.dtype))
            if self.checkpointing and self.training:
                x = checkpoint(layer, x, pos, reference_points, memory, shapes, padding, attn_mask, use_reentrant=False)
            else:
                x = layer(x, pos, reference_points, memory, shapes, padding, attn_mask)
            hidden.append(self.norm(x))
            if len(hidden) < len(self.layers):  # the last refinement would start no layer
                refined = (bbox_embed(x) + inverse_sigmoid(box)).sigmoid()
                references.append(refined)
                box = refined.detach()
        return hidden, references
