"""Our checkpoint files: self-describing, readable without running code, never half-written."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from dino_nb.checkpoints.official import load_official
from dino_nb.config import ModelConfig, apply_overrides
from dino_nb.errors import UserError, disk_errors
from dino_nb.files import atomic_path
from dino_nb.models.dino import DINO, build_model
from dino_nb.torch_file import check_whole, read_torch_file
from dino_nb.version import __version__

FORMAT = "dino_nb"


def save_checkpoint(path: str | Path, model: DINO, **extras: Any) -> Path:
    """Write ``model`` and what is needed to use it (config, class names, original ids, input size) to ``path``.

    Args:
        path: ends in ``.safetensors`` for that format (weights and description only), else a PyTorch file.
        model: the network, on any device.
        extras: plain values and tensors to keep beside: ``metrics``, ...; in a safetensors file what JSON can hold.
    """
    header = {"format": FORMAT, "version": __version__, **describe(model), **extras}
    return _write(Path(path), header, {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()})


def load_checkpoint(path: str | Path) -> DINO:
    """The model in a file of ours or a published one, in eval mode on the CPU."""
    content = _read(path)
    if content.get("format") == FORMAT:
        return model_from(content, path)
    return load_official(content, where=str(path))


def store_thresholds(path: str | Path, thresholds: dict[str, Any]) -> None:
    """Write ``thresholds`` (``{"overall": 0.4, "per_class": {"cat": 0.5}}``) into one of our files; all else stays.

    Raises:
        UserError: the file is a published one, which has no place for them.
    """
    content = _read(path)
    if content.get("format") != FORMAT:
        raise UserError(f"{path} has the published format, without a place for thresholds: `dino-nb export` it first.")
    weights = content.pop("model")
    _write(Path(path), {**content, "thresholds": thresholds}, weights)


def describe(model: DINO) -> dict[str, Any]:
    """What defines and names a model beside its weights, as plain values."""
    return {
        "config": dataclasses.asdict(model.config),
        "class_names": model.class_names,
        "category_ids": model.category_ids,
        "input_size": list(model.input_size),
        "thresholds": model.thresholds,
    }


def model_from(content: dict[str, Any], where: str | Path = "the checkpoint") -> DINO:
    """Build the model that a file of ours describes. The file may be anybody's: every part of it is checked."""
    config = read_config_of(content, where)
    weights = content.get("model")
    if not isinstance(weights, dict) or not any(isinstance(v, torch.Tensor) for v in weights.values()):
        raise UserError(f"{where} holds no weights: its 'model' is {_kind(weights)}.")
    check_whole(weights, where)
    try:
        with torch.device("meta"):  # takes no memory, whatever sizes a damaged file asks for
            build_model(config).load_state_dict({k: v.to("meta") for k, v in weights.items()})
        model = build_model(config)
        model.to(next(v.dtype for v in weights.values() if v.is_floating_point()))
        model.load_state_dict(weights)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except (RuntimeError, AttributeError, TypeError, StopIteration) as error:
        raise UserError(f"the weights in {where} do not fit its own configuration: {error}") from error
    if next(model.parameters()).dtype in (torch.float16, torch.bfloat16):
        model.float()  # small files hold half; what computes in half is chosen by the device, not by the file
    describe_as(model, content, where)
    return model.eval()


def read_config_of(content: dict[str, Any], where: str | Path) -> ModelConfig:
    """The ``ModelConfig`` in a file's description, checked."""
    given = content.get("config")
    if not isinstance(given, dict):
        raise UserError(f"{where} is not complete: its 'config' is {_kind(given)}. Save or download it again.")
    unknown = sorted(set(map(str, given)) - {f.name for f in dataclasses.fields(ModelConfig)})
    if unknown:
        raise UserError(
            f"{where} was written by dino_nb {content.get('version')} with settings that version {__version__} does "
            f"not know ({', '.join(unknown[:10])}): upgrade dino_nb."
        )
    try:
        return apply_overrides(ModelConfig(), given)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def describe_as(model: Any, content: dict[str, Any], where: str | Path) -> None:
    """Give ``model`` the names, ids and sizes that a file describes, where they are such."""
    count = model.config.num_classes
    names, ids, size = content.get("class_names"), content.get("category_ids"), content.get("input_size")
    if names is not None:
        if not _is_list_of(names, (str,), count):
            raise UserError(f"{where}: 'class_names' must be a list of {count} names, not {_kind(names)}.")
        model.class_names = list(names)
    if ids is not None:
        if not _is_list_of(ids, (int, str), count):
            raise UserError(f"{where}: 'category_ids' must be a list of {count} ids, not {_kind(ids)}.")
        model.category_ids = list(ids)
    if size is not None:
        sides = tuple(size) if isinstance(size, (list, tuple)) else ()
        if len(sides) != 2 or not all(type(s) is int and 16 <= s <= 10_000 for s in sides) or sides[0] > sides[1]:
            raise UserError(f"{where}: 'input_size' must be a short and a long side in pixels, not {size!r}.")
        model.input_size = sides
    thresholds = content.get("thresholds")
    model.thresholds = thresholds if isinstance(thresholds, dict) else None


def _is_list_of(value: Any, kinds: tuple[type, ...], count: int) -> bool:
    return (
        isinstance(value, (list, tuple)) and len(value) == count and all(v is None or type(v) in kinds for v in value)
    )


def _kind(value: Any) -> str:
    if isinstance(value, (list, tuple, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    return "missing" if value is None else f"a {type(value).__name__}"


def _read(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint file; the description of one of our safetensors files is beside its weights."""
    content = read_torch_file(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a checkpoint.")
    metadata = content.get("metadata")
    if not isinstance(metadata, dict) or FORMAT not in metadata:
        return content
    try:
        description = json.loads(metadata[FORMAT])
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged: its description is not JSON. Save or download it again.") from error
    if not isinstance(description, dict):
        raise UserError(f"{path} is damaged: its description is {_kind(description)}. Save or download it again.")
    return {**description, "model": content["model"]}


def _write(path: Path, header: dict[str, Any], weights: dict[str, torch.Tensor]) -> Path:
    with disk_errors(), atomic_path(path) as temporary:
        if path.suffix == ".safetensors":
            from safetensors.torch import save

            # `save_file` would make the file unreadable for others
            temporary.write_bytes(save(weights, metadata={FORMAT: json.dumps(header)}))
        else:
            torch.save({**header, "model": weights}, temporary)
    return path
