"""What the published commands spell their own way: ``-c CONFIG`` and ``--options key=value ...`` on a checkpoint."""

import dataclasses

from dino_nb.config import ModelConfig, apply_overrides
from dino_nb.errors import UserError, did_you_mean
from dino_nb.presets import preset

# Fields of ModelConfig that a checkpoint's weights or outputs depend on; the others matter to training alone.
_ARCHITECTURE = (
    *("backbone", "num_feature_levels", "return_interm_indices", "hidden_dim", "nheads", "enc_layers", "dec_layers"),
    *("dim_feedforward", "enc_n_points", "dec_n_points", "num_queries", "pe_temperature"),
)

# Options of the published configuration files and commands that only training reads, or that are always so here.
# fmt: off
TRAINING_ONLY = frozenset([
    "add_channel_attention", "add_pos_value", "aux_loss", "backbone_dir", "backbone_freeze_keywords",
    "batch_norm_type", "batch_size", "clip_max_norm", "dec_pred_bbox_embed_share", "dec_pred_class_embed_share",
    "decoder_sa_type", "dilation", "dn_bbox_coef", "dn_label_coef", "dn_scalar", "ema_decay", "ema_epoch",
    "embed_init_tgt", "enc_loss_coef", "epochs", "fix_size", "interm_loss_coef", "lr", "lr_backbone",
    "lr_backbone_names", "lr_drop", "lr_drop_list", "lr_linear_proj_mult", "lr_linear_proj_names",
    "match_unstable_error", "matcher_type", "modelname", "multi_step_lr", "no_interm_box_loss", "onecyclelr",
    "param_dict_type", "position_embedding", "pre_norm", "query_dim", "save_checkpoint_interval",
    "transformer_activation", "two_stage_bbox_embed_share", "two_stage_class_embed_share", "two_stage_type",
    "unic_layers", "use_checkpoint", "use_detached_boxes_dec_out", "use_dn", "use_ema", "weight_decay",
])
# fmt: on


def check_architecture(model, config_file):
    """``UserError`` if the named published configuration is not that of ``model``, naming what differs."""
    expected = preset(config_file)
    for key in _ARCHITECTURE:
        asked, have = getattr(expected, key), getattr(model.config, key)
        if asked != have:
            raise UserError(
                f"{config_file} has {key}={asked}, the checkpoint {have}. The architecture is read off the checkpoint: "
                "leave out -c, or name the other checkpoint."
            )


def apply_options(model, options):
    """Apply ``key=value`` strings to a loaded model; returns the keys that have no effect on one.

    ``num_select`` can be changed. Architecture must be the checkpoint's. Options of training have no effect. An
    unknown key is a ``UserError`` with the nearest name.
    """
    fields = [f.name for f in dataclasses.fields(ModelConfig)]
    without_effect = []
    for option in options or ():
        key, equals, value = (part.strip() for part in option.partition("="))
        if not equals:
            raise UserError(f"an option must be key=value, not {option!r}.")
        alias = "pe_temperature" if key in ("pe_temperatureH", "pe_temperatureW") else key
        if key in TRAINING_ONLY:
            without_effect.append(key)
            continue
        if alias not in fields:
            raise UserError(f"there is no option {key!r}.{did_you_mean(key, [*fields, *TRAINING_ONLY])}")
        if alias != "num_select" and alias not in _ARCHITECTURE:
            without_effect.append(key)
            continue
        changed = apply_overrides(model.config, {alias: value})
        have, asked = getattr(model.config, alias), getattr(changed, alias)
        if alias == "num_select":
            model.config = changed
        elif asked != have:
            raise UserError(f"--options {key}={asked}, but the checkpoint has {have}: leave it out.")
    return without_effect
