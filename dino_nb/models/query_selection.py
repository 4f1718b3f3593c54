"""Mixed query selection (section 3.4): the best encoder tokens say where queries start, learned vectors what."""

import torch
from torch import Tensor, nn

from dino_nb.config import ModelConfig
from dino_nb.models.encoder import cell_centres
from dino_nb.models.fast import Linear
from dino_nb.models.layers import box_head, class_head, cxcywh_to_xyxy, generalized_iou

CANDIDATES = 4  # tokens looked at for one distinct query
_ROWS = 512  # of the table of overlaps at a time: all of it would take 0.4 GiB per image with 900 queries


class QuerySelection(nn.Module):
    """Scores every token and starts a query at each of the best."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c = config.hidden_dim
        self.num_queries = config.num_queries
        self.proposal_nms = config.proposal_nms
        self.enc_output = Linear(c, c)
        self.enc_output_norm = nn.LayerNorm(c)
        self.class_embed = class_head(c, config.num_classes)
        self.bbox_embed = box_head(c)

    def forward(
        self,
        memory: Tensor,
        spatial_shapes: list[tuple[int, int]],
        valid_sizes: Tensor,
        key_padding_mask: Tensor | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """
        Args:
            memory: ``(B, S, C)``; spatial_shapes: list of L ``(h, w)``.
            valid_sizes: ``(B, L, 2)``, the cells of each level that are image (width, height).
            key_padding_mask: ``(B, S)`` bool or None.

        Returns:
            refpoints_unsigmoid: ``(B, Q, 4)`` logits of cxcywh, detached; Q is ``num_queries`` or, on a smaller
                image, S.
            outputs: ``pred_logits (B, Q, num_classes)``, ``pred_boxes (B, Q, 4)``, the grid boxes that they started
                from, ``proposal_boxes (B, Q, 4)``, and the tokens of these, ``tokens (B, Q)`` int64.
        """
        proposals, hidden = grid_proposals(spatial_shapes, valid_sizes, key_padding_mask)  # [bs, S, 4], [bs, S]
        num_tokens = memory.shape[1]
        queries = min(self.num_queries, num_tokens)
        looked_at = min(CANDIDATES * queries, num_tokens) if self.proposal_nms else queries
        best = self._scores(memory, hidden).topk(looked_at, 1).indices  # [bs, looked_at]
        # Gradients flow through the selected tokens alone: these are computed again, with what autograd keeps of them
        # (on all tokens, that and the box head would cost as much as a decoder layer).
        tokens = self._tokens(_pick(memory, best).masked_fill(hidden.gather(1, best)[..., None], 0))
        logits = self.class_embed(tokens)  # [bs, looked_at, num_classes]
        start = _pick(proposals, best)
        references = self.bbox_embed(tokens) + start  # [bs, looked_at, 4]
        if self.proposal_nms:
            distinct = distinct_first(references.sigmoid(), self.proposal_nms)[:, :queries]
            best = best.gather(1, distinct)
            logits, start, references = (_pick(x, distinct) for x in (logits, start, references))
        outputs = {"pred_logits": logits, "pred_boxes": references.sigmoid()}
        outputs |= {"proposal_boxes": start.sigmoid(), "tokens": best}
        return references.detach(), outputs

    def _tokens(self, memory: Tensor) -> Tensor:
        return self.enc_output_norm(self.enc_output(memory))

    @torch.no_grad()
    def _scores(self, memory: Tensor, hidden: Tensor) -> Tensor:
        """``(B, S)``: the best class logit of each token. As published, a hidden token counts as one of zeros."""
        scores, of_zeros = (
            self.class_embed(self._tokens(x)).amax(-1) for x in (memory, memory.new_zeros(1, 1, memory.shape[-1]))
        )
        return torch.where(hidden, of_zeros, scores)


def _pick(tokens: Tensor, indices: Tensor) -> Tensor:
    """``(B, S, C)`` and ``(B, Q)`` -> ``(B, Q, C)``."""
    return tokens.gather(1, indices[..., None].expand(-1, -1, tokens.shape[-1]))


@torch.no_grad()
def distinct_first(boxes: Tensor, overlap: float) -> Tensor:
    """``(B, N)`` indices: first the boxes that overlap no better one by more than ``overlap``, then the others.

    Within both the order stays. ``boxes``: ``(B, N, 4)`` cxcywh, best first; the overlap is the generalized IoU. A box
    is judged by all better ones, dropped or not, which keeps this to operations of fixed shape: nothing waits for the
    device, and graphs can be captured.
    """
    corners = cxcywh_to_xyxy(boxes)
    again = torch.zeros_like(boxes[..., 0], dtype=torch.bool)
    for first in range(0, boxes.shape[1], _ROWS):
        better = corners[:, first : first + _ROWS]
        similar = generalized_iou(better[:, :, None], corners[:, None]) > overlap  # [bs, rows, N]
        again = again | similar.triu(1 + first).any(1)
    count = boxes.shape[1]
    order = again.long() * count + torch.arange(count, device=boxes.device)  # no two alike: any sort is a stable one
    return order.topk(count, 1, largest=False).indices


def grid_proposals(
    spatial_shapes: list[tuple[int, int]], valid_sizes: Tensor, key_padding_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One box per token: its cell's centre, with sides of 0.05 * 2^level of the image.

    Returns:
        ``(B, S, 4)`` float32 logits of cxcywh, +inf where hidden, and ``hidden (B, S)`` bool: padding, and boxes
        with a coordinate outside (0.01, 0.99).
    """
    levels = []
    for level, size in enumerate(spatial_shapes):
        centres = cell_centres(size, valid_sizes.device) / valid_sizes[:, None, None, level]  # [bs, h, w, 2]
        sides = torch.full_like(centres, 0.05 * 2.0**level)
        levels.append(torch.cat([centres, sides], -1).flatten(1, 2))  # [bs, h * w, 4]
    boxes = torch.cat(levels, 1)
    hidden = ~((boxes > 0.01) & (boxes < 0.99)).all(-1)
    if key_padding_mask is not None:
        hidden = hidden | key_padding_mask
    return torch.log(boxes / (1 - boxes)).masked_fill(hidden[..., None], torch.inf), hidden
