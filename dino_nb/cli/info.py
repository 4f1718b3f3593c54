"""Describe this session: versions, GPU and its precision, the attention op, folders and free disk, Google Drive."""

import argparse

from dino_nb.colab.session import info


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There is nothing to choose."""


def run(args: argparse.Namespace) -> None:
    print(info())
