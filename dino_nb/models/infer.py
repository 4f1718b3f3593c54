"""The network without gradients, as prediction and evaluation run it."""

import torch
from torch import Tensor, nn

from dino_nb.errors import UserError
from dino_nb.models.layers import at_least_float32


@torch.inference_mode()
def infer(model: nn.Module, images: list[Tensor], amp: bool | torch.dtype = False) -> dict[str, Tensor]:
    """``pred_logits (B, Q, C)`` and ``pred_boxes (B, Q, 4)`` of ``model``, in float32 at least.

    Args:
        images: list of B tensors as the model takes them, on its device.
        amp: True: half precision on a GPU, ignored on a CPU; or the 16-bit type to compute in, on any device.

    Raises:
        UserError: the GPU's memory is too small.
    """
    device = images[0].device.type
    half = amp if isinstance(amp, torch.dtype) else torch.float16 if amp and device == "cuda" else None
    try:
        with torch.autocast(device, half, enabled=half is not None):
            outputs = model(images)
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(
            f"the GPU's memory cannot hold {len(images)} image(s) of {tuple(images[0].shape[1:])} pixels: use a "
            "smaller batch_size, amp, or a smaller input size."
        ) from error
    # boxes in half precision would be off by a pixel and more once they are scaled to the image
    return {key: at_least_float32(outputs[key]) for key in ("pred_logits", "pred_boxes")}
