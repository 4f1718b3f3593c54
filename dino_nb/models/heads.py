"""Prediction heads and the box arithmetic that they share."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import nn


class MLP(nn.Module):
    """Linear layers with ReLU between: ``(..., input_dim) -> (..., output_dim)``."""

    def __init__(self, input_dim, hidden_dim, output_dim, num_layers):
        super().__init__()
        dims = [input_dim] + [hidden_dim] * (num_layers - 1) + [output_dim]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in itertools.pairwise(dims))

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


def class_head(hidden_dim, num_classes, prior=0.01):
    """A linear head whose sigmoid starts at ``prior`` (focal loss, arXiv 1708.02002, section 3.3)."""
    head = nn.Linear(hidden_dim, num_classes)
    nn.init.constant_(head.bias, -math.log((1 - prior) / prior))
    return head


def box_head(hidden_dim):
    """A three-layer MLP that starts by moving no box."""
    head = MLP(hidden_dim, hidden_dim, 4, 3)
    nn.init.zeros_(head.layers[-1].weight)
    nn.init.zeros_(head.layers[-1].bias)
    return head


def inverse_sigmoid(x, eps=1e-3):
    """log(x / (1 - x)) with both clamped to at least ``eps``, so that no box is infinitely far."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def at_least_float32(x):
    """``x`` itself in float32 or float64, else in float32: scores, costs and losses are never computed in 16 bits."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
