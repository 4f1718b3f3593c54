"""Small layers that the parts share, and box arithmetic for boxes of any leading shape."""

import itertools
import math

import torch
from torch import Tensor, nn

from dino_nb.models.fast import Linear


class MLP(nn.Module):
    """Linear layers with ReLU between: ``(..., input_dim) -> (..., output_dim)``."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int) -> None:
        super().__init__()
        dims = [input_dim] + [hidden_dim] * (num_layers - 1) + [output_dim]
        self.layers = nn.ModuleList(Linear(i, o) for i, o in itertools.pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x, relu=True)
        return self.layers[-1](x)


def class_head(hidden_dim: int, num_classes: int, prior: float = 0.01) -> Linear:
    """A linear head whose sigmoid starts at ``prior`` (focal loss, arXiv 1708.02002, section 3.3)."""
    head = Linear(hidden_dim, num_classes)
    nn.init.constant_(head.bias, -math.log((1 - prior) / prior))
    return head


def box_head(hidden_dim: int) -> MLP:
    """A three-layer MLP that starts by moving no box."""
    head = MLP(hidden_dim, hidden_dim, 4, 3)
    for parameter in head.layers[-1].parameters():
        nn.init.zeros_(parameter)
    return head


def inverse_sigmoid(x: Tensor, eps: float = 1e-3) -> Tensor:
    """log(x / (1 - x)) with both clamped to at least ``eps``, which keeps every box at a finite distance."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32 if it has 16 bits, else ``x`` itself: scores, costs and losses need at least float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """``(..., 4)`` centre and size to two corners."""
    cxcy, wh = boxes.split(2, -1)
    return torch.cat([cxcy - wh / 2, cxcy + wh / 2], -1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """``(..., 4)`` two corners to centre and size."""
    low, high = boxes.split(2, -1)
    return torch.cat([(low + high) / 2, high - low], -1)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU (arXiv 1902.09630) of xyxy boxes, element by element with broadcasting: ``(..., 4), (..., 4) -> (...)``."""
    area_a = (a[..., 2:] - a[..., :2]).prod(-1)
    area_b = (b[..., 2:] - b[..., :2]).prod(-1)
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = area_a + area_b - shared
    # 1e-6 as published: it shows in the fifth digit of the losses of small boxes
    return shared / (union + 1e-6) - (hull - union) / (hull + 1e-6)
