"""Colab: the session, Google Drive, data sets on hosts, and the fields of a notebook's form, each loaded on first use.

Colab and Kaggle are detected, never assumed: everywhere else these functions leave local folders as they are.
"""

import importlib
from typing import Any

# the module that defines them -> public names
_DEFINED = {
    "colab.forms": "checkpoint clean dataset images recipe run_folder source upload video",
    "colab.hosts": "push_to_hub",
    "colab.session": "Info in_kaggle info mount_drive setup",
    "colab.transfer": "keep send stage",
    "files": "in_colab",
}
_WHERE = {name: f"dino_nb.{module}" for module, names in _DEFINED.items() for name in names.split()}

__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'dino_nb.colab' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
