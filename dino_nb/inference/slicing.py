"""Large images in overlapping slices, for objects too small to see once the whole is shrunk to the network's size."""

import math

import torch
from torchvision.ops import box_iou

from dino_nb.data.windows import Window

Found = dict[str, torch.Tensor]  # "scores" (n,), "labels" (n,), "boxes" (n, 4) xyxy in pixels

SAME = 0.5  # IoU from which two detections of a class, in two slices, are taken for one object


def merge(found: list[Found], windows: list[Window]) -> Found:
    """Detections of one image, in its pixels and best first, from those of its windows, in pixels of the window.

    What a window's inner edge cuts off is left out, since a neighbour or the whole image has more of it. Of two
    detections of one class from different windows that overlap, the better one stays; those of one window all stay,
    as the network gave them.
    """
    _, _, width, height = windows[0]
    parts = []
    for number, (part, (x0, y0, x1, y1)) in enumerate(zip(found, windows)):
        boxes, margin = part["boxes"], 0.01 * max(x1 - x0, y1 - y0)
        least = boxes.new_tensor([margin if start > 0 else -math.inf for start in (x0, y0)])
        most = boxes.new_tensor(
            [x1 - x0 - margin if x1 < width else math.inf, y1 - y0 - margin if y1 < height else math.inf]
        )
        whole = ((boxes[:, :2] > least) & (boxes[:, 2:] < most)).all(1)
        moved = boxes + boxes.new_tensor([x0, y0, x0, y0])
        columns = part["scores"], part["labels"], moved, torch.full_like(part["labels"], number)
        parts.append([column[whole] for column in columns])
    scores, labels, boxes, origin = (torch.cat(column) for column in zip(*parts))
    order = scores.argsort(descending=True, stable=True)
    scores, labels, boxes, origin = (column[order] for column in (scores, labels, boxes, origin))
    keep = torch.ones_like(labels, dtype=torch.bool)
    for i in range(len(scores)):
        if keep[i]:
            same = (labels == labels[i]) & (origin != origin[i]) & (box_iou(boxes[i : i + 1], boxes)[0] >= SAME)
            keep[i + 1 :] &= ~same[i + 1 :]
    return {"scores": scores[keep], "labels": labels[keep], "boxes": boxes[keep]}
