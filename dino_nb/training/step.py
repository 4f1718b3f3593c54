"""The gradient of one effective batch, in as many micro-batches as memory asks for."""

import torch
from torch import Tensor

from dino_nb.models.dino import DINO
from dino_nb.training.criterion import Criterion
from dino_nb.training.precision import Precision, to_float32


def accumulate_gradients(
    model: DINO,
    criterion: Criterion,
    precision: Precision,
    images: list[Tensor],
    targets: list[dict],
    num_boxes: float,
    micro_batch: int,
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Add the gradient of the weighted loss over all images to ``.grad``. Does not wait for the device.

    Args:
        images: (3, H, W) each.
        targets: dicts with ``labels (n,)`` and ``boxes (n, 4)``.
        num_boxes: objects of the whole effective batch over all processes, divided by the number of processes. Every
            micro-batch is normalised by it, not by its own count: the sum of the micro-batches' gradients is then the
            gradient of the whole batch.

    Returns:
        The loss and its terms by name, summed over the micro-batches, and the loss of each micro-batch; detached.
    """
    totals: dict[str, Tensor] = {}
    parts = []
    for start in range(0, len(images), micro_batch):
        part = slice(start, start + micro_batch)
        with precision.autocast():
            outputs = model(images[part], targets[part])
        losses = criterion(to_float32(outputs), targets[part], num_boxes)
        loss = torch.stack([losses[name] * weight for name, weight in criterion.weight_dict.items() if name in losses])
        loss = loss.sum()
        precision.backward(loss)
        parts.append(loss.detach())
        for name, value in {"loss": loss, **losses}.items():
            totals[name] = totals[name] + value.detach() if name in totals else value.detach()
    return totals, parts
