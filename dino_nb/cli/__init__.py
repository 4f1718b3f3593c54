"""``dino-nb VERB``: one module a verb, each with ``SUMMARY``, ``add_arguments(parser)`` and ``run(args)``."""

import argparse
import importlib
import sys

from dino_nb.errors import UserError, did_you_mean
from dino_nb.version import __version__

# verb -> (module, one line for the overview); modules are imported only when their verb is used
VERBS = {
    "convert": ("convert", "turn annotations of any format into a COCODIR"),
    "check": ("check", "find what is wrong with a COCODIR, and repair it"),
    "eval": ("evaluate", "score a checkpoint on a COCODIR"),
    "train": ("train", "train or fine-tune on a COCODIR"),
    "predict": ("predict", "detect objects in pictures"),
    "export": ("export", "write a checkpoint with the published names"),
    "zoo": ("zoo", "list the published checkpoints, and fetch them"),
    "build-ops": ("build_ops", "build the attention op for this machine"),
    "bench": ("bench", "time the model and the op on this machine"),
    "info": ("info", "describe this session: versions, GPU, op, folders"),
}


def main(argv=None):
    """Run one command. Returns 0 when done, 1 when data or checkpoint are bad, 2 when the command line is."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(__version__)
        return 0
    verb, *rest = argv
    if verb not in VERBS:
        print(f"dino-nb: there is no command {verb!r}.{did_you_mean(verb, VERBS)}\n\n{_overview()}", file=sys.stderr)
        return 2
    module_name, summary = VERBS[verb]
    module = importlib.import_module(f"dino_nb.cli.{module_name}")
    parser = argparse.ArgumentParser(
        prog=f"dino-nb {verb}",
        description=module.__doc__ or summary,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    try:
        args = parser.parse_args(rest)
    except SystemExit as stop:  # argparse exits; a function that notebooks may call returns
        return stop.code or 0
    try:
        return module.run(args) or 0
    except UserError as error:
        print(f"dino-nb {verb}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ndino-nb {verb}: stopped.", file=sys.stderr)
        return 130


def _overview():
    width = max(map(len, VERBS))
    lines = [f"  {verb:{width}}  {summary}" for verb, (_, summary) in VERBS.items()]
    return "usage: dino-nb VERB ...    (dino-nb VERB --help tells more)\n\n" + "\n".join(lines)
