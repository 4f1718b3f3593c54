"""Our checkpoint files: self-describing, readable without running code, never half-written."""

import dataclasses
import json
from pathlib import Path

import torch

from dino_nb.checkpoints.official import load_official
from dino_nb.config import ModelConfig, apply_overrides
from dino_nb.errors import UserError
from dino_nb.files import atomic_path
from dino_nb.models.dino import build_model
from dino_nb.torch_file import read_torch_file
from dino_nb.version import __version__

FORMAT = "dino_nb"


def save_checkpoint(path, model, **extras):
    """Write ``model`` and what is needed to use it (config, class names, original ids, input size) to ``path``.

    Args:
        path: ends in ``.safetensors`` for that format (weights and description only), else a PyTorch file.
        extras: plain values and tensors to keep beside: ``metrics``, ``optimizer``, ...; in a safetensors file only
            what JSON can hold.
    """
    path = Path(path)
    header = {"format": FORMAT, "version": __version__, **describe(model)}
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    with atomic_path(path) as temporary:
        if path.suffix == ".safetensors":
            from safetensors.torch import save

            # `save_file` would make the file unreadable for others
            temporary.write_bytes(save(weights, metadata={FORMAT: json.dumps({**header, **extras})}))
        else:
            torch.save({**header, "model": weights, **extras}, temporary)
    return path


def load_checkpoint(path):
    """The model in a file of ours or a published one, in eval mode on the CPU."""
    content = read_checkpoint(path)
    if content.get("format") != FORMAT:
        return load_official(content) if isinstance(content, dict) else load_official(path)
    return model_from(content, path)


def read_checkpoint(path):
    """The content of a file as a dict; of our safetensors files too: ``model`` and the description beside it."""
    content = read_torch_file(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a checkpoint.")
    if FORMAT in content.get("metadata", {}):
        content = {**json.loads(content["metadata"][FORMAT]), "model": content["model"]}
    return content


def describe(model):
    """What defines and names a model beside its weights, as plain values."""
    return {
        "config": dataclasses.asdict(model.config),
        "class_names": model.class_names,
        "category_ids": model.category_ids,
        "input_size": list(model.input_size),
    }


def model_from(content, where="the checkpoint"):
    """Build the model that :func:`read_checkpoint` returned the content of."""
    fields = {f.name for f in dataclasses.fields(ModelConfig)}
    unknown = sorted(set(content["config"]) - fields)
    if unknown:
        raise UserError(
            f"{where} was written by dino_nb {content.get('version')} with settings that version {__version__} does "
            f"not know ({', '.join(unknown)}): upgrade dino_nb."
        )
    model = build_model(apply_overrides(ModelConfig(), content["config"]))
    weights = content["model"]
    model.to(next(v.dtype for v in weights.values() if v.is_floating_point()))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"the weights in {where} do not fit its own configuration: {error}") from error
    if next(model.parameters()).dtype in (torch.float16, torch.bfloat16):
        model.float()  # small files hold half; what computes in half is chosen by the device, not by the file
    model.class_names = content.get("class_names")
    model.category_ids = content.get("category_ids")
    model.input_size = tuple(content.get("input_size", model.input_size))
    return model.eval()
