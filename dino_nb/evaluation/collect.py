"""From a model and a data set to COCO results: what is scored, kept on disk as it comes, and gathered."""

import os
import time
from collections.abc import Iterable
from operator import truediv

import numpy as np
import torch
from torchvision.ops import box_convert
from tqdm.auto import tqdm

from dino_nb import distributed
from dino_nb.data.classes import ClassMatch, match_classes
from dino_nb.data.dataset import CocoDataset
from dino_nb.data.images import open_image
from dino_nb.data.transforms import normalize
from dino_nb.errors import UserError
from dino_nb.evaluation.batches import AutoBatch
from dino_nb.evaluation.coco import Detections
from dino_nb.evaluation.stream import Stream
from dino_nb.models.dino import DINO
from dino_nb.models.infer import infer
from dino_nb.models.postprocess import postprocess

STEPS = ("read", "transform", "network", "post-process", "waiting for images")  # what the time goes to


@torch.inference_mode()
def collect_predictions(
    model: DINO,
    dataset: CocoDataset,
    indices: Iterable[int] | None = None,
    *,
    match: ClassMatch | None = None,
    batch_size: int | str = 1,
    amp: bool | torch.dtype = False,
    num_workers: int | None = None,
    progress: bool = True,
    stream: Stream | None = None,
    seconds: dict[str, float] | None = None,
) -> Detections:
    """COCO results of ``model`` on images of ``dataset``; of several processes each takes its share, and gets all.

    Args:
        model: stays on its device; put in eval mode meanwhile.
        dataset: a ``CocoDataset`` with an evaluation transform.
        indices: positions in the data set. Default: all.
        match: which output is which category. Default: by the model's names and ids.
        batch_size: images per forward pass. Images of unequal size are padded to the largest, which changes
            scores a little: published numbers are those of 1. ``"auto"`` takes images of one shape together, as many as
            pay (``dino_nb.evaluation.batches``): results are those of 1 but for rounding.
        amp: as in ``dino_nb.models.infer``.
        num_workers: processes that read images. Default: 0 on a CPU, else up to 2.
        stream: keeps the results of each image on disk as they come; what it has already is not computed again.
        seconds: ``{step: 0.0}`` of ``STEPS``, to which the time that each took is added. Workers read and transform in
            parallel, so that only ``waiting for images`` delays the network.

    Returns:
        `Detections`: a sequence of ``{"image_id", "category_id", "bbox": [x, y, w, h], "score"}`` in the data set's
        own ids and in pixels of the upright image, at most ``num_select`` per image, best first.

    Raises:
        UserError: an image that cannot be read, or outputs that are not finite.
    """
    indices = list(range(len(dataset)) if indices is None else indices)
    done = {i: stream.done[i] for i in indices if i in stream.done} if stream else {}
    share = distributed.my_share([i for i in indices if i not in done])
    seconds = dict.fromkeys(STEPS, 0.0) if seconds is None else seconds
    first = next(model.parameters(), torch.empty(0))  # an exported model has none
    gpu = first.device.type == "cuda"
    if num_workers is None:
        num_workers = min(2, os.cpu_count() or 1) if gpu else 0
    auto = None
    if isinstance(batch_size, str):
        # equal shapes, which have equal proportions, come in a row; the loader's own batches are of one image
        auto, batch_size, share = AutoBatch(first.device), 1, sorted(share, key=lambda i: truediv(*dataset.size(i)))
    loader = torch.utils.data.DataLoader(
        _Reader(dataset, share),
        batch_size,
        num_workers=num_workers,
        collate_fn=_collate,
        pin_memory=gpu,
        prefetch_factor=(16 if auto else 4) if num_workers else None,
    )
    match = match or match_classes(dataset.categories, model.config.num_classes, model.class_names, model.category_ids)
    column = _columns(match.category_of, dataset)
    found: list[tuple[int, np.ndarray]] = []
    clock = time.perf_counter()

    def lap(step: str | None) -> None:
        nonlocal clock
        began, clock = clock, time.perf_counter()
        if step:
            seconds[step] += clock - began

    was_training = model.training
    model.eval()
    if isinstance(model, DINO):
        model.optimize()
    try:
        shown = progress and distributed.is_main()
        with tqdm(total=len(share), desc="evaluating", unit="img", disable=not shown, mininterval=0.5) as bar:
            for images, targets, times in auto.joined(loader) if auto else loader:
                for step, took in zip(STEPS, zip(*times)):
                    seconds[step] += sum(took)
                lap("waiting for images" if num_workers else None)
                inputs = [normalize(x.to(first.device, non_blocking=True)).to(first.dtype) for x in images]
                outputs = (auto.infer if auto else infer)(model, inputs, amp)
                if gpu:
                    torch.cuda.synchronize(first.device)
                lap("network")
                for rows in to_rows(outputs, targets, column, model.config.num_select):
                    found.append((share[len(found)], rows))
                    if stream is not None:
                        stream.add(*found[-1])
                bar.update(len(images))
                lap("post-process")
    finally:
        model.train(was_training)
        if was_training and isinstance(model, DINO):
            model.optimize(False)  # training needs the memory
    return _table([*done.items(), *(pair for part in distributed.all_gather_objects(found) for pair in part)], dataset)


def to_rows(
    outputs: dict[str, torch.Tensor], targets: Iterable[dict], column: dict[int, int], num_select: int
) -> list[np.ndarray]:
    """The network's ``outputs`` on one batch: for each image ``(n, 6)`` x, y, width, height, score, ``column[label]``.

    ``targets`` give ``image_id`` and ``orig_size``; outputs that ``column`` does not list are left out.
    """
    number = torch.full((outputs["pred_logits"].shape[-1],), -1, dtype=torch.int64)
    number[list(column)] = torch.tensor(list(column.values()), dtype=torch.int64)
    tables = []
    for target, found in zip(targets, postprocess(outputs, [t["orig_size"].tolist() for t in targets], num_select)):
        boxes, scores, category = found["boxes"].cpu(), found["scores"].cpu(), number[found["labels"].cpu()]
        if not (boxes.isfinite().all() and scores.isfinite().all()):
            raise UserError(
                f"the network's output for image {target['image_id']!r} is not finite: its weights are damaged, its "
                "training diverged, or half precision overflows (then amp='fp32')."
            )
        table = torch.cat([box_convert(boxes, "xyxy", "xywh"), scores[:, None], category[:, None]], 1)
        tables.append(table[category >= 0].double().numpy())
    return tables


def ground_truth_as_predictions(dataset: CocoDataset, indices: Iterable[int] | None = None) -> Detections:
    """The annotations of ``dataset`` as COCO results, by the way that a network's outputs take.

    Scored against the same file they reach `dino_nb.evaluation.coco.ceiling`, 1.000 as a rule (crowds are neither
    predicted nor counted): if not, boxes, ids or sizes get lost between file and score. Boxes partly outside their
    image come back clamped. No image is opened if the file has their sizes.
    """
    column = _columns({label: category for category, label in dataset.label_of.items()}, dataset)
    classes, found = 1 + max(column, default=0), []
    for index in range(len(dataset)) if indices is None else indices:
        target = dataset.target(index)
        boxes = box_convert(target["boxes"].as_subclass(torch.Tensor), "xyxy", "cxcywh")
        outputs = {
            "pred_logits": torch.nn.functional.one_hot(target["labels"], classes)[None] * 40.0 - 20,
            "pred_boxes": (boxes / target["orig_size"].flip(0).repeat(2))[None],
        }
        found.append((index, to_rows(outputs, [target], column, len(boxes))[0]))
    return _table(found, dataset)


def _columns(category_of, dataset):
    """Output of the model -> position of its category, of those that the data set has."""
    place = {category: i for i, category in enumerate(dataset.category_ids)}
    return {label: place[category] for label, category in category_of.items() if category in place}


def _table(found, dataset):
    """Pairs of a position and its rows as `Detections`, by position."""
    positions, parts = zip(*sorted(found, key=lambda pair: pair[0])) if found else ((), ())
    table = np.empty((sum(map(len, parts)), 7))
    table[:, 0] = np.repeat(np.array(positions, np.float64), [len(rows) for rows in parts])
    np.concatenate([np.empty((0, 6)), *parts], out=table[:, 1:])
    return Detections(table, [dataset.image_id(i) for i in range(len(dataset))], dataset.category_ids)


class _Reader(torch.utils.data.Dataset):
    """The chosen images and targets, and how long reading and transforming each took."""

    def __init__(self, dataset, indices):
        self.dataset, self.indices = dataset, indices

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, position):
        start, index = time.perf_counter(), self.indices[position]
        image = open_image(self.dataset.path(index))
        read = time.perf_counter()
        item = self.dataset.transform(image, self.dataset.target(index, image.height, image.width))
        return *item, (read - start, time.perf_counter() - read)


def _collate(items):
    return tuple(zip(*items))
