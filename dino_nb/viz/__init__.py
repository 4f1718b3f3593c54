"""Pictures of detections and data: drawing, plots and widgets, each loaded on first use."""

import importlib

# public name -> the module that defines it
_WHERE = {
    "draw_boxes": "draw",
    "class_colors": "draw",
    "grid": "sheet",
    "show_attention": "attention",
    "evaluation_figure": "scores",
    "worst_pictures": "scores",
    "explore": "widgets",
    "browse": "widgets",
    "compare": "widgets",
    "summary_figure": "dataset",
}

__all__ = list(_WHERE)


def __getattr__(name):
    if name not in _WHERE:
        raise AttributeError(f"module 'dino_nb.viz' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dino_nb.viz.{_WHERE[name]}"), name)


def __dir__():
    return sorted(__all__)
