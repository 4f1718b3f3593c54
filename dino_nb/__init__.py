"""DINO (DETR with improved denoising anchor boxes) on your own pictures.

Every public name is loaded on first use, so that ``import dino_nb`` costs little more than importing torch.
"""

import importlib

from dino_nb.version import __version__

# public name -> the module that defines it (a module itself where both are the same)
_WHERE = {
    "load": "dino_nb.inference.detector",
    "Detector": "dino_nb.inference.detector",
    "load_official": "dino_nb.checkpoints.official",
    "export_official": "dino_nb.checkpoints.official",
    "build_model": "dino_nb.models.dino",
    "DINO": "dino_nb.models.dino",
    "Criterion": "dino_nb.training.criterion",
    "ModelConfig": "dino_nb.config",
    "TrainConfig": "dino_nb.config",
    "convert_dataset": "dino_nb.prepare.convert",
    "check_dataset": "dino_nb.prepare.check",
    "evaluate": "dino_nb.evaluation.evaluate",
    "finetune": "dino_nb.training.finetune",
    "info": "dino_nb.colab",
    "zoo": "dino_nb.checkpoints.zoo",
    "ops": "dino_nb.ops",
    "viz": "dino_nb.viz",
    "colab": "dino_nb.colab",
}
_MODULES = {"zoo", "ops", "viz", "colab"}

__all__ = ["__version__", *_WHERE]


def __getattr__(name):
    if name not in _WHERE:
        raise AttributeError(f"module 'dino_nb' has no attribute {name!r}")
    module = importlib.import_module(_WHERE[name])
    # The submodule import may have bound a package attribute of the same name (evaluation.evaluate and the like do
    # not, `zoo` does): what is looked up here is always the public object.
    value = module if name in _MODULES else getattr(module, name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)
