"""Networks and training recipes by name."""

from dataclasses import replace

from dino_nb.config import ModelConfig, TrainConfig
from dino_nb.errors import UserError, did_you_mean

_FOUR_SCALES = ModelConfig()
_FIVE_SCALES = ModelConfig(num_feature_levels=5, return_interm_indices=(0, 1, 2, 3))

# The published configuration files by name, and two that learn from few images and from random weights: one that a CPU
# trains in about an hour, and the one of the demo and the tests.
PRESETS: dict[str, ModelConfig] = {
    "DINO_4scale": _FOUR_SCALES,
    "DINO_5scale": _FIVE_SCALES,
    "DINO_4scale_swin": replace(_FOUR_SCALES, backbone="swin_L_384_22k"),
    "DINO_5scale_swin": replace(_FIVE_SCALES, backbone="swin_L_384_22k"),
    "DINO_4scale_convnext": replace(_FOUR_SCALES, backbone="convnext_xlarge_22k"),
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
        dn_box_noise_scale=0.4,
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

# The published recipes: the rate drops tenfold once, after epoch 11, 20 or 30 of 12, 24 or 36.
_MODEL_OF = {
    "4scale-r50": "DINO_4scale",
    "5scale-r50": "DINO_5scale",
    "4scale-swinl": "DINO_4scale_swin",
    "5scale-swinl": "DINO_5scale_swin",
}
# A checkpoint on a few hundred images: as many steps as they need, a gentle start for new class rows, averaged weights.
_FINETUNE = TrainConfig(steps=4000, batch_size=4, schedule="cosine", ema=True, patience=10)
# dino-tiny on images of a few hundred pixels, on a CPU in minutes.
_TINY = TrainConfig(
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
    input_size=(160, 266),
)
TRAIN_PRESETS: dict[str, TrainConfig] = {
    **{
        f"{arch}-{epochs}ep": TrainConfig(model=model, epochs=epochs, lr_drop=(drop,))
        for arch, model in _MODEL_OF.items()
        for epochs, drop in ((12, 11), (24, 20), (36, 30))
    },
    "finetune": _FINETUNE,
    # The same within the 15 GB, 12 hours and 2 processors of a free Colab T4.
    "t4": replace(_FINETUNE, amp="fp16", aspect_groups=True, input_size=(736, 1226)),
    # dino-small from an ImageNet backbone on a few hundred images; the first stages stay as they are, as published.
    "small": TrainConfig(
        model="dino-small",
        steps=4000,
        batch_size=4,
        lr=4e-4,
        lr_backbone=1e-4,
        schedule="cosine",
        ema=True,
        frozen=("conv_stem", "blocks.0", "blocks.1"),
        input_size=(320, 534),
    ),
    "tiny": _TINY,
    # The dino-tiny that comes with the package, on shapes some of which are new to it: two minutes on two cores.
    "tiny-finetune": replace(_TINY, epochs=10, warmup_steps=20),
}


def preset(name: str) -> ModelConfig:
    """A ``ModelConfig`` by name; ``.py`` endings and folders of the published spelling are ignored."""
    key = preset_name(name)
    if key not in PRESETS:
        raise UserError(f"there is no configuration {name!r}.{did_you_mean(key, PRESETS)} Known: {', '.join(PRESETS)}.")
    return PRESETS[key]


def preset_name(name: str) -> str:
    """``DINO_4scale`` of ``config/DINO/DINO_4scale.py``."""
    return str(name).strip().replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".py")


def train_preset(name: str) -> TrainConfig:
    """A ``TrainConfig`` by name; a zoo checkpoint's name (``dino-4scale-r50-12ep``) gives the recipe it was made by."""
    key = str(name).strip().removeprefix("dino-")
    if key not in TRAIN_PRESETS:
        near = did_you_mean(key, TRAIN_PRESETS)
        raise UserError(f"there is no training preset {name!r}.{near} Known: {', '.join(TRAIN_PRESETS)}.")
    return TRAIN_PRESETS[key]


def recipe_for(network: ModelConfig) -> TrainConfig:
    """The recipe that fine-tunes a checkpoint of this network, at the input size of the checkpoint.

    The two small networks learn at the rates that they were made with; at those of the large ones they hardly move.
    """
    name = {"dino-small": "small", "dino-tiny": "tiny-finetune"}.get(folder_name(network), "finetune")
    return replace(TRAIN_PRESETS[name], input_size=())


_SHORT = {"resnet50": "R50", "resnet101": "R101", "convnext_xlarge_22k": "ConvNeXtXL"}


def folder_name(config: ModelConfig) -> str:
    """What a run's folder is called by default: ``R50-MS4`` (as published), ``SwinL-MS5``, ``dino-tiny``."""
    for name in ("dino-small", "dino-tiny"):
        if config.backbone == PRESETS[name].backbone and config.hidden_dim == PRESETS[name].hidden_dim:
            return name
    swin = config.backbone.startswith("swin_") and config.backbone.endswith("k")
    short = f"Swin{config.backbone[5]}" if swin else _SHORT.get(config.backbone, config.backbone)
    return f"{short}-MS{config.num_feature_levels}"
