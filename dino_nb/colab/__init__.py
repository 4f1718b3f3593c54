"""Colab: the session, Google Drive, and the fields of a notebook's form.

Colab and Kaggle are detected, never assumed: everywhere else these functions leave local folders as they are.
"""

from dino_nb.colab.forms import checkpoint, clean, dataset, images, recipe, run_folder, source, upload, video
from dino_nb.colab.hosts import push_to_hub
from dino_nb.colab.session import Info, in_kaggle, info, mount_drive, setup
from dino_nb.colab.transfer import keep, send, stage
from dino_nb.files import in_colab

__all__ = [
    "Info",
    "checkpoint",
    "clean",
    "dataset",
    "images",
    "in_colab",
    "in_kaggle",
    "info",
    "keep",
    "mount_drive",
    "push_to_hub",
    "recipe",
    "run_folder",
    "send",
    "setup",
    "source",
    "stage",
    "upload",
    "video",
]
