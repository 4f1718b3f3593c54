"""The straightforward formulation of the network, as the published code has it: the yardstick of the benchmarks.

``published_formulation(model)`` computes the same as ``model``, with the same weights, by separate operations: frozen
norms as a multiplication and an addition, ReLU as a pass of its own, the op by ``grid_sample``, sine embeddings of
every pixel, and the heads of the query selection on all tokens.
"""

import copy
import math

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame, FrozenBatchNormAct2d
from timm.models.resnet import Bottleneck
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from dino_nb.models import fast, fold
from dino_nb.models.attention import MSDeformAttn
from dino_nb.models.backbone import FoldedBottleneck
from dino_nb.models.dino import DINO
from dino_nb.models.encoder import EncoderLayer
from dino_nb.models.query_selection import QuerySelection, grid_proposals
from dino_nb.ops import reference
from tests.benchmarks.op import grid_sample


def published_formulation(model: DINO) -> DINO:
    """A copy of ``model`` that computes as the published code does."""
    model = copy.deepcopy(model)
    for module in model.modules():
        for own, plain in _CLASSES.items():
            if type(module) is own:
                module.__class__ = plain
    if hasattr(model.backbone.body, "act1"):
        model.backbone.body.act1 = nn.ReLU(inplace=True)
    return model


class _Linear(nn.Linear):
    def forward(self, x, relu=False):
        x = F.linear(x, self.weight, self.bias)
        return F.relu(x) if relu else x


class _Attention(MSDeformAttn):
    def forward(self, query, reference_points, memory, spatial_shapes, key_padding_mask):
        value = self.value_proj(memory)
        if key_padding_mask is not None:
            value = value.masked_fill(key_padding_mask[..., None], 0)
        value = value.unflatten(-1, (self.n_heads, -1))
        offsets, logits = self.offsets_and_logits(query)
        weights = logits.flatten(-2).softmax(-1).view(logits.shape)
        locations = reference.sampling_locations(reference_points.to(query.dtype), offsets, spatial_shapes)
        return self.output_proj(grid_sample(value, spatial_shapes, locations, weights))


class _EncoderLayer(EncoderLayer):
    def _feed_forward(self, src, src2):
        src = self.norm1(src + self.dropout(src2))
        src2 = self.linear2(self.dropout(self.linear1(src, relu=True)))
        return self.norm2(src + self.dropout(src2))


class _Selection(QuerySelection):
    def forward(self, memory, spatial_shapes, valid_sizes, key_padding_mask):
        proposals, hidden = grid_proposals(spatial_shapes, valid_sizes, key_padding_mask)
        tokens = self.enc_output_norm(self.enc_output(memory.masked_fill(hidden[..., None], 0)))
        logits, boxes = self.class_embed(tokens), self.bbox_embed(tokens) + proposals
        best = logits.max(-1).values.topk(min(self.num_queries, tokens.shape[1]), 1).indices[..., None]
        logits, boxes, start = (x.gather(1, best.expand(-1, -1, x.shape[-1])) for x in (logits, boxes, proposals))
        outputs = {"pred_logits": logits, "pred_boxes": boxes.sigmoid(), "proposal_boxes": start.sigmoid()}
        return boxes.detach(), outputs


class _DINO(DINO):
    def _positions(self, sizes, spatial_shapes, dtype):
        parts = []
        for level, (h, w) in enumerate(spatial_shapes):
            inside = torch.ones(len(sizes), h, w, dtype=torch.bool, device=sizes.device)
            for i, (width, height) in enumerate(sizes[:, level].int().tolist()):
                inside[i, height:], inside[i, :, width:] = False, False
            half = self.config.hidden_dim // 2
            index = torch.arange(half, dtype=torch.float32, device=sizes.device)
            frequencies = self.config.pe_temperature ** (2 * (index // 2) / half)
            halves = []
            for dim in (1, 2):
                place = inside.cumsum(dim, dtype=torch.float32)
                place = place / (place.narrow(dim, place.shape[dim] - 1, 1) + 1e-6) * (2 * math.pi)
                angles = place[..., None] / frequencies
                halves.append(torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), -1).flatten(-2))
            parts.append(torch.cat(halves, -1).flatten(1, 2).to(dtype) + self.level_embed[level])
        return torch.cat(parts, 1)


_CLASSES = {
    fast.Linear: _Linear,
    fast.Conv2d: nn.Conv2d,
    fast.SameConv2d: Conv2dSame,
    fold._Absorbed: FrozenBatchNorm2d,
    fold._AbsorbedAct: FrozenBatchNormAct2d,
    FoldedBottleneck: Bottleneck,
    MSDeformAttn: _Attention,
    EncoderLayer: _EncoderLayer,
    QuerySelection: _Selection,
    DINO: _DINO,
}
