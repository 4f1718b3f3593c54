"""Reading checkpoint files that may come from anywhere: nothing in them is ever executed."""

import argparse
import pickle
from pathlib import Path

import numpy as np
import torch

from dino_nb.errors import UserError


def read_file(path):
    """The content of a ``.pth``/``.pt`` pickle or a ``.safetensors`` file, tensors on the CPU.

    Pickles are read with ``weights_only=True``: beside tensors and plain values only ``argparse.Namespace`` (the
    ``args`` of published files) and numpy numbers are let in.

    Raises:
        UserError: no such file, cut short, not a checkpoint, or one that asks for code to be run.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"there is no checkpoint file {str(path)!r}.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    with path.open("rb") as f:
        start = f.read(64).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html")):
        raise UserError(f"{path} is a web page, not a checkpoint: the download was refused. Fetch it again by hand.")
    try:
        with torch.serialization.safe_globals(_allowed()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is not read: it is damaged, or holds objects beyond tensors and plain values, which could run "
            f"code ({_first_sentence(str(error))}). Fetch it again, or save it with the weights alone."
        ) from None
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged or no checkpoint ({_first_sentence(str(error))}). Fetch it again."
        ) from error


def _read_safetensors(path):
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as f:
            return {"model": {k: f.get_tensor(k) for k in f.keys()}, "metadata": f.metadata() or {}}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or no safetensors file ({error}). Fetch it again.") from error


def _allowed():
    numbers = [getattr(np, n) for n in ("float64", "float32", "int64", "int32", "bool_")]
    scalar = np.float64(0).__reduce__()[0]
    return [
        argparse.Namespace,
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        *(type(np.dtype(n)) for n in numbers),
    ]


def _first_sentence(text):
    for line in text.splitlines():
        if "GLOBAL" in line or "global" in line:
            return line.strip()[:200]
    return text.splitlines()[0][:200] if text else ""
