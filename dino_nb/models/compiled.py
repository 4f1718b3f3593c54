"""``torch.compile`` of the layers of encoder and decoder, for training and for detection."""

from typing import Any

import torch
from torch import nn

from dino_nb.errors import UserError
from dino_nb.models.dino import DINO

_COMPILER = "inductor"
_GRAPHS = {"triton.cudagraphs": True, "triton.cudagraph_skip_dynamic_graphs": True}


def compile_parts(model: nn.Module, device: torch.device, mode: bool | str = True) -> None:
    """Compile the layers of encoder and decoder in place; it happens in the next pass, which takes long.

    The backbone stays as it is: its convolutions, for sizes of any kind, take the compiler many minutes.

    Args:
        device: where the model is.
        mode: True: once for images of any size. ``"reduce-overhead"``: on a GPU also as CUDA graphs, for a stream of
            images of one shape; once others come, the layers are compiled again, for any size and without graphs. What
            a layer returns (as ``dino_nb.models.tap`` shows it) is then overwritten in the next pass.

    Raises:
        UserError: another mode, CUDA graphs without a GPU, a model that is not a ``DINO``, or no working compiler.
    """
    if mode not in (True, "reduce-overhead"):
        raise UserError(f"compile must be True, False or 'reduce-overhead', not {mode!r}.")
    if not isinstance(model, DINO):
        raise UserError("compile is for networks of PyTorch, and this one was exported: leave it out.")
    if mode == "reduce-overhead" and device.type != "cuda":
        raise UserError(f"compile='reduce-overhead' records CUDA graphs, and this network is on {device}: use a GPU.")
    try:
        torch.compile(torch.sin, backend=_COMPILER)(torch.ones(3, device=device))
    except Exception as error:  # of many kinds: no C++ compiler, no Triton, a Python that is too new
        raise UserError(
            f"compile={mode!r} cannot work here ({str(error).strip().splitlines()[0][:200]}). It needs a C++ compiler, "
            "and on a GPU Triton: leave it out."
        ) from error
    how: dict[str, Any] = {"dynamic": True}
    if mode == "reduce-overhead":
        how = {"options": _GRAPHS}  # the first shape as it is, which graphs need, and the next for any size
        model.register_forward_pre_hook(_next_pass)
    for layer in (*model.encoder.layers, *model.decoder.layers):
        layer.compile(backend=_COMPILER, **how)


def _next_pass(*_: Any) -> None:
    torch.compiler.cudagraph_mark_step_begin()  # the layers of one pass keep each other's outputs
