"""Our parameter names and the published ones, in both directions by the same short rules."""

import re

_HEADS = {"class_embed", "bbox_embed"}

# (ours, published); the first rule whose left side matches is used
_TRANSFORMER = [
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
_SWIN = [
    (r"^backbone\.body\.patch_embed\.", "backbone.0.patch_embed."),
    # timm merges patches at the start of a stage, the published code at the end of the one before
    (r"^backbone\.body\.layers_(\d)\.downsample\.", lambda m: f"backbone.0.layers.{int(m[1]) - 1}.downsample."),
    (r"^backbone\.body\.layers_(\d)\.", r"backbone.0.layers.\1."),
]
_CONVNEXT = [
    (r"^backbone\.body\.stem_(\d)\.", r"backbone.0.downsample_layers.0.\1."),
    (r"^backbone\.body\.stages_(\d)\.downsample\.", r"backbone.0.downsample_layers.\1."),
    (r"^backbone\.body\.stages_(\d)\.blocks\.(\d+)\.conv_dw\.", r"backbone.0.stages.\1.\2.dwconv."),
    (r"^backbone\.body\.stages_(\d)\.blocks\.(\d+)\.mlp\.fc(\d)\.", r"backbone.0.stages.\1.\2.pwconv\3."),
    (r"^backbone\.body\.stages_(\d)\.blocks\.(\d+)\.", r"backbone.0.stages.\1.\2."),
]
_OTHER = [(r"^backbone\.body\.", "backbone.0.body.")]


def official_names(name, config):
    """The published names (one, or one per place that shares the tensor) of our parameter or buffer ``name``."""
    head, _, rest = name.partition(".")
    if head in _HEADS:
        owners = ("transformer.decoder.", "")
        return [f"{owner}{head}.{i}.{rest}" for owner in owners for i in range(config.dec_layers)]
    family = {"swin": _SWIN, "conv": _CONVNEXT}.get(config.backbone[:4] if _is_published(config) else "", _OTHER)
    for ours, published in _TRANSFORMER + family:
        renamed, count = re.subn(ours, published, name)
        if count:
            return [renamed]
    raise KeyError(name)


def _is_published(config):
    # "swin_tiny_patch4..." and "convnext_tiny" are timm's names, kept as timm has them
    return bool(re.fullmatch(r"swin_[TBL]_\d+_\d+k|convnext_xlarge_22k", config.backbone))
