"""What the network is trained on: augmented images with the boxes that they are learned from."""

from collections.abc import Iterable
from pathlib import Path

from PIL import Image
from torchvision.ops import box_convert

from dino_nb.data.augment import Augmentation
from dino_nb.data.dataset import CocoDataset
from dino_nb.data.transforms import EVAL_SIZE, tensor_to_image
from dino_nb.draw import class_colors, draw_boxes
from dino_nb.printer import counted
from dino_nb.sheet import grid
from dino_nb.training.sampler import ResumableBatchSampler, SeededDataset


def training_batches(
    cocodir: Path | str,
    augment: str | Iterable[str] = "published",
    *,
    images: int = 8,
    input_size: tuple[int, int] = EVAL_SIZE,
    seed: int = 0,
    width: int = 1600,
) -> Image.Image:
    """A sheet of the first ``images`` that a run with this ``seed`` trains on, as one batch.

    Args:
        cocodir: the data set; its ``train`` split is shown.
        augment: a preset or names, as of `dino_nb.data.augment.Augmentation`.
        images: how many, from 1 to the number of training images.
        input_size: short side and limit of the long side in pixels, as in ``TrainConfig``.
        width: pixels of the sheet.
    """
    augmentation = Augmentation(augment, *input_size)
    return first_batch(CocoDataset(cocodir, "train", augmentation), augmentation, seed, images, width)


def first_batch(
    dataset: CocoDataset, augmentation: Augmentation, seed: int, images: int = 8, width: int = 1600
) -> Image.Image:
    """The same of a data set whose transform ``augmentation`` is."""
    count = max(1, min(images, len(dataset)))
    sampler = ResumableBatchSampler([(1, 1)] * len(dataset), count, seed)
    seeded = SeededDataset(dataset, seed)
    tensors, targets = augmentation.collate([seeded[key] for key in next(iter(sampler))])
    colors, shown, titles = class_colors(dataset.class_names), [], []
    for tensor, target in zip(tensors, targets):
        high, wide = tensor.shape[-2:]
        corners = box_convert(target["boxes"], "cxcywh", "xyxy") * target["boxes"].new_tensor([wide, high, wide, high])
        names = [dataset.class_names[label] for label in target["labels"].tolist()]
        shown.append(draw_boxes(tensor_to_image(tensor), corners, names, colors=colors))
        titles.append(f"{wide} x {high}, {counted(len(names), 'object')}")
    return grid(shown, 4, titles, width)
