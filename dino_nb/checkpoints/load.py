"""From a name or a path to a network in eval mode: what inference, evaluation and training all start from."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dino_nb.checkpoints import zoo
from dino_nb.checkpoints.checkpoint import load_checkpoint
from dino_nb.checkpoints.official import published_state
from dino_nb.checkpoints.onnx_file import OnnxModel
from dino_nb.coco_classes import COCO_OUTPUTS
from dino_nb.errors import UserError, did_you_mean
from dino_nb.models.dino import DINO

DINO_TINY = Path(__file__).parent / "assets" / "dino_tiny.safetensors"


def load_model(name_or_path: str | os.PathLike[str], device: str | torch.device | None = None) -> DINO:
    """A ``DINO`` module in eval mode on ``device``.

    Args:
        name_or_path: a checkpoint file (this package's, a published ``.pth``, or an exported ``.onnx``, which
            gives an ``OnnxModel``); the folder of a training run;
            ``"dino-tiny"``, a small network for trying things out that comes with the package; the name of a published
            checkpoint (``dino-nb zoo`` lists them; downloaded once), or a Google Drive id or link of one.
        device: ``"cuda"``, ``"cuda:1"``, ``"cpu"``; None takes a GPU where there is one.

    Raises:
        UserError: no such file or name, a damaged checkpoint, or a device that is not there.
    """
    device = pick_device(device)  # before a download of hundreds of megabytes
    file = locate(name_or_path)
    if file.suffix.lower() == ".onnx":
        return OnnxModel(file, device).eval()  # type: ignore[return-value]
    return load_checkpoint(file).to(device)


def as_model(source: Any, device: str | torch.device | None = None) -> DINO:
    """The ``DINO`` module of a ``Detector``, a module, or whatever :func:`load_model` takes, on ``device``.

    A module stays where it is if ``device`` is None.
    """
    model = getattr(source, "model", source)
    if isinstance(model, nn.Module):
        return model if device is None else model.to(pick_device(device))  # type: ignore[return-value]
    if isinstance(source, (str, os.PathLike)):
        return load_model(source, device)
    raise UserError(
        f"a {type(source).__name__} is not a model: give a checkpoint's name or path, a Detector, or a DINO module."
    )


def export_official(source: Any) -> dict[str, torch.Tensor]:
    """The state dict of a model with the published names, as the original code loads it strictly.

    ``source``: a ``Detector``, a module, or a checkpoint's name or path. What ``load_official`` read comes back with
    the same names and bits.
    """
    return published_state(as_model(source, None if isinstance(getattr(source, "model", source), nn.Module) else "cpu"))


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """The ``torch.device`` to use: the given one if it is there, else a GPU if there is one, else the CPU."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(device)
    except RuntimeError:
        raise UserError(f"there is no kind of device {device!r}: use 'cuda', 'cuda:0' or 'cpu'.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = f"only {torch.cuda.device_count()} of them" if torch.cuda.is_available() else "none here"
        raise UserError(
            f"device {str(device)!r} needs a GPU, and PyTorch sees {found}. In Colab choose Runtime > Change runtime "
            "type > T4 GPU; or leave out the device to run on the CPU."
        )
    try:
        torch.empty(0, device=device)
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        raise UserError(f"device {str(device)!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def output_names(model: Any) -> list[str | None]:
    """A name for each output of ``model``: its own, COCO's for a published 91-way head, else ``class 0``, ..."""
    if model.class_names is not None:
        return list(model.class_names)
    outputs = model.config.num_classes
    return list(COCO_OUTPUTS) if outputs == len(COCO_OUTPUTS) else [f"class {i}" for i in range(outputs)]


def locate(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of what :func:`load_model` takes, downloaded if need be. Raises ``UserError`` where there is none."""
    name = os.fspath(name_or_path).strip().strip("\"'").strip()
    path = Path(name).expanduser() if len(name) < 1000 and "\0" not in name else Path("?")
    if path.exists() or zoo.find(name):
        return zoo.fetch(name)
    if name == "dino-tiny":
        return DINO_TINY
    if path.suffix in zoo.ENDINGS and "://" not in name:
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"there is no checkpoint file {name}.{did_you_mean(path.name, beside)}")
    if did_you_mean(name, ["dino-tiny"]):  # no name of the zoo's
        raise UserError(f"there is no checkpoint {name!r}.{did_you_mean(name, ['dino-tiny', *zoo.names()])}")
    return zoo.fetch(name)
