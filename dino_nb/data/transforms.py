"""The published image pipelines, on ``torchvision.transforms.v2``: PIL image in, tensor out.

Resizing goes through PIL (bilinear, antialiased) to a size computed here: torchvision's own rule for the long side
differs from the published one by a pixel on some images, and published numbers hold for published pixels.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.ops import box_convert
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
EVAL_SIZE = (800, 1333)  # short side, limit of the long side
_TRAIN_SIZES, _CROP_RESIZE, _CROP = tuple(range(480, 801, 32)), (400, 500, 600), (384, 600)


def resized_size(height: int, width: int, size: int, max_size: int | None = None) -> tuple[int, int]:
    """``(height, width)`` in pixels after resizing the short side to ``size`` and the long one to at most ``max_size``.

    The short side is lowered (rounded) where the long one would pass the limit; the long side is rounded down.
    """
    short, long = min(height, width), max(height, width)
    if max_size is not None and long / short * size > max_size:
        size = round(max_size * short / long)
        if size < 1:  # a hair line: the published rule would resize it to nothing
            return (1, max_size) if height <= width else (max_size, 1)
    if short == size:
        return height, width
    other = int(size * long / short)
    return (size, other) if height <= width else (other, size)


class ResizeShortSide(v2.Transform):
    """Resize image and boxes to a short side of one of ``sizes``, drawn for each image."""

    def __init__(self, sizes: Sequence[int], max_size: int | None = None) -> None:
        super().__init__()
        self.sizes, self.max_size = tuple(sizes), max_size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.query_size(flat_inputs)
        size = self.sizes[_randint(0, len(self.sizes) - 1)] if len(self.sizes) > 1 else self.sizes[0]
        return {"size": list(resized_size(height, width, size, self.max_size))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return F.resize(inpt, params["size"], interpolation=v2.InterpolationMode.BILINEAR)


class RandomSizeCrop(v2.Transform):
    """Crop a window whose width and height are drawn independently from ``min_size..max_size`` (or the image's)."""

    def __init__(self, min_size: int, max_size: int) -> None:
        super().__init__()
        self.min_size, self.max_size = min_size, max_size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.query_size(flat_inputs)
        w = _randint(min(self.min_size, width), min(self.max_size, width))
        h = _randint(min(self.min_size, height), min(self.max_size, height))
        return {"top": _randint(0, height - h), "left": _randint(0, width - w), "height": h, "width": w}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return F.crop(inpt, **params)


class ToModelInput(v2.Transform):
    """The last step: ``(image, target)`` as the network takes them.

    The image becomes a ``(3, H, W)`` tensor of its uint8 pixels, to be normalised on the device (:func:`normalize`).
    Boxes that the crop left without area are dropped with their labels; the rest become cxcywh in [0, 1] of the resized
    image; ``area`` is in its pixels, and ``size`` is its ``(h, w)``.
    """

    def forward(self, image: Image.Image, target: dict | None = None) -> Any:
        tensor = F.pil_to_tensor(image)
        if target is None:
            return tensor
        height, width = tensor.shape[-2:]
        target = dict(target)
        boxes = target["boxes"].as_subclass(torch.Tensor)
        keep = (boxes[:, 2:] > boxes[:, :2]).all(1)
        boxes = boxes[keep]
        for key in ("labels", "iscrowd"):
            if key in target:
                target[key] = target[key][keep]
        target["area"] = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        target["boxes"] = box_convert(boxes, "xyxy", "cxcywh") / boxes.new_tensor([width, height, width, height])
        target["size"] = torch.tensor([height, width])
        return tensor, target


def normalize(image: torch.Tensor) -> torch.Tensor:
    """``(3, H, W)`` uint8 pixels, on any device, by ImageNet's mean and deviation in float32; does not wait for it.

    A floating-point image is taken as normalised and comes back as it is.
    """
    if image.is_floating_point():
        return image
    mean, std = _statistics(image.device)
    return image.to(torch.float32).mul_(1 / 255).sub_(mean).div_(std)


@functools.cache
def _statistics(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode(False):
        mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (MEAN, STD))
    return mean, std


def tensor_to_image(tensor: torch.Tensor) -> Image.Image:
    """The PIL image that a ``(3, H, W)`` tensor of uint8 pixels shows, or a normalised one."""
    if tensor.is_floating_point():
        mean, std = _statistics(torch.device("cpu"))
        tensor = ((tensor.detach().cpu().float() * std + mean).clamp(0, 1) * 255).round().byte()
    return Image.fromarray(tensor.cpu().permute(1, 2, 0).numpy())


def eval_transform(size: int = EVAL_SIZE[0], max_size: int = EVAL_SIZE[1]) -> v2.Transform:
    """The published evaluation pipeline: short side ``size``, long side at most ``max_size`` pixels."""
    return v2.Compose([ResizeShortSide([size], max_size), ToModelInput()])


def train_transform(size: int = EVAL_SIZE[0], max_size: int = EVAL_SIZE[1]) -> v2.Transform:
    """The published training pipeline, with all its sizes scaled to a largest short side of ``size``.

    A flip; then half the time a resize, half the time a smaller resize, a random crop and a resize. At 800 / 1333
    these are the published numbers (480..800 in steps of 32; 400, 500 or 600 and a crop of 384..600); a small
    network's 128 / 213 shrinks them all in proportion.
    """
    published = (_TRAIN_SIZES, _CROP_RESIZE, _CROP)
    sizes, crop_resize, crop = ([round(s * size / EVAL_SIZE[0]) for s in group] for group in published)
    resize = ResizeShortSide(sizes, max_size)
    cropped = v2.Compose([ResizeShortSide(crop_resize), RandomSizeCrop(*crop), resize])
    return v2.Compose([v2.RandomHorizontalFlip(0.5), v2.RandomChoice([resize, cropped]), ToModelInput()])


def as_boxes(boxes: Any, height: int, width: int) -> tv_tensors.BoundingBoxes:
    """``(n, 4)`` xyxy pixels as the tv_tensor that the transforms above move along with the image."""
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width))


def _randint(low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, ()))  # torch's generator: seeded per worker by the DataLoader
