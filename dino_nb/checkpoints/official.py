"""Published checkpoints into our model and back: the architecture is read off names and shapes."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dino_nb.checkpoints import zoo
from dino_nb.coco_classes import COCO_OUTPUTS
from dino_nb.config import ModelConfig, apply_overrides
from dino_nb.errors import UserError
from dino_nb.models.dino import DINO, build_model
from dino_nb.torch_file import check_whole, read_torch_file

# embedding width and window of the published Swins, by name
_SWINS = {
    (96, 7): "swin_T_224_1k",
    (128, 7): "swin_B_224_22k",
    (128, 12): "swin_B_384_22k",
    (192, 7): "swin_L_224_22k",
    (192, 12): "swin_L_384_22k",
}
_RESNETS = {6: "resnet50", 23: "resnet101"}  # blocks of the third stage

_HEADS = {"class_embed", "bbox_embed"}
# A name that only the same detector of another project has. There each decoder layer has heads of its own, so no
# renaming makes such a file this network.
_ELSEWHERE = {"bbox_head.cls_branches.0.weight": "mmdetection", "transformer.level_embeds": "detrex"}

# (ours, published); the first rule whose left side matches is used
_TRANSFORMER: list[tuple[str, Any]] = [
    (r"^level_embed$", "transformer.level_embed"),
    (r"^encoder\.", "transformer.encoder."),
    (r"^decoder\.", "transformer.decoder."),
    (r"^tgt_embed\.", "transformer.tgt_embed."),
    (r"^query_selection\.enc_output", "transformer.enc_output"),
    (r"^query_selection\.(class|bbox)_embed\.", r"transformer.enc_out_\1_embed."),
    (r"^input_proj\.", "input_proj."),
    (r"^label_enc\.", "label_enc."),
    (r"^backbone\.norms\.(\d)\.", r"backbone.0.norm\1."),
]
_SWIN: list[tuple[str, Any]] = [
    (r"^backbone\.body\.patch_embed\.", "backbone.0.patch_embed."),
    # timm merges patches at the start of a stage, the published code at the end of the one before
    (r"^backbone\.body\.layers_(\d)\.downsample\.", lambda m: f"backbone.0.layers.{int(m[1]) - 1}.downsample."),
    (r"^backbone\.body\.layers_(\d)\.", r"backbone.0.layers.\1."),
]
_CONVNEXT: list[tuple[str, Any]] = [
    (r"^backbone\.body\.stem_(\d)\.", r"backbone.0.downsample_layers.0.\1."),
    (r"^backbone\.body\.stages_(\d)\.downsample\.", r"backbone.0.downsample_layers.\1."),
    (r"^backbone\.body\.stages_(\d)\.blocks\.(\d+)\.conv_dw\.", r"backbone.0.stages.\1.\2.dwconv."),
    (r"^backbone\.body\.stages_(\d)\.blocks\.(\d+)\.mlp\.fc(\d)\.", r"backbone.0.stages.\1.\2.pwconv\3."),
    (r"^backbone\.body\.stages_(\d)\.blocks\.(\d+)\.", r"backbone.0.stages.\1.\2."),
]
_OTHER: list[tuple[str, Any]] = [(r"^backbone\.body\.", "backbone.0.body.")]


def load_official(source: str | Path | Mapping[str, Any], weights: str = "model", where: str | None = None) -> DINO:
    """A published checkpoint as our model, in eval mode, of the type that the file has.

    Args:
        source: a file, a name that the zoo lists, a file's content, or a state dict with the published names
            (``module.`` prefixes are removed).
        weights: ``"model"``, or ``"ema_model"`` for the averaged weights of a file that holds both.
        where: what messages call it.

    Raises:
        UserError: one message with every missing and unexpected name and wrong shape (five of each are shown), or
            the name of the project, mmdetection or detrex, whose DINO it is: theirs differ from the published one.
    """
    model = getattr(source, "model", source)
    if isinstance(model, DINO):  # of a Detector, or the module itself
        return model.eval()
    if isinstance(source, (str, os.PathLike)):
        path = zoo.fetch(source)
        source, where = read_torch_file(path), where or str(path)
    where = where or "the state dict"
    if not isinstance(source, Mapping):
        raise UserError(f"{where} holds a {type(source).__name__}, not a checkpoint.")
    if source.get("format") == "dino_nb" or "dino_nb" in (source.get("metadata") or ()):
        raise UserError(f"{where} is a checkpoint of this package, without published names: use dino_nb.load.")
    state, args = _state_dict(source, weights, where)
    if project := next((project for name, project in _ELSEWHERE.items() if name in state), None):
        raise UserError(
            f"{where} is a DINO of {project}. Each of its decoder layers has heads of its own, and the layers here "
            "share one, as published: its weights fit no network of this package. Start from a published checkpoint "
            "(dino-nb zoo lists them)."
        )
    check_whole(state, where)
    config = read_config(state, args, where)
    with torch.device("meta"):  # takes no memory, whatever sizes a damaged file asks for
        _fill(build_model(config), state, where)
    model = build_model(config)
    model.to(state["transformer.level_embed"].dtype)
    model.load_state_dict(_fill(model, state, where), strict=False)
    model.official_names = frozenset(state)
    if config.num_classes == 91:
        model.class_names = list(COCO_OUTPUTS)
        model.category_ids = [i if name else None for i, name in enumerate(COCO_OUTPUTS)]
    return model.eval()


def published_state(model: DINO) -> dict[str, torch.Tensor]:
    """The model's state dict with the published names, shared heads repeated, as the original code loads it strictly.

    What :func:`load_official` read comes back with the same names and bits.
    """
    exported = {}
    loaded = model.official_names
    for name, tensor in _tensors(model).items():
        for published in official_names(name, model.config):
            if loaded is None or not _is_optional(published, model.config) or published in loaded:
                exported[published] = tensor.detach().clone()
    return exported


def official_names(name: str, config: ModelConfig) -> list[str]:
    """The published names (one, or one per place that shares the tensor) of our parameter or buffer ``name``."""
    head, _, rest = name.partition(".")
    if head in _HEADS:
        owners = ("transformer.decoder.", "")
        return [f"{owner}{head}.{i}.{rest}" for owner in owners for i in range(config.dec_layers)]
    # "swin_tiny_patch4..." and "convnext_tiny" are timm's names, kept as timm has them
    is_published = re.fullmatch(r"swin_[TBL]_\d+_\d+k|convnext_xlarge_22k", config.backbone)
    family = {"swin": _SWIN, "conv": _CONVNEXT}.get(config.backbone[:4] if is_published else "", _OTHER)
    for ours, published in _TRANSFORMER + family:
        renamed, count = re.subn(ours, published, name)
        if count:
            return [renamed]
    raise KeyError(name)


def read_config(
    state: Mapping[str, torch.Tensor], args: Mapping[str, Any] | None = None, where: str = "the state dict"
) -> ModelConfig:
    """The ``ModelConfig`` of a published state dict.

    What shapes cannot tell (the number of heads, noise, temperatures) is taken from ``args``, a dict, and else as
    published.
    """
    args = {k: v for k, v in (args or {}).items() if v is not None}
    try:
        return _read_config(state, args)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except KeyError as error:
        near = [k for k in state if str(error.args[0]).rsplit(".", 1)[-1] in k][:3]
        raise UserError(
            f"{where} is not a DINO checkpoint: it has no {error.args[0]!r} among {len(state)} names"
            + (f" (names like it: {', '.join(near)})." if near else ".")
        ) from None
    except (ValueError, IndexError, TypeError, ZeroDivisionError, OverflowError) as error:
        raise UserError(f"{where} is not a DINO checkpoint: its tensors do not have DINO's shapes.") from error


def _read_config(state: Mapping[str, torch.Tensor], args: Mapping[str, Any]) -> ModelConfig:
    levels, hidden_dim = state["transformer.level_embed"].shape
    kernels = [state[f"input_proj.{i}.0.weight"].shape[-1] for i in range(levels)]
    nheads = args.get("nheads", 8)
    if type(nheads) is not int or not 1 <= nheads <= 64:
        raise UserError(f"its args have nheads={nheads!r}, which must be between 1 and 64.")
    points = [
        state[f"transformer.{part}.attention_weights.bias"].shape[0] // (levels * nheads)
        for part in ("encoder.layers.0.self_attn", "decoder.layers.0.cross_attn")
    ]
    config = ModelConfig(
        backbone=_backbone(state, args),
        num_classes=_first(state, "class_embed.0.weight", "transformer.decoder.class_embed.0.weight").shape[0],
        num_feature_levels=levels,
        return_interm_indices=tuple(range(4 - kernels.count(1), 4)),
        hidden_dim=hidden_dim,
        nheads=nheads,
        enc_layers=_count(state, "transformer.encoder.layers."),
        dec_layers=_count(state, "transformer.decoder.layers."),
        dim_feedforward=state["transformer.encoder.layers.0.linear1.weight"].shape[0],
        enc_n_points=points[0],
        dec_n_points=points[1],
        num_queries=state["transformer.tgt_embed.weight"].shape[0],
        dn_labelbook_size=state["label_enc.weight"].shape[0] - 1,
    )
    in_args = ("num_select", "dn_number", "dn_box_noise_scale", "dn_label_noise_ratio")
    changes = {k: args[k] for k in in_args if k in args}
    if "pe_temperatureH" in args:
        changes["pe_temperature"] = args["pe_temperatureH"]
    return apply_overrides(config, changes)


def _state_dict(content: Mapping[str, Any], weights: str, where: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors by published name, and the ``args`` as a dict where the file has them."""
    args = content.get("args")
    args = vars(args) if hasattr(args, "__dict__") else args if isinstance(args, dict) else {}
    args = {key: value for key, value in args.items() if isinstance(key, str)}
    state = content
    holds = [k for k in ("model", "ema_model", "state_dict") if isinstance(content.get(k), dict)]
    if holds:
        key = weights if weights in holds else None if weights == "ema_model" else holds[0]
        if key is None:
            raise UserError(f"{where} holds no averaged weights ('ema_model'), only {', '.join(holds)}.")
        state = content[key]
    state = {
        k.removeprefix("module."): v for k, v in state.items() if isinstance(k, str) and isinstance(v, torch.Tensor)
    }
    if not state:
        raise UserError(f"{where} holds no weights: neither tensors nor a 'model' with tensors.")
    return state, args


def _backbone(state: Mapping[str, torch.Tensor], args: Mapping[str, Any]) -> str:
    if "backbone.0.patch_embed.proj.weight" in state:
        width = state["backbone.0.patch_embed.proj.weight"].shape[0]
        table = state["backbone.0.layers.0.blocks.0.attn.relative_position_bias_table"].shape[0]
        window = (round(table**0.5) + 1) // 2
        return _known(_SWINS, (width, window), f"a Swin of width {width} and window {window}", args)
    if "backbone.0.downsample_layers.0.0.weight" in state:
        width = state["backbone.0.downsample_layers.0.0.weight"].shape[0]
        return _known({256: "convnext_xlarge_22k"}, width, f"a ConvNeXt of width {width}", args)
    if "backbone.0.body.layer1.0.conv3.weight" in state:
        blocks = _count(state, "backbone.0.body.layer3.")
        return _known(_RESNETS, blocks, f"a ResNet with {blocks} blocks in layer3", args)
    return _known({}, None, "a backbone with names of another family", args)


def _known(table: Mapping[Any, str], key: Any, what: str, args: Mapping[str, Any]) -> str:
    if key not in table and not args.get("backbone"):
        raise UserError(f"the checkpoint has {what}, which is none of the published backbones.")
    return table.get(key) or args["backbone"]


def _fill(model: DINO, state: Mapping[str, torch.Tensor], where: str) -> dict[str, torch.Tensor]:
    """``state`` with our names; a ``UserError`` that lists all that does not fit ``model``."""
    own = _tensors(model)
    wanted: dict[str, torch.Tensor] = {}
    missing, shapes, differing = list[str](), list[str](), list[str]()
    for name, tensor in own.items():
        names = official_names(name, model.config)
        present = [n for n in names if n in state]
        if not present:
            missing += [] if _is_optional(names[0], model.config) else names[:1]
            continue
        found = state[present[0]]
        if found.shape != tensor.shape:
            shapes.append(f"{present[0]} is {tuple(found.shape)}, not {tuple(tensor.shape)}")
            continue
        differing += [n for n in present[1:] if not found.is_meta and not torch.equal(state[n], found)]
        if not _is_index(name):
            wanted[name] = found
    known = {n for name in own for n in official_names(name, model.config)}
    unexpected = [n for n in state if n not in known and not n.endswith("num_batches_tracked")]
    problems = [
        ("missing", missing),
        ("unexpected", unexpected),
        ("of the wrong shape", shapes),
        ("unlike the other layers' (decoder layers here share one head)", differing),
    ]
    if text := "; ".join(_listing(what, names) for what, names in problems if names):
        raise UserError(f"{where} does not fit the architecture that it implies ({model.config.backbone}): {text}.")
    return wanted


def _listing(what: str, names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{len(names)} {what}: {', '.join(names[:5])}{more}"


def _tensors(model: DINO) -> dict[str, torch.Tensor]:
    """Parameters and buffers by our names, with the Swins' index tables: files hold them, timm computes them."""
    index = {k: v for k, v in model.named_buffers() if _is_index(k)}
    return {**model.state_dict(), **index}


def _is_index(name: str) -> bool:
    return name.endswith("relative_position_index")


def _is_optional(published: str, config: ModelConfig) -> bool:
    """Written by some versions of the published code only: constants, and the norm of a stage that is not used."""
    unused_norm = published.startswith("backbone.0.norm0.") and 0 not in config.return_interm_indices
    return _is_index(published) or unused_norm


def _count(state: Mapping[str, torch.Tensor], prefix: str) -> int:
    return len({k[len(prefix) :].split(".")[0] for k in state if k.startswith(prefix)})


def _first(state: Mapping[str, torch.Tensor], *names: str) -> torch.Tensor:
    for name in names:
        if name in state:
            return state[name]
    raise KeyError(names[0])
