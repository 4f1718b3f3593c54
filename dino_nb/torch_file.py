"""Reading ``.pth``, ``.pt`` and ``.safetensors`` files that may come from anywhere: nothing in them is ever run."""

import argparse
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dino_nb.errors import UserError


def read_torch_file(path: str | Path) -> Any:
    """The content of a ``.pth``/``.pt`` pickle or a ``.safetensors`` file, tensors on the CPU.

    Pickles are read with ``weights_only=True``: beside tensors and plain values only ``argparse.Namespace`` (the
    ``args`` of published files) and numpy numbers are let in. A safetensors file becomes ``{"model", "metadata"}``.

    Raises:
        UserError: no such file, cut short, not a checkpoint, or one that asks for code to be run.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"there is no checkpoint file {str(path)!r}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, "pt") as file:
                return {"model": {k: file.get_tensor(k) for k in file.keys()}, "metadata": file.metadata() or {}}  # noqa: SIM118
        with path.open("rb") as file:
            start = file.read(64).lstrip().lower()
        if start.startswith((b"<!doctype", b"<html")):
            raise UserError(f"{path} is a web page, not a checkpoint: the download was refused. Fetch it by hand.")
        with torch.serialization.safe_globals(_allowed()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        lines = str(error).splitlines() or [type(error).__name__]
        why = next((line.strip() for line in lines if "global" in line.lower()), lines[0])[:200]
        if isinstance(error, pickle.UnpicklingError):
            raise UserError(
                f"{path} is not read: it is damaged, or holds objects beyond tensors and plain values, which could run "
                f"code ({why}). Fetch it again, or save it with the weights alone."
            ) from None
        if isinstance(error, OSError):
            raise UserError(f"{path} cannot be read ({error.strerror or why}).") from error
        raise UserError(f"{path} is damaged or not a checkpoint ({why}). Download or copy it again.") from error


def _allowed() -> list[Any]:
    numbers = [type(np.dtype(n)) for n in ("float64", "float32", "int64", "int32", "bool")]
    scalar = np.float64(0).__reduce__()[0]
    named = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [argparse.Namespace, np.dtype, *named, *numbers]


def check_whole(tensors: dict[str, Any], where: str | Path) -> None:
    """``UserError`` for a tensor that claims more elements than the file holds: using it could take all memory."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise UserError(f"{where} holds a {type(tensor).__name__} as {name!r}, where a tensor should be.")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise UserError(f"{where} holds {name!r} without plain data (sparse, quantized, or none): save it anew.")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise UserError(f"{where} is damaged: {name!r} of shape {tuple(tensor.shape)} is larger than its data.")
