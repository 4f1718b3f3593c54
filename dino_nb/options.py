"""Settings as users write them: ``--options key=value ...``, ``finetune(key=value)``, and the published spellings."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from dino_nb.config import ModelConfig, TrainConfig, as_mapping
from dino_nb.errors import UserError, did_you_mean

_MODEL = {f.name for f in dataclasses.fields(ModelConfig)}
_TRAIN = {f.name for f in dataclasses.fields(TrainConfig)}
# published option -> ours
_ALIASES = {
    "dn_scalar": "dn_number",
    "use_ema": "ema",
    "lr_drop_list": "lr_drop",
    "data_aug_max_size": "max_size",
    "two_stage_num_proposals": "num_queries",
    "pe_temperatureH": "pe_temperature",
    "pe_temperatureW": "pe_temperature",
}
# Read off the data set or the checkpoint. The last is the misspelling in the published README.
_FROM_DATA = ("num_classes", "dn_labelbook_size", "dn_labebook_size")
# published options that are built in here: the only value there is
_BUILT_IN = {
    **dict.fromkeys(["aux_loss", "dec_pred_bbox_embed_share", "dec_pred_class_embed_share", "use_dn"], "true"),
    **dict.fromkeys(["embed_init_tgt"], "true"),
    **dict.fromkeys(["dn_label_coef", "dn_bbox_coef", "enc_loss_coef", "interm_loss_coef"], "1"),
    **dict.fromkeys(["add_channel_attention", "add_pos_value", "dilation", "no_interm_box_loss"], "false"),
    **dict.fromkeys(["onecyclelr", "pre_norm", "two_stage_bbox_embed_share"], "false"),
    **dict.fromkeys(["two_stage_class_embed_share", "use_detached_boxes_dec_out"], "false"),
    "batch_norm_type": "frozenbatchnorm2d",
    "decoder_sa_type": "sa",
    "matcher_type": "hungarianmatcher",
    "position_embedding": "sine",
    "query_dim": "4",
    "transformer_activation": "relu",
    "two_stage_type": "standard",
    "unic_layers": "0",
}
# published options that have no effect here
_NO_EFFECT = frozenset(
    [
        *("backbone_dir", "backbone_freeze_keywords", "ema_epoch", "fix_size", "lr_backbone_names"),
        *("lr_linear_proj_mult", "lr_linear_proj_names", "match_unstable_error", "modelname", "multi_step_lr"),
        *("param_dict_type", "save_checkpoint_interval", "use_checkpoint"),
    ]
)
# Fields of ModelConfig that a checkpoint's weights or outputs depend on; the others matter to training alone.
ARCHITECTURE = (
    *("backbone", "num_feature_levels", "return_interm_indices", "hidden_dim", "nheads", "enc_layers", "dec_layers"),
    *("dim_feedforward", "enc_n_points", "dec_n_points", "num_queries", "pe_temperature"),
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Options by what they change, in our spelling.

    Attributes:
        model: changes to a ``ModelConfig``, for ``apply_overrides``.
        training: changes to a ``TrainConfig``.
        notes: a sentence for each option that is understood and changes nothing.
    """

    model: dict[str, Any]
    training: dict[str, Any]
    notes: list[str]


def parse_options(options: Mapping[str, Any] | Iterable[str] | None) -> Options:
    """Sort ``options`` (a dict, or strings ``key=value``), published spellings among them.

    Raises:
        UserError: an unknown key, with the nearest one, or a published option with a value that is not built in here.
    """
    given = {key.replace("-", "_"): value for key, value in as_mapping(options).items()}
    if str(given.get("multi_step_lr", "true")).lower() in ("false", "0"):
        given.pop("lr_drop_list", None)
    parsed = Options({}, {}, [])
    for key, value in given.items():
        ours = _ALIASES.get(key, key)
        if key in _FROM_DATA:
            parsed.notes.append(f"{key}={value} is not needed: it comes from the data set.")
        elif key in _NO_EFFECT:
            parsed.notes.append(f"{key}={value} changes nothing here.")
        elif key in _BUILT_IN:
            if str(value).lower().removesuffix(".0") != _BUILT_IN[key]:
                raise UserError(f"{key} is always {_BUILT_IN[key]} here, not {value}.")
        elif ours in _TRAIN or ours in ("size", "max_size"):
            parsed.training[ours] = value
        elif ours in _MODEL:
            parsed.model[ours] = value
        else:
            near = did_you_mean(key, [*_MODEL, *_TRAIN, *_ALIASES, *_BUILT_IN, *_NO_EFFECT])
            raise UserError(f"there is no option {key!r}.{near}")
    _join_sizes(parsed.training)
    return parsed


def _join_sizes(training: dict[str, Any]) -> None:
    """``size`` and ``max_size``, the published pair, as ``input_size``."""
    sides = [training.pop(key, None) for key in ("size", "max_size")]
    if sides[0] is None and sides[1] is not None:
        raise UserError(f"max_size={sides[1]} needs the short side too: input_size=SHORT,{sides[1]}.")
    if sides[0] is not None:
        training["input_size"] = ",".join(str(side) for side in sides if side is not None)
