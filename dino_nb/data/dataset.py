"""A split of a COCODIR as a PyTorch data set: images and targets as the network takes them."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dino_nb.data.coco_file import read_coco, split_files, to_pycocotools
from dino_nb.data.images import image_size, open_image
from dino_nb.data.transforms import as_boxes


class CocoDataset(torch.utils.data.Dataset):
    """``{split}2017/`` and its annotation file.

    Args:
        cocodir: folder with ``{train,val[,test]}2017/`` and ``annotations/``.
        split: ``train``, ``val`` or ``test``.
        transform: takes ``(PIL image, target)``, e.g. ``transforms.eval_transform()``; None leaves both as they are.
        label_of: ``{category id: label}``. Default: 0, 1, ... in the order of the ids. Objects of a category that a
            given dict does not list are left out.
        keep_crowd: crowd regions are left out unless this is set.

    Items are ``(image, target)``. A target has ``image_id`` (as in the file), ``orig_size (2,)`` h, w in pixels,
    ``labels (n,)`` int64, ``boxes (n, 4)``, ``iscrowd (n,)``, and what the transform adds. Boxes are clamped to the
    image, and those without area are left out. Images without annotations are items like all others.

    Attributes:
        ids: image ids as in the file, sorted; item ``i`` is image ``ids[i]``.
        categories: records of the file, by id. ``class_names``, ``category_ids``: theirs, in the same order.
        file_names: relative to ``image_dir``.

    Annotations are kept in flat arrays, not in Python objects: worker processes then share them instead of copying
    them page by page.
    """

    def __init__(
        self,
        cocodir: Path | str,
        split: str = "train",
        transform: Callable[[Any, dict], tuple[Any, dict]] | None = None,
        label_of: Mapping[Any, int] | None = None,
        keep_crowd: bool = False,
    ) -> None:
        self.split = str(split).removesuffix("2017")
        self.image_dir, self.annotation_file = split_files(cocodir, split)
        self.transform = transform
        data = read_coco(self.annotation_file)
        self.categories = sorted(data["categories"], key=_id_order)
        self.category_ids = [c["id"] for c in self.categories]
        self.class_names = [str(c["name"]) for c in self.categories]
        self.label_of = dict(label_of) if label_of is not None else {c: i for i, c in enumerate(self.category_ids)}
        images = sorted(data["images"], key=_id_order)
        self.ids = _packed([image["id"] for image in images])
        self.file_names = np.array([image["file_name"].replace("\\", "/") for image in images], dtype=np.str_)
        self._sizes = np.array([_size(image) for image in images], np.int64).reshape(-1, 2)
        position = {image["id"]: i for i, image in enumerate(images)}
        kept = [
            (position[a["image_id"]], self.label_of[a["category_id"]], a["iscrowd"], *a["bbox"])
            for a in data["annotations"]
            if a["category_id"] in self.label_of and (keep_crowd or not a["iscrowd"])
        ]
        table = np.array(kept, np.float64).reshape(-1, 7)
        table = table[np.argsort(table[:, 0], kind="stable")]
        self._starts = np.searchsorted(table[:, 0], np.arange(len(self.ids) + 1))
        self._labels, self._crowd = table[:, 1:3].astype(np.int64).T
        self._boxes = np.concatenate([table[:, 3:5], table[:, 3:5] + table[:, 5:7]], 1)  # xyxy

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Any, dict]:
        image = open_image(self.path(index))
        target = self.target(index, image.height, image.width)
        return (image, target) if self.transform is None else self.transform(image, target)

    def image_id(self, index: int) -> Any:
        """The image id as in the file (a Python value)."""
        value = self.ids[index]
        return value.item() if isinstance(value, np.generic) else value

    def path(self, index: int) -> Path:
        """The image's file."""
        return self.image_dir / str(self.file_names[index])

    def size(self, index: int) -> tuple[int, int]:
        """``(height, width)`` as the annotation file has it, else as the image has."""
        height, width = map(int, self._sizes[index])
        if not (height and width):
            width, height = image_size(self.path(index))
        return height, width

    def target(self, index: int, height: int | None = None, width: int | None = None) -> dict[str, Any]:
        """The untransformed target of an image of this size: boxes are xyxy pixels. Default: :meth:`size`."""
        if height is None or width is None:
            height, width = self.size(index)
        rows = slice(self._starts[index], self._starts[index + 1])
        boxes = torch.from_numpy(self._boxes[rows]).float()
        boxes[:, 0::2].clamp_(0, width)
        boxes[:, 1::2].clamp_(0, height)
        keep = (boxes[:, 2:] > boxes[:, :2]).all(1)
        return {
            "image_id": self.image_id(index),
            "orig_size": torch.tensor([height, width]),
            "labels": torch.from_numpy(self._labels[rows])[keep],
            "iscrowd": torch.from_numpy(self._crowd[rows])[keep],
            "boxes": as_boxes(boxes[keep], height, width),
        }

    def objects_of(self, index: int) -> int:
        """Annotated objects of one image (those that could become targets)."""
        return int(self._starts[index + 1] - self._starts[index])

    def coco(self) -> Any:
        """The annotation file as a ``pycocotools.coco.COCO``, read again (crowds and all classes included)."""
        return to_pycocotools(read_coco(self.annotation_file))


def collate(items: Iterable[tuple[torch.Tensor, dict]]) -> tuple[list[torch.Tensor], list[dict]]:
    """A list of items as ``(list of images, list of targets)``: the network pads images itself."""
    images, targets = zip(*items)
    return list(images), list(targets)


def _id_order(record: dict) -> tuple[bool, Any]:
    return isinstance(record["id"], str), record["id"]


def _packed(ids: list) -> np.ndarray | list:
    """Ids as an int64 array where they are such integers, else as the list they are."""
    if all(type(i) is int and -(2**63) <= i < 2**63 for i in ids):
        return np.array(ids, np.int64)
    return ids


def _size(image: dict) -> list[int]:
    """``[height, width]`` as the file says, 0 where it does not."""
    values = (image.get(key) for key in ("height", "width"))
    return [int(v) if isinstance(v, (int, float)) and 0 < v < 2**31 else 0 for v in values]
