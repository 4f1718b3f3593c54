"""Augmentation of training images, by presets or names, in front of the published pipeline.

Image by image: everything below is done before the published flip, resizes and crops, on ``torchvision.transforms.v2``.
Within a batch: mosaic and mixup, when the batch is put together. Objects that are mostly cut off are left out.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from dino_nb.data.dataset import collate
from dino_nb.data.images import TURNS, turned_boxes, turned_size
from dino_nb.data.mix import LEAST_SIDE, LEAST_VISIBLE, Item, mixup, mosaic, uniform
from dino_nb.data.transforms import EVAL_SIZE, MEAN, as_boxes, normalize, train_transform
from dino_nb.errors import UserError, did_you_mean

PRESETS = {
    "published": (),  # flip, resizes and crops alone, exactly as published
    "light": ("photometric", "zoom_out"),  # colours and scale alone
    "strong": ("photometric", "zoom_out", "iou_crop", "affine", "blur", "mosaic", "mixup"),
    "aerial": ("photometric", "vertical_flip", "turns", "blur"),  # seen from above: no side is up
}
_MIXED = {"mosaic": 0.5, "mixup": 0.2}  # share of the images


class Augmentation:
    """The transform of a training set, and the function that puts its batches together.

    Args:
        augment: a preset, a name of ``NAMES``, several of them separated by commas, or a list of them.
        size, max_size: short side and limit of the long side of the published pipeline, in pixels.

    Attributes:
        names: what is done, in order.
        on: False leaves the published pipeline alone, as a run does towards its end.
        least_batch: images that a batch needs for it: 2 where images are mixed.
        images_per_item: whose objects an item may show.
    """

    def __init__(
        self, augment: str | Iterable[str] = "published", size: int = EVAL_SIZE[0], max_size: int = EVAL_SIZE[1]
    ) -> None:
        self.names = parse_names(augment)
        self.on = True
        self.published = train_transform(size, max_size)
        self._steps = [_STEPS[name]() for name in self.names if name in _STEPS]
        self._mixed = {name: share for name, share in _MIXED.items() if name in self.names}
        self.least_batch = 2 if self._mixed else 1
        self.images_per_item = (4 if "mosaic" in self._mixed else 1) + (1 if "mixup" in self._mixed else 0)

    def __call__(self, image: Image.Image, target: dict[str, Any]) -> Item:
        """``(PIL image, target)`` of ``train_transform``; the target of an item to be mixed has a ``seed``."""
        if not self.on:
            return self.published(image, target)
        for step in self._steps:
            image, target = step(image, target)
        tensor, target = self.published(image, target)
        if self._mixed:  # drawn here, where each image has random numbers of its own
            target["seed"] = int(torch.randint(2**62, ()))
        return tensor, target

    def collate(self, items: Sequence[Item]) -> tuple[list[torch.Tensor], list[dict[str, Any]]]:
        """A batch as ``(list of images, list of targets)``, some of them mixed with others of it (of this process).

        Images are uint8 pixels; those of a batch that was mixed are normalised.
        """
        seeds = [target.pop("seed", None) for _, target in items]
        if len(items) > 1 and None not in seeds:
            items, mixed = [(normalize(image), target) for image, target in items], []
            for i, (item, seed) in enumerate(zip(items, seeds)):
                draw = torch.Generator().manual_seed(seed)
                others = [items[(i + 1 + k) % len(items)] for k in torch.randint(len(items) - 1, (3,), generator=draw)]
                if uniform(draw, 0, 1) < self._mixed.get("mosaic", 0):
                    item = mosaic([item, *others], draw)
                if uniform(draw, 0, 1) < self._mixed.get("mixup", 0):
                    item = mixup(item, others[-1], draw)
                mixed.append(item)
            items = mixed
        return collate(items)

    def __str__(self) -> str:
        return ", ".join(self.names) or "published"


def parse_names(augment: str | Iterable[str]) -> tuple[str, ...]:
    """Names of single steps, without repeats and in a fixed order, of presets and names as a user writes them."""
    words = augment.replace(",", " ").split() if isinstance(augment, str) else [str(word) for word in augment]
    chosen: set[str] = set()
    for word in words:
        if word not in PRESETS and word not in NAMES:
            known = f"Presets: {', '.join(PRESETS)}. Single steps: {', '.join(NAMES)}."
            raise UserError(f"augment: there is no {word!r}.{did_you_mean(word, [*PRESETS, *NAMES])} {known}")
        chosen.update(PRESETS.get(word, (word,)))
    return tuple(name for name in NAMES if name in chosen)


class KeepVisible:
    """A transform of image and boxes, after which objects of too little are dropped.

    A box must keep ``LEAST_VISIBLE`` of its area, and sides of ``LEAST_SIDE`` pixels unless it had less.
    """

    def __init__(self, transform: v2.Transform) -> None:
        self.transform = transform

    def __call__(self, image: Image.Image, target: dict[str, Any]) -> tuple[Image.Image, dict[str, Any]]:
        before = _sides(target["boxes"])
        image, target = self.transform(image, target)
        sides = _sides(target["boxes"])
        enough = sides.prod(1) >= LEAST_VISIBLE * before.prod(1)
        keep = enough & (sides.min(1).values >= before.min(1).values.clamp(max=LEAST_SIDE))
        boxes = as_boxes(target["boxes"].as_subclass(torch.Tensor)[keep], image.height, image.width)
        kept = {key: target[key][keep] for key in ("labels", "iscrowd") if key in target}
        return image, target | kept | {"boxes": boxes}


class RandomTurn(v2.Transform):
    """One of the four quarter turns, or of their mirror images: an EXIF orientation 1..8, drawn."""

    def __init__(self, orientations: Sequence[int]) -> None:
        super().__init__()
        self.orientations = tuple(orientations)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return {"orientation": self.orientations[int(torch.randint(len(self.orientations), ()))]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        turn = params["orientation"]
        if isinstance(inpt, Image.Image):
            return inpt.transpose(TURNS[turn]) if turn in TURNS else inpt
        if isinstance(inpt, tv_tensors.BoundingBoxes):
            height, width = inpt.canvas_size
            new_width, new_height = turned_size((width, height), turn)
            return as_boxes(turned_boxes(inpt.numpy(), (width, height), turn), new_height, new_width)
        return inpt


def _sides(boxes: torch.Tensor) -> torch.Tensor:
    boxes = boxes.as_subclass(torch.Tensor)
    return boxes[:, 2:] - boxes[:, :2]


_FILL = tuple(round(255 * mean) for mean in MEAN)
_affine = partial(v2.RandomAffine, translate=(0.1, 0.1), scale=(0.9, 1.1), interpolation=v2.InterpolationMode.BILINEAR)
_STEPS: dict[str, Callable[[], Callable[..., Any]]] = {
    "iou_crop": lambda: KeepVisible(v2.RandomApply([v2.RandomIoUCrop()], 0.5)),
    "zoom_out": lambda: v2.RandomZoomOut(_FILL, (1.0, 2.0), 0.3),
    "affine": lambda: KeepVisible(v2.RandomApply([_affine(5, fill=_FILL)], 0.5)),
    "turns": lambda: RandomTurn((1, 3, 6, 8)),
    "vertical_flip": lambda: v2.RandomVerticalFlip(0.5),
    # torchvision's RandomPhotometricDistort also exchanges colour channels: too much where colour tells the classes
    "photometric": lambda: v2.RandomApply([v2.ColorJitter(0.3, 0.3, 0.4, 0.03)], 0.7),
    "blur": lambda: v2.RandomApply([v2.GaussianBlur(5, (0.1, 1.5))], 0.2),
    "jpeg": lambda: v2.RandomApply([v2.JPEG((40, 90))], 0.2),
}
NAMES = (*_STEPS, *_MIXED)
