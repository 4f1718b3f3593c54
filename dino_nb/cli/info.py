"""Describe this session: versions, GPU and its precision, the attention op, folders and free disk, Google Drive."""

from dino_nb import colab


def add_arguments(parser):
    """There is nothing to choose."""


def run(args):
    print(colab.info())
