"""Box arithmetic, for boxes of any leading shape."""

import torch


def cxcywh_to_xyxy(boxes):
    cxcy, wh = boxes.split(2, -1)
    return torch.cat([cxcy - wh / 2, cxcy + wh / 2], -1)


def xyxy_to_cxcywh(boxes):
    low, high = boxes.split(2, -1)
    return torch.cat([(low + high) / 2, high - low], -1)


def generalized_iou(a, b):
    """GIoU (arXiv 1902.09630) of xyxy boxes, element by element with broadcasting: ``(..., 4), (..., 4) -> (...)``."""
    area_a = (a[..., 2:] - a[..., :2]).prod(-1)
    area_b = (b[..., 2:] - b[..., :2]).prod(-1)
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = area_a + area_b - shared
    # 1e-6 as in the published code: it shows in the fifth digit of the losses of small boxes
    return shared / (union + 1e-6) - (hull - union) / (hull + 1e-6)
