"""Images of detections and data: drawing, plots and widgets, each loaded on first use."""

import importlib
from typing import Any

# public name -> the module that defines it
_WHERE = {
    "draw_boxes": "dino_nb.draw",
    "class_colors": "dino_nb.draw",
    "grid": "dino_nb.sheet",
    "sampling_points": "dino_nb.viz.attention",
    "encoder_attention": "dino_nb.viz.attention",
    "decoder_layers": "dino_nb.viz.inside",
    "denoising_queries": "dino_nb.viz.inside",
    "worst_images": "dino_nb.viz.scores",
    "confused": "dino_nb.viz.scores",
    "pick_confused": "dino_nb.viz.scores",
    "explore": "dino_nb.viz.widgets",
    "browse": "dino_nb.viz.widgets",
    "compare": "dino_nb.viz.widgets",
    "judge": "dino_nb.viz.judged",
    "summary_figure": "dino_nb.viz.dataset",
    "training_batches": "dino_nb.training.preview",
}

__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'dino_nb.viz' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
