"""From pictures to queries' outputs without gradients, and from these to detections."""

import torch

from dino_nb.errors import UserError
from dino_nb.models.boxes import cxcywh_to_xyxy
from dino_nb.models.heads import at_least_float32


@torch.inference_mode()
def infer(model, images, amp=False):
    """``pred_logits`` and ``pred_boxes`` of ``model``, in float32 at least.

    Args:
        images: list of tensors as the model takes them, on its device.
        amp: half precision on a GPU; a CPU takes no notice of it.

    Raises:
        UserError: the GPU's memory is too small.
    """
    device = images[0].device.type
    try:
        with torch.autocast(device, torch.float16, enabled=amp and device == "cuda"):
            outputs = model(images)
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(
            f"the GPU's memory does not hold {len(images)} picture(s) of {tuple(images[0].shape[1:])} pixels: use a "
            "smaller batch_size, amp, or a smaller input size."
        ) from error
    # boxes of half precision would be off by a pixel and more once they are scaled to the picture
    return {key: at_least_float32(outputs[key]) for key in ("pred_logits", "pred_boxes")}


def postprocess(outputs, target_sizes, num_select=300):
    """The ``num_select`` best (query, class) pairs of each picture.

    Args:
        outputs: ``pred_logits (B, Q, C)``, ``pred_boxes (B, Q, 4)`` cxcywh in [0, 1].
        target_sizes: B pairs ``(height, width)``, or a ``(B, 2)`` tensor: the sizes that boxes are scaled to.
        num_select: at most Q * C are returned.

    Returns:
        A list of B dicts, best first: ``scores (K,)`` in [0, 1], ``labels (K,)`` int64, ``boxes (K, 4)`` xyxy pixels.
    """
    logits, boxes = outputs["pred_logits"], outputs["pred_boxes"]
    batch, queries, classes = logits.shape
    scores, index = at_least_float32(logits).sigmoid().flatten(1).topk(min(num_select, queries * classes), 1)
    query, labels = index // classes, index % classes
    xyxy = cxcywh_to_xyxy(boxes.gather(1, query[..., None].expand(-1, -1, 4)))
    sizes = torch.as_tensor(target_sizes, dtype=boxes.dtype, device=boxes.device).reshape(batch, 2)
    scale = sizes.flip(1).repeat(1, 2)[:, None]  # w, h, w, h
    return [{"scores": s, "labels": c, "boxes": b} for s, c, b in zip(scores, labels, xyxy * scale)]
