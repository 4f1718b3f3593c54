"""The file of a training state: what ``torch.load`` reads, followed by a digest of every byte before it.

The tail is ``<json: sha256 of the payload, epoch, step><sha256 of that json><length of that json><magic>``: a file that
was cut off, or in which a single bit flipped, is told from a whole one, and the newest of several is found without
loading any of them.
"""

import dataclasses
import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import torch

from dino_nb.files import atomic_path

MAGIC = b"DINOSTA1"
_LENGTH = struct.Struct("<I")
_FIXED = hashlib.sha256().digest_size + _LENGTH.size + len(MAGIC)


class BadStateError(Exception):
    """A file that is no whole training state; the text says in what way (it names no file)."""


def write_state(path, state):
    """Write the dict ``state`` atomically to ``path``. ``state["epoch"]`` and ``state["step"]`` go into the tail.

    Raises TypeError, naming the entry, for anything that ``torch.load(weights_only=True)`` would refuse later.
    """
    with atomic_path(path) as temporary:
        torch.save(plain(state), temporary)
        head = {"sha256": _digest(temporary), "epoch": int(state.get("epoch", 0)), "step": int(state.get("step", 0))}
        text = json.dumps(head).encode()
        with temporary.open("ab") as f:
            f.write(text + hashlib.sha256(text).digest() + _LENGTH.pack(len(text)) + MAGIC)


def read_head(path):
    """``{"sha256", "epoch", "step", "payload"}`` of a state file (payload: its bytes before the tail).

    Raises BadStateError where there is no valid tail. The payload itself is not looked at.
    """
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as f:
        f.seek(max(0, size - _FIXED))
        fixed = f.read()
        if len(fixed) < _FIXED or not fixed.endswith(MAGIC):
            raise BadStateError("it has no end mark: it was cut off, or is no training state")
        (length,) = _LENGTH.unpack(fixed[-len(MAGIC) - _LENGTH.size : -len(MAGIC)])
        payload = size - _FIXED - length
        if payload < 0:
            raise BadStateError("its end is damaged")
        f.seek(payload)
        text = f.read(length)
    if hashlib.sha256(text).digest() != fixed[: hashlib.sha256().digest_size]:
        raise BadStateError("its end is damaged")
    return {**json.loads(text), "payload": payload}


def read_state(path):
    """The dict that ``write_state`` wrote, on the CPU. Raises BadStateError when a byte of it changed."""
    head = read_head(path)
    if _digest(path, head["payload"]) != head["sha256"]:
        raise BadStateError("its contents do not match their digest: it is damaged")
    return torch.load(path, map_location="cpu", weights_only=True)


def plain(value, where="state"):
    """``value`` made of what ``weights_only=True`` loads: numpy becomes tensors and numbers, dataclasses dicts.

    Raises TypeError that names the entry for any other type.
    """
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.astype(np.int64) if value.dtype.kind == "u" and value.itemsize > 1 else value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value), where)
    if isinstance(value, dict):
        return {plain(k, f"a key of {where}"): plain(v, f"{where}[{k!r}]") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return (list if isinstance(value, list) else tuple)(plain(v, f"{where}[{i}]") for i, v in enumerate(value))
    raise TypeError(
        f"{where} is a {type(value).__name__}, which a training state cannot hold: turn it into plain data."
    )


def _digest(path, length=None):
    """Hex SHA-256 of the first ``length`` bytes (all of them where None)."""
    digest = hashlib.sha256()
    left = Path(path).stat().st_size if length is None else length
    with Path(path).open("rb") as f:
        while left and (block := f.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()
