"""Published checkpoints into our model and back: the architecture is read off names and shapes."""

import torch

from dino_nb.checkpoints.names import official_names
from dino_nb.coco_classes import COCO_OUTPUTS
from dino_nb.config import ModelConfig, apply_overrides
from dino_nb.errors import UserError
from dino_nb.models.dino import build_model
from dino_nb.torch_file import read_torch_file

# embedding width and window of the published Swins, by name
_SWINS = {
    (96, 7): "swin_T_224_1k",
    (128, 7): "swin_B_224_22k",
    (128, 12): "swin_B_384_22k",
    (192, 7): "swin_L_224_22k",
    (192, 12): "swin_L_384_22k",
}
_RESNETS = {6: "resnet50", 23: "resnet101"}  # blocks of the third stage


def load_official(source, weights="model"):
    """A published checkpoint as our model, in eval mode, of the type that the file has.

    Args:
        source: a file, its content, or a state dict with the published names (``module.`` prefixes are removed).
        weights: ``"model"``, or ``"ema_model"`` for the averaged weights of a file that holds both.

    Raises:
        UserError: one message with every missing and unexpected name and wrong shape (five of each are shown).
    """
    content = source if isinstance(source, dict) else read_torch_file(source)
    where = "the state dict" if isinstance(source, dict) else str(source)
    state, args = _state_dict(content, weights, where)
    config = read_config(state, args, where)
    model = build_model(config)
    _fill(model, state, where)
    if config.num_classes == 91:
        model.class_names = list(COCO_OUTPUTS)
        model.category_ids = [i if name else None for i, name in enumerate(COCO_OUTPUTS)]
    return model.eval()


def export_official(model):
    """The model's state dict with the published names, shared heads repeated, as the original code loads it strictly.

    What :func:`load_official` read comes back with the same names and bits.
    """
    exported = {}
    loaded = getattr(model, "official_names", None)
    for name, tensor in _tensors(model).items():
        for published in official_names(name, model.config):
            if loaded is None or not _is_optional(published, model.config) or published in loaded:
                exported[published] = tensor.detach().clone()
    return exported


def read_config(state, args=None, where="the state dict"):
    """The ``ModelConfig`` of a published state dict.

    What shapes cannot tell (the number of heads, noise, temperatures) is taken from ``args``, a dict, and else as
    published.
    """
    args = {k: v for k, v in (args or {}).items() if v is not None}
    try:
        levels, hidden_dim = state["transformer.level_embed"].shape
        kernels = [state[f"input_proj.{i}.0.weight"].shape[-1] for i in range(levels)]
        num_classes = _first(state, "class_embed.0.weight", "transformer.decoder.class_embed.0.weight").shape[0]
        nheads = args.get("nheads", 8)
        points = {
            part: state[f"transformer.{part}.attention_weights.bias"].shape[0] // (levels * nheads)
            for part in ("encoder.layers.0.self_attn", "decoder.layers.0.cross_attn")
        }
        stages = tuple(range(4 - kernels.count(1), 4))
        config = ModelConfig(
            backbone=_backbone(state, args),
            num_classes=num_classes,
            num_feature_levels=levels,
            return_interm_indices=stages,
            hidden_dim=hidden_dim,
            nheads=nheads,
            enc_layers=_count(state, "transformer.encoder.layers."),
            dec_layers=_count(state, "transformer.decoder.layers."),
            dim_feedforward=state["transformer.encoder.layers.0.linear1.weight"].shape[0],
            enc_n_points=points["encoder.layers.0.self_attn"],
            dec_n_points=points["decoder.layers.0.cross_attn"],
            num_queries=state["transformer.tgt_embed.weight"].shape[0],
            dn_labelbook_size=state["label_enc.weight"].shape[0] - 1,
        )
    except KeyError as error:
        near = [k for k in state if error.args[0].rsplit(".", 1)[-1] in k][:3]
        raise UserError(
            f"{where} is not a DINO checkpoint: it has no {error.args[0]!r} among {len(state)} names"
            + (f" (names like it: {', '.join(near)})." if near else ".")
        ) from None
    told = ("num_select", "dn_number", "dn_box_noise_scale", "dn_label_noise_ratio")
    changes = {k: args[k] for k in told if k in args}
    if "pe_temperatureH" in args:
        changes["pe_temperature"] = args["pe_temperatureH"]
    return apply_overrides(config, changes)


def _state_dict(content, weights, where):
    """The tensors by published name, and the ``args`` as a dict where the file has them."""
    args = content.get("args")
    args = vars(args) if hasattr(args, "__dict__") else args if isinstance(args, dict) else {}
    state = content
    holds = [k for k in ("model", "ema_model", "state_dict") if isinstance(content.get(k), dict)]
    if holds:
        key = weights if weights in holds else None if weights == "ema_model" else holds[0]
        if key is None:
            raise UserError(f"{where} holds no averaged weights ('ema_model'), only {', '.join(holds)}.")
        state = content[key]
    state = {k.removeprefix("module."): v for k, v in state.items() if isinstance(v, torch.Tensor)}
    if not state:
        raise UserError(f"{where} holds no weights: neither tensors nor a 'model' with tensors.")
    return state, args


def _backbone(state, args):
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


def _known(table, key, what, args):
    if key not in table and not args.get("backbone"):
        raise UserError(f"the checkpoint has {what}, which is none of the published backbones.")
    return table.get(key) or args["backbone"]


def _fill(model, state, where):
    own = _tensors(model)
    model.to(state["transformer.level_embed"].dtype)
    wanted, missing, shapes, differing = {}, [], [], []
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
        differing += [n for n in present[1:] if not torch.equal(state[n], found)]
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
    model.load_state_dict(wanted, strict=False)
    model.official_names = frozenset(state)


def _listing(what, names):
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{len(names)} {what}: {', '.join(names[:5])}{more}"


def _tensors(model):
    """Parameters and buffers by our names, with the Swins' index tables: files hold them, timm computes them."""
    index = {k: v for k, v in model.named_buffers() if _is_index(k)}
    return {**model.state_dict(), **index}


def _is_index(name):
    return name.endswith("relative_position_index")


def _is_optional(published, config):
    """Written by some versions of the published code only: constants, and the norm of a stage that is not used."""
    unused_norm = published.startswith("backbone.0.norm0.") and 0 not in config.return_interm_indices
    return _is_index(published) or unused_norm


def _count(state, prefix):
    return len({k[len(prefix) :].split(".")[0] for k in state if k.startswith(prefix)})


def _first(state, *names):
    for name in names:
        if name in state:
            return state[name]
    raise KeyError(names[0])
