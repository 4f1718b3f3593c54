"""One list of detections from several looks at an image (weighted boxes fusion, arXiv 1910.13302), and NMS."""

from collections.abc import Sequence

import torch
from torchvision.ops import batched_nms, box_iou

from dino_nb.inference.slicing import Found

SAME = 0.55  # IoU from which boxes of a class in different looks are one object, as in the paper


def weighted_boxes(looks: Sequence[Found], same: float = SAME) -> Found:
    """Detections of one image from several looks at it, best first.

    Boxes of a class that overlap are averaged, weighted by their scores. The score of the average is the mean over
    all looks, those that did not find the object counting as 0.
    """
    scores, labels, boxes = (torch.cat([look[key].cpu() for look in looks]) for key in ("scores", "labels", "boxes"))
    order = scores.argsort(descending=True, stable=True)
    scores, labels, boxes = scores[order], labels[order], boxes[order]
    fused, total = torch.zeros_like(boxes), torch.zeros_like(scores)  # of each cluster: its box, the sum of its scores
    of_class = torch.full_like(labels, -1)
    count = 0
    for score, label, box in zip(scores, labels, boxes):
        overlap = box_iou(box[None], fused[:count])[0] * (of_class[:count] == label)
        if count and overlap.max() >= same:
            cluster = int(overlap.argmax())
            fused[cluster] = (fused[cluster] * total[cluster] + box * score) / (total[cluster] + score)
        else:
            cluster, count = count, count + 1
            fused[cluster], of_class[cluster] = box, label
        total[cluster] += score
    means = (total[:count] / len(looks)).clamp(max=1)
    order = means.argsort(descending=True, stable=True)
    return {"scores": means[order], "labels": of_class[:count][order], "boxes": fused[:count][order]}


def suppress(found: Found, overlap: float) -> Found:
    """Without boxes that overlap a better one of their class by an IoU of more than ``overlap``."""
    kept = batched_nms(found["boxes"].float(), found["scores"].float(), found["labels"], overlap)
    return {key: values[kept] for key, values in found.items()}


def mirrored(found: Found, width: int) -> Found:
    """Detections on an image mirrored left to right, as on the image itself, ``width`` pixels wide."""
    x0, y0, x1, y1 = found["boxes"].unbind(-1)
    return found | {"boxes": torch.stack([width - x1, y0, width - x0, y1], -1)}
