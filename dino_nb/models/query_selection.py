"""Mixed query selection (section 3.4): the best encoder tokens say where queries start, learned vectors what."""

import torch
from torch import nn

from dino_nb.models.heads import box_head, class_head


class QuerySelection(nn.Module):
    def __init__(self, config):
        super().__init__()
        c = config.hidden_dim
        self.num_queries = config.num_queries
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
        best = logits.max(-1).values.topk(min(self.num_queries, tokens.shape[1]), 1).indices[..., None]
        gather = lambda x: x.gather(1, best.expand(-1, -1, x.shape[-1]))  # noqa: E731
        start = gather(proposals)
        references = self.bbox_embed(gather(tokens)) + start
        outputs = {
            "pred_logits": gather(logits),
            "pred_boxes": references.sigmoid(),
            "proposal_boxes": start.sigmoid(),
        }
        return references.detach(), outputs


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
