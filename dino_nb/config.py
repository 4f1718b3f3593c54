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

# The published configuration files by name, and the small model of the demo and the tests.
PRESETS = {
    "DINO_4scale": ModelConfig(),
    "DINO_5scale": ModelConfig(**_FIVE_SCALES),
    "DINO_4scale_swin": ModelConfig(**_SWIN_L),
    "DINO_5scale_swin": ModelConfig(**_SWIN_L, **_FIVE_SCALES),
    "DINO_4scale_convnext": ModelConfig(backbone="convnext_xlarge_22k"),
    "dino-tiny": ModelConfig(
        backbone="test_convnext",
        num_feature_levels=3,
        hidden_dim=64,
        nheads=4,
        enc_layers=2,
        dec_layers=2,
        dim_feedforward=128,
        num_queries=60,
        num_select=60,
        drop_path=0.0,
        dn_number=20,
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
        with contextlib.suppress(ValueError, SyntaxError):  # left a string, reported below unless the field takes one
            value = ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(value.lower(), value))
    if current is None or value is None:
        return value
    if isinstance(current, tuple) and isinstance(value, (list, tuple)):
        return tuple(value)
    if isinstance(current, bool):
        ok = isinstance(value, bool)
    elif isinstance(current, float):
        ok = isinstance(value, (int, float)) and not isinstance(value, bool)
        value = float(value) if ok else value
    else:
        ok = isinstance(value, type(current)) and not isinstance(value, bool)
    if not ok:
        raise UserError(f"option {key} takes a {type(current).__name__}, not {value!r}.")
    return value
