"""Fine-tuning in seconds: six small images and a network of a few thousand weights."""

from dino_nb.config import TrainConfig
from dino_nb.training.finetune import finetune

MODEL = {
    "backbone": "test_efficientnet",
    "num_feature_levels": 2,
    "return_interm_indices": (2, 3),
    "hidden_dim": 32,
    "nheads": 2,
    "enc_layers": 1,
    "dec_layers": 2,
    "dim_feedforward": 32,
    "num_queries": 10,
    "num_select": 10,
    "dn_number": 4,
}
CONFIG = TrainConfig(
    model="dino-tiny",
    epochs=3,
    batch_size=2,
    lr=1e-3,
    lr_backbone=1e-3,
    amp="fp32",
    micro_batch=2,
    grad_checkpointing="none",
    num_workers=0,
    input_size=(64, 107),
    ema=True,
    seed=7,
)


def tiny_run(cocodir, output_dir, checkpoint=None, **changes):
    """``finetune`` on that scale. ``changes``: its arguments and training options."""
    options = {"preset": CONFIG, "backbone_weights": False, "check": False, "live": False, **changes}
    if checkpoint is None:
        options.setdefault("model_options", MODEL)
    return finetune(cocodir, checkpoint, output_dir=output_dir, **options)
