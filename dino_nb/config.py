"""What defines a network (``ModelConfig``) and how it is trained (``TrainConfig``), both checked when they are made."""

import ast
import contextlib
import dataclasses
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from dino_nb.errors import UserError, did_you_mean

Config = TypeVar("Config", "ModelConfig", "TrainConfig")


@dataclass(frozen=True)
class ModelConfig:
    """DINO's network and losses. The defaults are the published 4-scale R50 model.

    Attributes:
        backbone: a published name (``resnet50``, ``swin_L_384_22k``, ...) or the name of a timm model.
        num_classes: outputs of the class heads; label ``i`` of a target is output ``i``.
        num_feature_levels: levels that the encoder sees; those beyond ``return_interm_indices`` are made by
            stride-2 convolutions on the last backbone map.
        return_interm_indices: backbone stages in use, 0..3 for strides 4, 8, 16, 32.
        hidden_dim, nheads, enc_layers, dec_layers, dim_feedforward: the transformer.
        enc_n_points, dec_n_points: sampling points per head and level of the deformable attention.
        num_queries: decoder queries per image.
        num_select: detections kept per image.
        dropout, drop_path: dropout of the transformer, stochastic depth of the published Swin and ConvNeXt.
        proposal_nms: GIoU threshold for removing near-duplicate query proposals (arXiv 2303.12776); 0 turns it off (as
            published). It speeds up training from scratch on few images.
        pe_temperature: temperature of the sine position embedding, both axes.
        dn_number: sets the number of denoising groups: ``2 * dn_number // (2 * most objects in an image)``, at least 1;
            0 turns denoising off.
        dn_max_objects: most objects per image that take part in denoising. An image with more uses a random subset, so
            groups x objects never exceeds ``max(dn_number, dn_max_objects)``. Not in the paper.
        dn_box_noise_scale, dn_label_noise_ratio: strength of the noise on boxes, share of labels with noise.
        dn_labelbook_size: rows of the label embedding, minus one.
        focal_alpha, focal_gamma: of the focal loss and of the matcher's class cost.
        iou_target: the class target of a matched query is the IoU of its box instead of 1 (varifocal loss, arXiv
            2008.13367; scores then rank boxes by their fit). Not in the published models.
        set_cost_*, *_loss_coef: weights of the matching costs and of the losses (appendix of the paper).
    """

    backbone: str = "resnet50"
    num_classes: int = 91
    num_feature_levels: int = 4
    return_interm_indices: tuple[int, ...] = (1, 2, 3)
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
    iou_target: bool = False
    set_cost_class: float = 2.0
    set_cost_bbox: float = 5.0
    set_cost_giou: float = 2.0
    cls_loss_coef: float = 1.0
    bbox_loss_coef: float = 5.0
    giou_loss_coef: float = 2.0

    def __post_init__(self) -> None:
        if not isinstance(self.backbone, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", self.backbone):
            raise UserError(f"backbone must be a published name or the name of a timm model, not {self.backbone!r}.")
        _check_ranges(self)
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


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained. The defaults are the published 12-epoch recipe.

    Attributes:
        model: the ``ModelConfig`` preset of a run from scratch (a checkpoint brings its own architecture).
        epochs: passes over the training images.
        steps: optimiser steps of the whole run; 0: ``epochs`` and what is below hold as they are. Otherwise epochs,
            batch size, rates, warm-up, evaluations and averaging follow from it and from the number of training images
            (``dino_nb.training.recipe``), except those that are given.
        batch_size: images per optimiser step, over all processes and micro-batches together.
        lr, lr_backbone: learning rates of the network and of its backbone.
        sampling_lr: factor of the rates of ``sampling_offsets`` and ``reference_points`` (Deformable DETR: 0.1).
        layer_decay: factor of the backbone's rate from one of its stages to the one before (1: none, as published).
        decay_norms: weight decay on norms and biases too, as published.
        weight_decay, clip_max_norm: AdamW's decay; the gradient norm that is clipped to (0: no clipping).
        schedule: ``step`` (drops at ``lr_drop``), ``cosine`` (to 1 % of the rate at the end) or ``constant``.
        lr_drop: epochs after which the rate falls tenfold; several make it a multi-step schedule.
        warmup_steps: optimiser steps in which the rate rises linearly from 0.
        ema, ema_decay: keep a running average of the weights, and evaluate and ship that.
        patience: evaluations without a better AP after which training ends early (0: never).
        frozen: parts that are not trained, by substrings of parameter names, e.g. ``("backbone",)``.
        augment: ``published``, ``light``, ``strong``, ``aerial``, or names of single steps (``dino_nb.data.augment``).
        augment_off: share of the run at its end that has the published augmentation alone.
        repeat_rare: repeat images of classes that are in less than this share of the images (LVIS; 0: off).
        empty_share: largest share of images without objects in an epoch (1: all of them).
        seed: of initialisation, data order, augmentation and denoising.
        amp: ``auto`` (what the device is good at), ``fp32``, ``fp16`` or ``bf16``.
        micro_batch: images per forward pass; 0 lets the memory planner choose.
        grad_checkpointing: what is recomputed in the backward pass: ``auto`` (planner), ``none``, ``transformer``,
            ``all``.
        compile: run the transformer's layers as ``torch.compile`` makes them (on a CPU it gains nothing). The first
            step takes long, and numbers differ in the last bits.
        aspect_groups: batches of similar aspect ratio (less padding, slightly less random).
        num_workers: loader processes; 0 loads in the training process.
        input_size: short side and longest long side of evaluation, in pixels (training draws sizes up to it); one
            number is a short side with the published ratio of 800 to 1333. Empty: what the checkpoint was made with,
            (800, 1333) for a new model.
        eval_every: epochs from one evaluation to the next; the last epoch is always evaluated.
        eval_split: the split that is scored and that chooses the best epoch.
        save_minutes: minutes from one saved training state to the next; every epoch's end is saved too.
        max_nonfinite: steps in a row with a non-finite loss that stop the run.
    """

    model: str = "DINO_4scale"
    epochs: int = 12
    steps: int = 0
    batch_size: int = 16
    lr: float = 1e-4
    lr_backbone: float = 1e-5
    sampling_lr: float = 1.0
    layer_decay: float = 1.0
    decay_norms: bool = True
    weight_decay: float = 1e-4
    clip_max_norm: float = 0.1
    schedule: str = "step"
    lr_drop: tuple[int, ...] = (11,)
    warmup_steps: int = 0
    ema: bool = False
    ema_decay: float = 0.9997
    patience: int = 0
    frozen: tuple[str, ...] = ()
    augment: str = "published"
    augment_off: float = 0.15
    repeat_rare: float = 0.0
    empty_share: float = 1.0
    seed: int = 42
    amp: str = "auto"
    micro_batch: int = 0
    grad_checkpointing: str = "auto"
    compile: bool = False
    aspect_groups: bool = False
    num_workers: int = 2
    input_size: tuple[int, ...] = ()
    eval_every: int = 1
    eval_split: str = "val"
    save_minutes: float = 10.0
    max_nonfinite: int = 20

    def __post_init__(self) -> None:
        for name in ("lr_drop", "frozen", "input_size"):
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, (list, tuple)) else (value,))
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                near = did_you_mean(getattr(self, name), allowed)
                raise UserError(f"{name}={getattr(self, name)!r} is not one of {', '.join(allowed)}.{near}")
        _check_ranges(self)
        object.__setattr__(self, "input_size", _two_sides(self.input_size))


_CHOICES = {
    "schedule": ("step", "cosine", "constant"),
    "amp": ("auto", "fp32", "fp16", "bf16"),
    "grad_checkpointing": ("auto", "none", "transformer", "all"),
}
# field -> smallest and largest value. The upper ends keep a damaged file from asking for all the memory there is.
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(["num_classes", "dn_labelbook_size", "dn_max_objects", "num_select"], (1, 100_000)),
    **dict.fromkeys(["enc_n_points", "dec_n_points", "nheads", "enc_layers", "dec_layers"], (1, 64)),
    **dict.fromkeys(["dropout", "drop_path"], (0, 0.99)),
    **dict.fromkeys(["proposal_nms", "dn_label_noise_ratio", "focal_alpha"], (0, 1)),
    **dict.fromkeys(["set_cost_class", "set_cost_bbox", "set_cost_giou"], (0, 1000)),
    **dict.fromkeys(["cls_loss_coef", "bbox_loss_coef", "giou_loss_coef"], (0, 1000)),
    "num_feature_levels": (1, 8),
    "hidden_dim": (32, 4096),
    "dim_feedforward": (1, 65_536),
    "num_queries": (1, 20_000),
    "pe_temperature": (0.001, 1_000_000),
    "dn_number": (0, 100_000),
    "dn_box_noise_scale": (0, 10),
    "focal_gamma": (0, 10),
    **dict.fromkeys(["epochs", "batch_size", "eval_every", "max_nonfinite"], (1, 1_000_000)),
    **dict.fromkeys(["patience", "micro_batch"], (0, 1_000_000)),
    **dict.fromkeys(["steps", "warmup_steps"], (0, 1_000_000_000)),
    **dict.fromkeys(["lr", "lr_backbone"], (0, 0.1)),
    **dict.fromkeys(["weight_decay", "augment_off", "repeat_rare", "empty_share"], (0, 1)),
    **dict.fromkeys(["sampling_lr", "layer_decay"], (0.001, 1)),
    "ema_decay": (0, 0.99999),
    "clip_max_norm": (0, 1_000_000),
    "seed": (0, 2**32 - 1),
    "num_workers": (0, 256),
    "save_minutes": (0, 100_000),
}
_LONG_SIDE = 1333 / 800  # published: longest long side / short side


def _check_ranges(config: ModelConfig | TrainConfig) -> None:
    for field in dataclasses.fields(config):
        low, high = _RANGES.get(field.name, (None, None))
        value = getattr(config, field.name)
        if low is None or high is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise UserError(f"{field.name} must be between {low:,} and {high:,}, not {value!r}.")


def _two_sides(size: tuple[int, ...]) -> tuple[int, ...]:
    if len(size) == 1 and isinstance(size[0], int):
        size = (size[0], round(size[0] * _LONG_SIDE))
    whole = all(isinstance(side, int) and 16 <= side <= 10_000 for side in size)
    if size and (len(size) != 2 or not whole or size[0] > size[1]):
        raise UserError(
            f"input_size must be a short side and a longest long side between 16 and 10,000 pixels, not {size}."
        )
    return size


def apply_overrides(config: Config, options: Mapping[str, Any] | Iterable[str] | None) -> Config:
    """A copy of ``config`` with ``options`` (a dict, or strings ``key=value``) applied.

    Values are read as Python literals where they are ones and converted to the field's type; an unknown key or a
    value of the wrong type is an error that names the nearest field.
    """
    kinds = typing.get_type_hints(type(config))
    changes = {}
    for key, value in as_mapping(options).items():
        if key not in kinds:
            raise UserError(f"there is no option {key!r} in {type(config).__name__}.{did_you_mean(key, kinds)}")
        changes[key] = _convert(key, value, kinds[key])
    return dataclasses.replace(config, **changes)


def as_mapping(options: Mapping[str, Any] | Iterable[str] | None) -> dict[str, Any]:
    """``options`` as a dict, from strings ``key=value`` too."""
    if isinstance(options, Mapping):
        return dict(options)
    pairs = [option.partition("=") for option in options or ()]
    for key, equals, _ in pairs:
        if not equals:
            raise UserError(f"an option must be key=value, not {key!r}.")
    return {key.strip(): value.strip() for key, _, value in pairs}


_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a word"}


def _convert(key: str, value: Any, kind: Any) -> Any:
    """``value`` as ``kind``: int, float, bool, str, or a tuple of one of them."""
    if isinstance(value, str) and kind is not str:
        # what is no literal stays a string, and is reported below
        with contextlib.suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            value = ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(value.lower(), value))
    if typing.get_origin(kind) is tuple:
        (item, _) = typing.get_args(kind)
        if item is str and isinstance(value, str):  # names without quotes: frozen=backbone,encoder
            value = [word.strip() for word in value.split(",") if word.strip()]
        items = list(value) if isinstance(value, (list, tuple)) else [value]
        if not all(type(one) is item for one in items):
            raise UserError(f"option {key} takes {_WORDS[item]} or several, not {value!r}.")
        return tuple(items)
    if kind is float and type(value) is int:
        value = float(value) if abs(value) < 1e300 else value
    if type(value) is not kind:
        raise UserError(f"option {key} takes {_WORDS[kind]}, not {value!r}.")
    return value
