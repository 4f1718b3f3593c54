"""From a model and a data set to COCO results: what is scored, written to ``results.json`` and gathered."""

import os

import torch
from torchvision.ops import box_convert
from tqdm.auto import tqdm

from dino_nb import distributed
from dino_nb.data.classes import match_classes
from dino_nb.data.dataset import collate
from dino_nb.errors import UserError
from dino_nb.models.postprocess import infer, postprocess


@torch.inference_mode()
def collect_predictions(
    model,
    dataset,
    indices=None,
    device=None,
    *,
    match=None,
    batch_size=1,
    amp=False,
    num_workers=None,
    progress=True,
):
    """COCO results of ``model`` on pictures of ``dataset``.

    Args:
        model: a ``DINO``; put in eval mode meanwhile.
        dataset: a ``CocoDataset`` with an evaluation transform.
        indices: positions in the data set, e.g. one process's share. Default: all.
        device: default: where the model is (it is not moved).
        match: the ``ClassMatch``. Default: :func:`match_model`.
        batch_size: pictures a forward pass. Pictures of unequal size are padded to the largest, which changes
            scores a little: published numbers are those of 1.
        amp: half precision, on a GPU; a CPU takes no notice of it.
        num_workers: processes that read pictures. Default: 0 on a CPU, else up to 2.

    Returns:
        A list of ``{"image_id", "category_id", "bbox": [x, y, w, h], "score"}`` in the data set's own ids and in
        pixels of the upright picture, ``num_select`` at most a picture, best first.
    """
    first = next(model.parameters())
    device = torch.device(device or first.device)
    match = match or match_model(model, dataset.categories)
    indices = range(len(dataset)) if indices is None else list(indices)
    if num_workers is None:
        num_workers = 0 if device.type == "cpu" else min(2, os.cpu_count() or 1)
    loader = torch.utils.data.DataLoader(
        _Reader(dataset, indices),
        batch_size,
        num_workers=num_workers,
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
    )
    results, was_training = [], model.training
    model.eval()
    try:
        with tqdm(total=len(indices), desc="evaluating", unit="img", disable=not progress, mininterval=0.5) as bar:
            for batch in loader:
                if isinstance(batch, UserError):
                    raise batch
                pictures, targets = batch
                pictures = [p.to(device, first.dtype, non_blocking=True) for p in pictures]
                outputs = infer(model, pictures, amp)
                results += to_results(outputs, targets, match.category_of, model.config.num_select)
                bar.update(len(pictures))
    finally:
        model.train(was_training)
    return results


def collect_shared(model, dataset, indices, *, progress=True, **options):
    """:func:`collect_predictions` with the pictures shared out over ``torchrun``'s processes, if there are several.

    Every process gets all results, those of each picture once.
    """
    share = distributed.my_share(indices)
    results = {dataset.image_id(index): [] for index in share}
    for record in collect_predictions(model, dataset, share, progress=progress and distributed.is_main(), **options):
        results[record["image_id"]].append(record)
    return [record for records in distributed.gather_results(results).values() for record in records]


def to_results(outputs, targets, category_of, num_select):
    """The network's ``outputs`` on one batch as COCO results.

    ``targets`` give ``image_id`` and ``orig_size``; outputs that ``category_of`` (``{output: category id}``) does not
    list are left out.
    """
    results = []
    for target, found in zip(targets, postprocess(outputs, [t["orig_size"].tolist() for t in targets], num_select)):
        if not (found["boxes"].isfinite().all() and found["scores"].isfinite().all()):
            raise UserError(
                f"the network's output for image {target['image_id']!r} is not finite: its weights are damaged, its "
                "training diverged, or half precision overflows (then leave out amp)."
            )
        boxes = torch.cat([found["boxes"][:, :2], found["boxes"][:, 2:] - found["boxes"][:, :2]], 1)
        results += [
            {"image_id": target["image_id"], "category_id": category_of[label], "bbox": box, "score": score}
            for label, box, score in zip(found["labels"].tolist(), boxes.tolist(), found["scores"].tolist())
            if label in category_of
        ]
    return results


def match_model(model, categories, by="auto"):
    """:func:`dino_nb.data.classes.match_classes` for a model that carries its names and ids."""
    return match_classes(categories, model.config.num_classes, model.class_names, model.category_ids, by)


def ground_truth_as_predictions(dataset, indices=None):
    """The annotations of ``dataset`` as COCO results, by the way that a network's outputs take.

    Scored against the same file they must reach AP 1.000 (crowds are neither predicted nor counted): if not, boxes,
    ids or sizes get lost between file and score. Boxes partly outside their picture come back clamped, and COCO
    counts 100 objects of a class a picture at most. No picture is opened if the file has their sizes.
    """
    category_of = {label: category for category, label in dataset.label_of.items()}
    classes = 1 + max(category_of, default=0)
    results = []
    for index in range(len(dataset)) if indices is None else indices:
        target = dataset.target(index)
        height, width = target["orig_size"].tolist()
        boxes = box_convert(target["boxes"].as_subclass(torch.Tensor), "xyxy", "cxcywh")
        outputs = {
            "pred_logits": torch.nn.functional.one_hot(target["labels"], classes)[None] * 40.0 - 20,
            "pred_boxes": (boxes / torch.tensor([width, height, width, height]))[None],
        }
        results += to_results(outputs, [target], category_of, len(boxes))
    return results


class _Reader(torch.utils.data.Dataset):
    """The chosen items; a picture that cannot be read comes back as its error, which a worker process would wrap."""

    def __init__(self, dataset, indices):
        self.dataset, self.indices = dataset, indices

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, position):
        try:
            return self.dataset[self.indices[position]]
        except UserError as error:
            return error


def _collate(items):
    return next((item for item in items if isinstance(item, UserError)), None) or collate(items)
