"""A valid COCODIR, and the means to plant faults in it."""

import functools
import json
import shutil
import tempfile
from pathlib import Path

from dino_nb.prepare.sample import make_sample

LABEL = {split: f"annotations/instances_{split}2017.json" for split in ("train", "val")}


def make_valid(folder):
    """A small COCODIR that the check has nothing to complain of but few training boxes; JSON with line breaks."""
    shutil.copytree(_template().name, folder)
    return Path(folder)


@functools.cache
def _template():
    kept = tempfile.TemporaryDirectory()  # made once, removed when the tests end
    root = make_sample(kept.name, n_train=10, n_val=5)
    for split in LABEL:
        edit(root, split, lambda document: None)
    return kept


def read(root, split="train"):
    return json.loads((root / LABEL[split]).read_text(encoding="utf-8"))


def write(root, document, split="train"):
    (root / LABEL[split]).write_text(json.dumps(document, indent=1), encoding="utf-8")


def edit(root, split, change):
    """Apply ``change(document)`` to an annotation file."""
    document = read(root, split)
    change(document)
    write(root, document, split)


def image_file(root, document, position=0, split="train"):
    """The file of an image."""
    return root / f"{split}2017" / document["images"][position]["file_name"]
