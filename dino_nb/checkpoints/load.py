"""From a name or a path to a network in eval mode: what inference, evaluation and training all start from."""

import os
from pathlib import Path

import torch

from dino_nb.checkpoints import zoo
from dino_nb.checkpoints.files import load_checkpoint
from dino_nb.coco_classes import COCO_OUTPUTS
from dino_nb.errors import UserError, did_you_mean

DINO_TINY = Path(__file__).parent / "assets" / "dino_tiny.safetensors"


def load_model(name_or_path, device=None):
    """A ``DINO`` module in eval mode on ``device``.

    Args:
        name_or_path: a checkpoint file (this package's, or a published ``.pth``); ``"dino-tiny"``, a small network
            for trying things out that comes with the package; the name of a published checkpoint (``dino-nb zoo``
            lists them; downloaded once), or a Google Drive id or link of one.
        device: ``"cuda"``, ``"cuda:1"``, ``"cpu"``; None takes a GPU where there is one.

    Raises:
        UserError: no such file or name, a damaged checkpoint, or a device that is not there.
    """
    device = pick_device(device)  # before a download of hundreds of megabytes
    name = os.fspath(name_or_path)
    file = DINO_TINY if name == "dino-tiny" and not Path(name).exists() else _find(name)
    return load_checkpoint(file).eval().to(device)


def pick_device(device=None):
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


def _find(name):
    path = Path(name).expanduser()
    if path.is_dir():
        raise UserError(f"{name} is a folder: give the checkpoint file in it.")
    if path.exists():
        return path
    if path.suffix in (".pth", ".pt", ".safetensors") and "://" not in name and zoo.find(name) is None:
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"there is no checkpoint file {name}.{did_you_mean(path.name, beside)}")
    if zoo.find(name) is None and did_you_mean(name, ["dino-tiny"]):  # a name that the zoo does not know
        raise UserError(f"there is no checkpoint {name!r}.{did_you_mean(name, ['dino-tiny', *zoo.names()])}")
    return zoo.fetch(name)


def output_names(model):
    """A name for each output of ``model``: its own, COCO's for a published 91-way head, else ``class 0``, ..."""
    if model.class_names is not None:
        return list(model.class_names)
    outputs = model.config.num_classes
    return list(COCO_OUTPUTS) if outputs == len(COCO_OUTPUTS) else [f"class {i}" for i in range(outputs)]
