"""From the network's outputs to detections."""

import torch
from torch import Tensor

from dino_nb.models.layers import at_least_float32, cxcywh_to_xyxy


def postprocess(
    outputs: dict[str, Tensor], target_sizes: list[tuple[int, int]] | Tensor, num_select: int = 300
) -> list[dict[str, Tensor]]:
    """The ``num_select`` best (query, class) pairs of each image.

    Args:
        outputs: ``pred_logits (B, Q, C)``, ``pred_boxes (B, Q, 4)`` cxcywh in [0, 1].
        target_sizes: B pairs ``(height, width)``, or a ``(B, 2)`` tensor: the sizes that boxes are scaled to.
        num_select: at most Q * C are returned.

    Returns:
        A list of B dicts, best first: ``scores (K,)`` in [0, 1], ``labels (K,)`` int64, ``boxes (K, 4)`` xyxy pixels.
    """
    scores, labels, boxes = select(outputs, num_select)
    sizes = torch.as_tensor(target_sizes, dtype=boxes.dtype, device=boxes.device).reshape(len(boxes), 2)
    scale = sizes.flip(1).repeat(1, 2)[:, None]  # [bs, 1, 4]: w, h, w, h
    return [{"scores": s, "labels": c, "boxes": b} for s, c, b in zip(scores, labels, boxes * scale)]


def select(outputs: dict[str, Tensor], num_select: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scores ``(B, K)``, labels ``(B, K)`` and xyxy boxes ``(B, K, 4)`` in [0, 1] of the best pairs, as above."""
    logits, boxes = outputs["pred_logits"], outputs["pred_boxes"]
    num_queries, num_classes = logits.shape[1:]
    prob = at_least_float32(logits).sigmoid().flatten(1)  # [bs, num_queries * num_classes]
    scores, index = prob.topk(min(num_select, num_queries * num_classes), 1)  # [bs, K]
    query, labels = index // num_classes, index % num_classes
    return scores, labels, cxcywh_to_xyxy(boxes.gather(1, query[..., None].expand(-1, -1, 4)))
