"""Mixing the images of one batch: mosaic and mixup, on items as the network takes them.

An item is ``(image, target)``: a normalised ``(3, H, W)`` tensor, boxes cxcywh in [0, 1]. The items stay as they are.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as nn
from torchvision.ops import box_convert

LEAST_VISIBLE = 0.25  # share of a box's area that must be left of it, else its object is left out
LEAST_SIDE = 2.0  # pixels of its shorter side

Item = tuple[torch.Tensor, dict[str, Any]]


def mosaic(items: Sequence[Item], draw: torch.Generator) -> Item:
    """Four items as the quarters of one image of the first one's size; each is scaled by 0.5 to 1 and cut to fit."""
    image, target = items[0]
    height, width = image.shape[-2:]
    canvas = torch.zeros_like(image)  # the mean colour, as the network pads
    middle_x = round(width * uniform(draw, 0.35, 0.65))
    middle_y = round(height * uniform(draw, 0.35, 0.65))
    parts = []
    for quarter, (tile, of_tile) in enumerate(items):
        left, right = ((0, middle_x), (middle_x, width))[quarter % 2]
        top, bottom = ((0, middle_y), (middle_y, height))[quarter // 2]
        scale = uniform(draw, 0.5, 1.0)
        boxes = _pixels(of_tile["boxes"], *tile.shape[-2:])
        size = [max(1, round(side * scale)) for side in tile.shape[-2:]]
        small = nn.interpolate(tile[None], size, mode="bilinear", antialias=True)[0]
        ratio = boxes.new_tensor([small.shape[-1] / tile.shape[-1], small.shape[-2] / tile.shape[-2]]).repeat(2)
        x = int(uniform(draw, 0, 1) * max(0, small.shape[-1] - (right - left)))
        y = int(uniform(draw, 0, 1) * max(0, small.shape[-2] - (bottom - top)))
        cut = small[:, y : y + bottom - top, x : x + right - left]
        # next to the middle, where it is smaller than its quarter
        left = left if quarter % 2 else right - cut.shape[-1]
        top = top if quarter // 2 else bottom - cut.shape[-2]
        canvas[:, top : top + cut.shape[-2], left : left + cut.shape[-1]] = cut
        moved = boxes * ratio + boxes.new_tensor([left - x, top - y, left - x, top - y])
        inside = [left, top, left + cut.shape[-1], top + cut.shape[-2]]
        parts.append(_cut_to(of_tile, moved, inside, height, width))
    return canvas, target | _joined(parts)


def mixup(item: Item, other: Item, draw: torch.Generator) -> Item:
    """Two items shown through each other, the second cut to the size of the first; both keep their objects."""
    (image, target), (second, of_second) = item, other
    height, width = image.shape[-2:]
    h, w = min(height, second.shape[-2]), min(width, second.shape[-1])
    share = uniform(draw, 0.35, 0.65)
    blended = image.clone()
    blended[:, :h, :w] = share * image[:, :h, :w] + (1 - share) * second[:, :h, :w]
    boxes = _pixels(of_second["boxes"], *second.shape[-2:])
    return blended, target | _joined([target, _cut_to(of_second, boxes, [0, 0, w, h], height, width)])


def _pixels(boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return box_convert(boxes, "cxcywh", "xyxy") * boxes.new_tensor([width, height, width, height])


def _cut_to(
    target: dict[str, Any], boxes: torch.Tensor, inside: Sequence[int], height: int, width: int
) -> dict[str, Any]:
    """The objects of ``target`` with their boxes (xyxy pixels) cut to ``inside``; those of too little are left out."""
    low, high = boxes.new_tensor(inside[:2]), boxes.new_tensor(inside[2:])
    cut = torch.cat([boxes[:, :2].clamp(low, high), boxes[:, 2:].clamp(low, high)], 1)
    sides, whole = cut[:, 2:] - cut[:, :2], boxes[:, 2:] - boxes[:, :2]
    keep = (sides.prod(1) >= LEAST_VISIBLE * whole.prod(1)) & (sides.min(1).values >= LEAST_SIDE)
    relative = box_convert(cut[keep], "xyxy", "cxcywh") / boxes.new_tensor([width, height, width, height])
    kept = {key: target[key][keep] for key in ("labels", "iscrowd") if key in target}
    return kept | {"boxes": relative, "area": sides[keep].prod(1)}


def _joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    keys = [key for key in ("labels", "iscrowd", "boxes", "area") if key in parts[0]]
    return {key: torch.cat([part[key] for part in parts]) for key in keys}


def uniform(draw: torch.Generator, low: float, high: float) -> float:
    """A number drawn evenly from ``low`` to ``high``."""
    return low + (high - low) * float(torch.rand((), generator=draw))
