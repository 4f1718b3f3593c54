"""Which query answers for which object: one optimal assignment a picture and layer (DETR, arXiv 2005.12872, eq. 1)."""

import torch
from scipy.optimize import linear_sum_assignment

from dino_nb.models.boxes import cxcywh_to_xyxy, generalized_iou
from dino_nb.models.heads import at_least_float32


@torch.no_grad()
def match(layers, targets, config):
    """Match the queries of several layers to the targets of their pictures.

    The costs of all layers and pictures are computed in one go and leave the device in one copy.

    Args:
        layers: list of dicts ``pred_logits (B, Q, C)``, ``pred_boxes (B, Q, 4)`` cxcywh; Q may differ by layer.
        targets: B dicts ``labels (n,)``, ``boxes (n, 4)`` cxcywh.
        config: a ``ModelConfig`` (``set_cost_*``, ``focal_*``).

    Returns:
        For each layer, for each picture: ``(queries, objects)``, two int64 CPU tensors of length min(Q, n), by rising
        query.
    """
    counts = [len(t["labels"]) for t in targets]
    if not any(counts):
        nothing = torch.zeros(0, dtype=torch.int64)
        return [[(nothing, nothing) for _ in targets] for _ in layers]
    labels = torch.nn.utils.rnn.pad_sequence([t["labels"] for t in targets], batch_first=True)
    boxes = torch.nn.utils.rnn.pad_sequence([t["boxes"] for t in targets], batch_first=True)
    costs = [_cost(layer, labels, boxes, config) for layer in layers]
    sizes = [cost.shape[1] for cost in costs]
    costs = torch.cat(costs, 1).cpu()
    if not torch.isfinite(costs).all():
        # A diverging step is reported by the loss, with its numbers; the assignment must only not raise before.
        costs = costs.nan_to_num(1e6, 1e6, -1e6)
    matches = []
    for cost in costs.split(sizes, 1):
        pairs = [linear_sum_assignment(cost[i, :, :n].numpy()) for i, n in enumerate(counts)]
        matches.append([(torch.as_tensor(q), torch.as_tensor(t)) for q, t in pairs])
    return matches


def _cost(layer, labels, boxes, config):
    """``(B, Q, N)``: every query against every (padded) object of its picture."""
    alpha, gamma = config.focal_alpha, config.focal_gamma
    # The matching is made in at least float32 whatever the network computes in.
    logits, predicted = (at_least_float32(layer[k].detach()) for k in ("pred_logits", "pred_boxes"))
    p = logits.sigmoid().gather(2, labels[:, None].expand(-1, logits.shape[1], -1))
    positive = alpha * (1 - p) ** gamma * -(p + 1e-8).log()
    negative = (1 - alpha) * p**gamma * -(1 - p + 1e-8).log()
    boxes = boxes.to(predicted.dtype)
    l1 = torch.cdist(predicted, boxes, p=1)
    giou = generalized_iou(cxcywh_to_xyxy(predicted)[:, :, None], cxcywh_to_xyxy(boxes)[:, None])
    return config.set_cost_class * (positive - negative) + config.set_cost_bbox * l1 - config.set_cost_giou * giou
