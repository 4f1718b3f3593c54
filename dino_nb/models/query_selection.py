"""Mixed query selection (section 3.4): the best encoder tokens say where queries start, learned vectors what."""

import torch
from torch import nn

from dino_nb.models.boxes import cxcywh_to_xyxy, generalized_iou
from dino_nb.models.heads import box_head, class_head

_CANDIDATES = 4  # tokens looked at for one distinct query
_ROWS = 512  # of the table of overlaps at a time: all of it would take 0.4 GiB a picture with 900 queries


class QuerySelection(nn.Module):
    def __init__(self, config):
        super().__init__()
        c = config.hidden_dim
        self.num_queries = config.num_queries
        self.proposal_nms = config.proposal_nms
        self.proj = nn.Linear(c, c)
        self.norm = nn.LayerNorm(c)
        self.class_embed = class_head(c, config.num_classes)
        self.bbox_embed = box_head(c)

    def forward(self, memory, shapes, masks):
        """
        Args:
            memory: ``(B, S, C)``; shapes: list of L ``(h, w)``; masks: list of L ``(B, h, w)`` bool.

        Returns:
            references: ``(B, Q, 4)`` logits of cxcywh, detached; Q is ``num_queries`` or, on a smaller picture, S.
            outputs: ``pred_logits (B, Q, num_classes)``, ``pred_boxes (B, Q, 4)`` and the grid boxes that they
                started from, ``proposal_boxes (B, Q, 4)``.
        """
        proposals, hidden = grid_proposals(shapes, masks)
        tokens = self.norm(self.proj(memory.masked_fill(hidden[..., None], 0)))
        logits = self.class_embed(tokens)
        # The box head runs on the selected tokens alone: on all of them it costs as much as a decoder layer.
        queries = min(self.num_queries, tokens.shape[1])
        looked_at = min(_CANDIDATES * queries, tokens.shape[1]) if self.proposal_nms else queries
        best = logits.max(-1).values.topk(looked_at, 1).indices
        start = _pick(proposals, best)
        references = self.bbox_embed(_pick(tokens, best)) + start
        if self.proposal_nms:
            distinct = distinct_first(references.sigmoid(), self.proposal_nms)[:, :queries]
            best, start, references = best.gather(1, distinct), _pick(start, distinct), _pick(references, distinct)
        outputs = {
            "pred_logits": _pick(logits, best),
            "pred_boxes": references.sigmoid(),
            "proposal_boxes": start.sigmoid(),
        }
        return references.detach(), outputs


def _pick(tokens, indices):
    """``(B, S, C)`` and ``(B, Q)`` -> ``(B, Q, C)``."""
    return tokens.gather(1, indices[..., None].expand(-1, -1, tokens.shape[-1]))


@torch.no_grad()
def distinct_first(boxes, overlap):
    """``(B, N)`` indices: first the boxes that overlap no better one by more than ``overlap``, then the others.

    Within both the order stays. ``boxes``: ``(B, N, 4)`` cxcywh, best first; the overlap is the generalized IoU. A box
    is judged by all better ones, dropped or not, which keeps this to operations of fixed shape: nothing waits for the
    device, and graphs can be captured.
    """
    corners = cxcywh_to_xyxy(boxes)
    again = torch.zeros_like(boxes[..., 0], dtype=torch.bool)
    for first in range(0, boxes.shape[1], _ROWS):
        better = corners[:, first : first + _ROWS]
        similar = generalized_iou(better[:, :, None], corners[:, None]) > overlap
        again |= similar.triu(1 + first).any(1)
    return again.int().argsort(dim=1, stable=True)


def grid_proposals(shapes, masks):
    """One box a token: its cell's centre, with sides of 0.05 * 2^level of the picture.

    Returns:
        ``(B, S, 4)`` float32 logits of cxcywh, +inf where hidden, and ``hidden (B, S)`` bool: padding, and boxes
        with a coordinate outside (0.01, 0.99).
    """
    boxes = []
    for level, ((h, w), mask) in enumerate(zip(shapes, masks)):
        valid = torch.stack([(~mask[:, 0]).sum(1), (~mask[:, :, 0]).sum(1)], -1).float()  # (B, 2) w, h
        y, x = torch.meshgrid(
            torch.arange(h, dtype=torch.float32, device=mask.device),
            torch.arange(w, dtype=torch.float32, device=mask.device),
            indexing="ij",
        )
        centres = (torch.stack([x, y], -1) + 0.5) / valid[:, None, None]
        sides = torch.full_like(centres, 0.05 * 2.0**level)
        boxes.append(torch.cat([centres, sides], -1).flatten(1, 2))
    boxes = torch.cat(boxes, 1)
    hidden = ~((boxes > 0.01) & (boxes < 0.99)).all(-1) | torch.cat([m.flatten(1) for m in masks], 1)
    return torch.log(boxes / (1 - boxes)).masked_fill(hidden[..., None], torch.inf), hidden
