"""The gradient of one effective batch, in as many micro-batches as memory asks for."""

import torch

from dino_nb.training.precision import to_float32


class NonFiniteLoss(RuntimeError):
    """A micro-batch whose loss is not a finite number. ``image_ids``: its pictures; ``losses``: name -> value."""

    def __init__(self, image_ids, losses):
        self.image_ids, self.losses = list(image_ids), losses
        bad = ", ".join(f"{name}={value}" for name, value in losses.items() if not abs(value) < float("inf"))
        super().__init__(f"non-finite loss ({bad}) on images {self.image_ids}")


def accumulate_gradients(model, criterion, precision, images, targets, num_boxes, micro_batch):
    """Add the gradient of the weighted loss over all pictures to ``.grad``; returns its terms, detached.

    ``num_boxes`` (float): objects of the whole effective batch over all processes, divided by the number of
    processes. Every micro-batch is normalised by it, not by its own count, so that the sum of its gradients is the
    gradient of the whole batch. Raises ``NonFiniteLoss``, leaving a partial gradient for the caller to clear.

    Shapes: ``images`` list of (3, H, W); ``targets`` list of dicts with ``labels (n,)`` and ``boxes (n, 4)``.
    """
    totals = {}
    for start in range(0, len(images), micro_batch):
        part = slice(start, start + micro_batch)
        with precision.autocast():
            outputs = model(images[part], targets[part])
        losses = criterion(to_float32(outputs), targets[part], num_boxes)
        weighted = {name: losses[name] * weight for name, weight in criterion.weights.items() if name in losses}
        loss = sum(weighted.values())
        if not torch.isfinite(loss):
            ids = [
                int(target["image_id"]) if "image_id" in target else start + i for i, target in enumerate(targets[part])
            ]
            raise NonFiniteLoss(ids, {name: value.item() for name, value in weighted.items()})
        precision.backward(loss)
        for name, value in {"loss": loss, **losses}.items():
            totals[name] = totals.get(name, 0) + value.detach()
    return totals
