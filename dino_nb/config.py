"""What defines a network (``ModelConfig``) and the overrides that a user types (``key=value``)."""

import ast
import contextlib
import dataclasses
from dataclasses import dataclass

from dino_nb.errors import UserError, did_you_mean


@dataclass(frozen=True)
class ModelConfig:
    """DINO's network and losses. The defaults are the published 4-scale R50 model.

    Attributes:
        backbone: a published name (``resnet50``, ``swin_L_384_22k``, ...) or any timm name.
        num_classes: outputs of the class heads; label ``i`` of a target is output ``i``.
        num_feature_levels: levels that the encoder sees; those beyond ``return_interm_indices`` are made by
            stride-2 convolutions on the last backbone map.
        return_interm_indices: backbone stages in use, 0..3 for strides 4, 8, 16, 32.
        num_queries, num_select: decoder queries, and detections kept a picture.
        proposal_nms: 0, or the overlap above which a query that starts where a better one does gives way to the next
            best distinct one (arXiv 2303.12776). Not in the published models; a network that starts from scratch on
            few pictures learns much faster so, since keeping to one detection an object takes it longest to learn.
        pe_temperature: of the sine position embedding, both axes.
        dn_number: denoising queries a kind: ``2 * dn_number // (2 * largest object count)`` groups, at least 1.
        dn_max_objects: objects of one picture that take part in denoising; above it a random subset does, so that
            groups x objects never exceeds ``max(dn_number, dn_max_objects)``. Up to it nothing differs from the paper.
        dn_labelbook_size: rows of the label embedding less one.
        focal_alpha, focal_gamma: of the focal loss and the matcher's class cost.
        set_cost_*, *_loss_coef: matcher costs and loss weights (section 4 of the paper's appendix).
    """

    backbone: str = "resnet50"
    num_classes: int = 91
    num_feature_levels: int = 4
    return_interm_indices: tuple = (1, 2, 3)
    hidden_dim: int = 256
    nheads: int = 8
    enc_layers: int = 6
    dec_layers: int = 6
    dim_feedforward: int = 2048
    enc_n_points: int = 4
    dec_n_points: int = 4
    num_queries: int = 900
    num_select: int = 300
    dropout: float = 0.0
    drop_path: float = 0.2
    proposal_nms: float = 0.0
    pe_temperature: float = 20.0
    dn_number: int = 100
    dn_max_objects: int = 300
    dn_box_noise_scale: float = 1.0
    dn_label_noise_ratio: float = 0.5
    dn_labelbook_size: int = 91
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    set_cost_class: float = 2.0
    set_cost_bbox: float = 5.0
    set_cost_giou: float = 2.0
    cls_loss_coef: float = 1.0
    bbox_loss_coef: float = 5.0
    giou_loss_coef: float = 2.0

    def __post_init__(self):
        object.__setattr__(self, "return_interm_indices", tuple(self.return_interm_indices))
        stages = self.return_interm_indices
        if not stages or list(stages) != sorted(set(stages)) or not set(stages) <= {0, 1, 2, 3}:
            raise UserError(f"return_interm_indices must be rising numbers of 0..3, not {stages}.")
        if self.num_feature_levels < len(stages):
            raise UserError(
                f"num_feature_levels={self.num_feature_levels} is less than the {len(stages)} backbone stages "
                f"{stages} in use: raise it or shorten return_interm_indices."
            )
        if self.hidden_dim % (4 * self.nheads) or self.hidden_dim % 32:
            raise UserError(f"hidden_dim={self.hidden_dim} must be a multiple of 32 and of 4 x nheads={self.nheads}.")
        if self.dn_labelbook_size + 1 < self.num_classes:
            raise UserError(
                f"dn_labelbook_size={self.dn_labelbook_size} is too small for num_classes={self.num_classes}: "
                f"set it to {self.num_classes} (or leave it to the data set)."
            )


_SWIN_L = {"backbone": "swin_L_384_22k"}
_FIVE_SCALES = {"num_feature_levels": 5, "return_interm_indices": (0, 1, 2, 3)}

# The published configuration files by name, and two that learn few pictures from random weights: one that a CPU trains
# in an hour or so, and that of the demo and the tests.
PRESETS = {
    "DINO_4scale": ModelConfig(),
    "DINO_5scale": ModelConfig(**_FIVE_SCALES),
    "DINO_4scale_swin": ModelConfig(**_SWIN_L),
    "DINO_5scale_swin": ModelConfig(**_SWIN_L, **_FIVE_SCALES),
    "DINO_4scale_convnext": ModelConfig(backbone="convnext_xlarge_22k"),
    "dino-small": ModelConfig(
        backbone="tf_efficientnet_lite0",
        hidden_dim=128,
        enc_layers=2,
        dec_layers=4,
        dim_feedforward=512,
        num_queries=100,
        num_select=100,
        drop_path=0.0,
        proposal_nms=0.7,
        cls_loss_coef=2.0,
    ),
    "dino-tiny": ModelConfig(
        backbone="test_convnext",
        num_feature_levels=2,
        return_interm_indices=(1, 2),
        hidden_dim=64,
        nheads=4,
        enc_layers=2,
        dec_layers=3,
        dim_feedforward=128,
        num_queries=20,
        num_select=60,
        drop_path=0.0,
        proposal_nms=0.5,
        dn_number=30,
        dn_box_noise_scale=0.4,
        cls_loss_coef=2.0,
    ),
}


def preset(name):
    """A ``ModelConfig`` by preset name; ``.py`` endings and folders of the published spelling are ignored."""
    key = str(name).replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".py")
    if key not in PRESETS:
        raise UserError(f"there is no configuration {name!r}.{did_you_mean(key, PRESETS)} Known: {', '.join(PRESETS)}.")
    return PRESETS[key]


def apply_overrides(config, options):
    """A copy of dataclass ``config`` with ``options`` (a dict, or strings ``key=value``) applied.

    Values are read as Python literals where they are ones and converted to the field's type; an unknown key or a
    value of the wrong type is an error that names the nearest field.
    """
    if not isinstance(options, dict):
        pairs = [option.partition("=") for option in options or ()]
        for key, equals, _ in pairs:
            if not equals:
                raise UserError(f"an option must be key=value, not {key!r}.")
        options = {key.strip(): value.strip() for key, _, value in pairs}
    fields = {f.name: f for f in dataclasses.fields(config)}
    changes = {}
    for key, value in options.items():
        if key not in fields:
            raise UserError(f"there is no option {key!r} in {type(config).__name__}.{did_you_mean(key, fields)}")
        changes[key] = _convert(key, value, getattr(config, key))
    return dataclasses.replace(config, **changes)


def _convert(key, value, current):
    if isinstance(value, str) and not isinstance(current, str):
        # what is no literal is left a string, and reported below
        with contextlib.suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            value = ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(value.lower(), value))
    if isinstance(current, tuple):
        kinds = {type(item) for item in current} or {int, float, str}
        if str in kinds and isinstance(value, str) and value:  # names without quotes: frozen=backbone,encoder
            value = tuple(word.strip() for word in value.split(","))
        ok = isinstance(value, (list, tuple)) and all(type(item) in kinds for item in value)
        value = tuple(value) if ok else value
    elif isinstance(current, bool):
        ok = isinstance(value, bool)
    elif isinstance(current, float):
        ok = isinstance(value, (int, float)) and not isinstance(value, bool)
        value = float(value) if ok else value
    else:
        ok = isinstance(value, type(current)) and not isinstance(value, bool)
    if not ok:
        raise UserError(f"option {key} takes a {type(current).__name__}, not {value!r}.")
    return value


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained. The defaults are the published 12-epoch recipe.

    Attributes:
        model: the ``ModelConfig`` preset of a run from scratch (a checkpoint brings its own architecture).
        epochs: passes over the training pictures.
        steps: optimiser steps of the whole run; 0: ``epochs`` and what is below hold as they are. Otherwise epochs,
            batch size, rates, warm-up, evaluations and averaging follow from it and from the number of training images
            (``dino_nb.training.recipe``), except those that are given.
        batch_size: pictures an optimiser step, over all processes and micro-batches together.
        lr, lr_backbone: learning rates of the network and of its backbone.
        weight_decay, clip_max_norm: AdamW's decay; the gradient norm that is clipped to (0: no clipping).
        schedule: ``step`` (drops at ``lr_drop``), ``cosine`` (to 1 % of the rate at the end) or ``constant``.
        lr_drop: epochs after which the rate falls tenfold; several make it a multi-step schedule.
        warmup_steps: optimiser steps in which the rate rises linearly from 0.
        ema, ema_decay: keep a running average of the weights, and evaluate and ship that.
        patience: epochs without a better AP after which training ends early (0: never).
        frozen: parts that are not trained, by substrings of parameter names, e.g. ``("backbone",)``.
        seed: of initialisation, data order, augmentation and denoising.
        amp: ``auto`` (what the device is good at), ``fp32``, ``fp16`` or ``bf16``.
        micro_batch: pictures a forward pass; 0 lets the memory planner choose.
        grad_checkpointing: what is recomputed in the backward pass: ``auto`` (planner), ``none``, ``transformer``, ``all``.
        aspect_groups: batches of similar aspect ratio (less padding, slightly less random).
        num_workers: loader processes; 0 loads in the training process.
        size, max_size: short side of evaluation (training draws sizes up to it) and longest long side, in pixels;
            0 stands for what the checkpoint was made with, 800 and 1333 for a new model.
        eval_every: epochs from one evaluation to the next; the last epoch is always evaluated.
        eval_split: the split that is scored and that chooses the best epoch.
        save_minutes: minutes from one saved training state to the next, besides every epoch's end.
        max_nonfinite: steps in a row with a non-finite loss that stop the run.
    """

    model: str = "DINO_4scale"
    epochs: int = 12
    steps: int = 0
    batch_size: int = 16
    lr: float = 1e-4
    lr_backbone: float = 1e-5
    weight_decay: float = 1e-4
    clip_max_norm: float = 0.1
    schedule: str = "step"
    lr_drop: tuple = (11,)
    warmup_steps: int = 0
    ema: bool = False
    ema_decay: float = 0.9997
    patience: int = 0
    frozen: tuple = ()
    seed: int = 42
    amp: str = "auto"
    micro_batch: int = 0
    grad_checkpointing: str = "auto"
    aspect_groups: bool = False
    num_workers: int = 2
    size: int = 0
    max_size: int = 0
    eval_every: int = 1
    eval_split: str = "val"
    save_minutes: float = 10.0
    max_nonfinite: int = 20

    def __post_init__(self):
        for name in ("lr_drop", "frozen"):
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, (list, tuple)) else (value,))
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                near = did_you_mean(getattr(self, name), allowed)
                raise UserError(f"{name}={getattr(self, name)!r} is not one of {', '.join(allowed)}.{near}")
        for name in ("epochs", "batch_size", "eval_every", "max_nonfinite"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if bool(self.size) != bool(self.max_size) or self.max_size < self.size or self.size < 0:
            raise UserError(
                f"size={self.size} and max_size={self.max_size} must be a short and a long side, or both 0."
            )


_CHOICES = {
    "schedule": ("step", "cosine", "constant"),
    "amp": ("auto", "fp32", "fp16", "bf16"),
    "grad_checkpointing": ("auto", "none", "transformer", "all"),
}

# The published recipes: the rate drops tenfold once, after epoch 11, 20 or 30 of 12, 24 or 36.
_MODEL_OF = {
    "4scale-r50": "DINO_4scale",
    "5scale-r50": "DINO_5scale",
    "4scale-swinl": "DINO_4scale_swin",
    "5scale-swinl": "DINO_5scale_swin",
}
TRAIN_PRESETS = {
    f"{arch}-{epochs}ep": TrainConfig(model=model, epochs=epochs, lr_drop=(drop,))
    for arch, model in _MODEL_OF.items()
    for epochs, drop in ((12, 11), (24, 20), (36, 30))
}
# A checkpoint on a few hundred pictures: more passes, a gentle start for the new class rows, averaged weights.
_FINETUNE = {"epochs": 30, "schedule": "cosine", "warmup_steps": 100, "ema": True, "ema_decay": 0.998, "patience": 10}
TRAIN_PRESETS["finetune"] = TrainConfig(**_FINETUNE)
# The same, as long as its data set needs: sized in optimiser steps instead of epochs.
TRAIN_PRESETS["steps"] = TrainConfig(steps=4000, schedule="cosine", ema=True)
# The same within the 15 GB, 12 hours and 2 processors of a free Colab T4.
TRAIN_PRESETS["t4"] = TrainConfig(**_FINETUNE, amp="fp16", aspect_groups=True, size=736, max_size=1226)
# dino-small from an ImageNet backbone on a few hundred pictures; the first stages stay as they are, as published.
TRAIN_PRESETS["small"] = TrainConfig(
    model="dino-small",
    epochs=80,
    batch_size=4,
    lr=4e-4,
    lr_backbone=1e-4,
    schedule="cosine",
    warmup_steps=100,
    ema=True,
    ema_decay=0.99,
    frozen=("conv_stem", "blocks.0", "blocks.1"),
    size=320,
    max_size=534,
    eval_every=4,
)
# dino-tiny on pictures of some hundred pixels, on a CPU in minutes.
TRAIN_PRESETS["tiny"] = TrainConfig(
    model="dino-tiny",
    epochs=24,
    batch_size=4,
    lr=1e-3,
    lr_backbone=1e-3,
    clip_max_norm=1.0,
    schedule="cosine",
    warmup_steps=50,
    ema=True,
    ema_decay=0.99,
    amp="fp32",
    micro_batch=4,
    grad_checkpointing="none",
    num_workers=0,
    size=160,
    max_size=266,
)
# The dino-tiny that comes with the package, a little further: a gentle rate keeps what it has learned.
TRAIN_PRESETS["tiny-finetune"] = dataclasses.replace(
    TRAIN_PRESETS["tiny"], epochs=4, lr=3e-5, lr_backbone=3e-5, warmup_steps=20
)


def train_preset(name):
    """A ``TrainConfig`` by name; a zoo checkpoint's name (``dino-4scale-r50-12ep``) gives the recipe it was made by."""
    key = str(name).removeprefix("dino-")
    if key not in TRAIN_PRESETS:
        near = did_you_mean(key, TRAIN_PRESETS)
        raise UserError(f"there is no training preset {name!r}.{near} Known: {', '.join(TRAIN_PRESETS)}.")
    return TRAIN_PRESETS[key]
