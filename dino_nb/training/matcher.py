"""Which query answers for which object: one optimal assignment per image and layer (DETR, arXiv 2005.12872, eq. 1)."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dino_nb.models.layers import at_least_float32, cxcywh_to_xyxy, generalized_iou


class HungarianMatcher:
    """``matcher(layers, targets)``: the assignment with the lowest cost.

    Args:
        cost_class, cost_bbox, cost_giou: weights of the focal class cost, the L1 distance, and the GIoU.
        focal_alpha, focal_gamma: of the class cost.
    """

    def __init__(
        self,
        cost_class: float = 2.0,
        cost_bbox: float = 5.0,
        cost_giou: float = 2.0,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
    ) -> None:
        self.cost_class, self.cost_bbox, self.cost_giou = cost_class, cost_bbox, cost_giou
        self.focal_alpha, self.focal_gamma = focal_alpha, focal_gamma

    @torch.no_grad()
    def __call__(self, layers: list[dict], targets: list[dict]) -> list[list[tuple[Tensor, Tensor]]]:
        """Match the queries of several layers to the objects of their images.

        The costs of all layers and images leave the device in one copy.

        Args:
            layers: dicts ``pred_logits (B, Q, C)``, ``pred_boxes (B, Q, 4)`` cxcywh; Q may differ by layer.
            targets: B dicts ``labels (n,)``, ``boxes (n, 4)`` cxcywh.

        Returns:
            For each layer, for each image: ``(src_idx, tgt_idx)``, queries and their objects, two int64 CPU tensors of
            length min(Q, n), by rising query.
        """
        num_objects = [len(t["labels"]) for t in targets]
        if not any(num_objects):
            nothing = torch.zeros(0, dtype=torch.int64)
            return [[(nothing, nothing) for _ in targets] for _ in layers]
        labels = pad_sequence([t["labels"] for t in targets], batch_first=True)  # (B, N), N = the most in an image
        boxes = pad_sequence([t["boxes"] for t in targets], batch_first=True)  # (B, N, 4)
        costs = [self.cost(layer, labels, boxes) for layer in layers]  # each (B, Q, N)
        num_queries = [cost.shape[1] for cost in costs]
        together = torch.cat(costs, 1).cpu()  # (B, sum of Q, N)
        if not torch.isfinite(together).all():
            # The loss reports a diverging step, with its numbers; the assignment must only not raise before.
            together = together.nan_to_num(1e6, 1e6, -1e6)
        matches = []
        for cost in together.split(num_queries, 1):
            pairs = [linear_sum_assignment(cost[i, :, :n].numpy()) for i, n in enumerate(num_objects)]
            matches.append([(torch.as_tensor(src_idx), torch.as_tensor(tgt_idx)) for src_idx, tgt_idx in pairs])
        return matches

    def cost(self, layer: dict, labels: Tensor, boxes: Tensor) -> Tensor:
        """``(B, Q, N)``: every query of ``layer`` against every (padded) object of its image."""
        # In at least float32, whatever the network computes in.
        logits, src_boxes = (at_least_float32(layer[k].detach()) for k in ("pred_logits", "pred_boxes"))
        p = logits.sigmoid().gather(2, labels[:, None].expand(-1, logits.shape[1], -1))  # (B, Q, N)
        positive = self.focal_alpha * (1 - p) ** self.focal_gamma * -(p + 1e-8).log()
        negative = (1 - self.focal_alpha) * p**self.focal_gamma * -(1 - p + 1e-8).log()
        src_boxes, tgt_boxes = src_boxes[:, :, None], boxes.to(src_boxes.dtype)[:, None]  # (B, Q, 1, 4), (B, 1, N, 4)
        l1 = (src_boxes - tgt_boxes).abs().sum(-1)  # on a GPU several times as fast as cdist(p=1)
        giou = generalized_iou(cxcywh_to_xyxy(src_boxes), cxcywh_to_xyxy(tgt_boxes))
        return self.cost_class * (positive - negative) + self.cost_bbox * l1 - self.cost_giou * giou
