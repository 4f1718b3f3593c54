"""DINO (DETR with improved denoising anchor boxes) on your own images.

Every public name is loaded on first use, so that ``import dino_nb`` costs little more than importing torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from dino_nb.errors import did_you_mean
from dino_nb.version import __version__

if TYPE_CHECKING:  # what editors complete and type checkers see; tests keep it equal to _WHERE
    from dino_nb import colab as colab
    from dino_nb import ops as ops
    from dino_nb import viz as viz
    from dino_nb.checkpoints import zoo as zoo
    from dino_nb.checkpoints.load import export_official as export_official
    from dino_nb.checkpoints.load import load_model as load_model
    from dino_nb.checkpoints.official import load_official as load_official
    from dino_nb.colab.session import info as info
    from dino_nb.config import ModelConfig as ModelConfig
    from dino_nb.config import TrainConfig as TrainConfig
    from dino_nb.errors import UserError as UserError
    from dino_nb.evaluation.analysis import analyse_errors as analyse_errors
    from dino_nb.evaluation.coco import ceiling as ceiling
    from dino_nb.evaluation.coco import score as score
    from dino_nb.evaluation.collect import ground_truth_as_predictions as ground_truth_as_predictions
    from dino_nb.evaluation.compare import compare as compare
    from dino_nb.evaluation.evaluate import evaluate as evaluate
    from dino_nb.inference.detector import Detector as Detector
    from dino_nb.inference.detector import load as load
    from dino_nb.inference.export import export as export
    from dino_nb.inference.results import Result as Result
    from dino_nb.inference.video import small_copy as small_copy
    from dino_nb.models.dino import DINO as DINO
    from dino_nb.models.dino import build_model as build_model
    from dino_nb.prepare.archive import is_archive as is_archive
    from dino_nb.prepare.archive import pack as pack
    from dino_nb.prepare.archive import restore as restore
    from dino_nb.prepare.check import check_dataset as check_dataset
    from dino_nb.prepare.convert import convert_dataset as convert_dataset
    from dino_nb.prepare.export import export_dataset as export_dataset
    from dino_nb.prepare.repair import fix_dataset as fix_dataset
    from dino_nb.prepare.sample import make_sample as make_sample
    from dino_nb.training.criterion import Criterion as Criterion
    from dino_nb.training.finetune import finetune as finetune

# the module that defines them -> public names
_DEFINED = {
    "checkpoints.load": "export_official load_model",
    "checkpoints.official": "load_official",
    "colab.session": "info",
    "config": "ModelConfig TrainConfig",
    "errors": "UserError",
    "evaluation.analysis": "analyse_errors",
    "evaluation.coco": "ceiling score",
    "evaluation.collect": "ground_truth_as_predictions",
    "evaluation.compare": "compare",
    "evaluation.evaluate": "evaluate",
    "inference.detector": "Detector load",
    "inference.export": "export",
    "inference.results": "Result",
    "inference.video": "small_copy",
    "models.dino": "DINO build_model",
    "prepare.archive": "is_archive pack restore",
    "prepare.check": "check_dataset",
    "prepare.convert": "convert_dataset",
    "prepare.export": "export_dataset",
    "prepare.repair": "fix_dataset",
    "prepare.sample": "make_sample",
    "training.criterion": "Criterion",
    "training.finetune": "finetune",
}
_WHERE = {name: f"dino_nb.{module}" for module, names in _DEFINED.items() for name in names.split()}
_MODULES = {"colab": "dino_nb.colab", "ops": "dino_nb.ops", "viz": "dino_nb.viz", "zoo": "dino_nb.checkpoints.zoo"}

__all__ = ["__version__", *_WHERE, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = importlib.import_module(_MODULES[name])
    elif name in _WHERE:
        value = getattr(importlib.import_module(_WHERE[name]), name)
    else:
        raise AttributeError(f"module 'dino_nb' has no attribute {name!r}.{did_you_mean(name, __all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
