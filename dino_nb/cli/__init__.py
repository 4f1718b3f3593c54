"""``dino-nb VERB``: one module a verb, each with ``add_arguments(parser)`` and ``run(args)``."""

import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

from dino_nb.cli.parser import Parser
from dino_nb.errors import UserError, did_you_mean, explain
from dino_nb.version import __version__

# verb -> (module, one line for the overview); modules are imported only when their verb is used
VERBS = {
    "convert": ("convert", "turn annotations of any format into a COCODIR"),
    "check": ("check", "find what is wrong with a COCODIR, and repair it"),
    "eval": ("evaluate", "score a checkpoint on a COCODIR"),
    "train": ("train", "train or fine-tune on a COCODIR"),
    "predict": ("predict", "detect objects in images and videos"),
    "export": ("export", "write a checkpoint for use elsewhere"),
    "zoo": ("zoo", "list the published checkpoints, and download them"),
    "build-ops": ("build_ops", "build the attention op for this machine"),
    "bench": ("bench", "time a model and the op on this machine"),
    "info": ("info", "describe this session: versions, GPU, op, folders"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0 when done, 1 when data or checkpoint are bad, 2 when the command line is."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(__version__)
        return 0
    verb, *rest = argv
    verb = verb if verb in VERBS else verb.replace("_", "-")
    if verb not in VERBS:
        print(f"dino-nb: there is no command {verb!r}.{did_you_mean(verb, VERBS)}\n\n{_overview()}", file=sys.stderr)
        return 2
    try:
        with _sigterm_cleans_up():
            code = _run(verb, rest)
            sys.stdout.flush()
            return code
    except BrokenPipeError:  # the reader has seen enough, e.g. `dino-nb zoo | head`
        with contextlib.suppress(OSError, ValueError):  # nor is there anything to flush to at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (UserError, OSError) as error:
        print(f"dino-nb {verb}: {explain(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ndino-nb {verb}: stopped.", file=sys.stderr)
        return 130


def _run(verb: str, arguments: list[str]) -> int:
    name, summary = VERBS[verb]
    module = importlib.import_module(f"dino_nb.cli.{name}")
    parser = Parser(verb, module.__doc__ or summary)
    module.add_arguments(parser)
    try:
        args = parser.parse(arguments)
    except SystemExit as stop:  # argparse exits; a function that notebooks may call returns
        return int(stop.code or 0)
    return module.run(args) or 0


@contextlib.contextmanager
def _sigterm_cleans_up() -> Iterator[None]:
    """Let SIGTERM end the command as an exception does, so that temporary files are removed on the way out."""
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _overview() -> str:
    width = max(map(len, VERBS))
    head = "usage: dino-nb VERB ...    (dino-nb VERB --help tells more; flags are known with - and with _)\n"
    return "\n".join([head, *(f"  {verb:{width}}  {summary}" for verb, (_, summary) in VERBS.items())])
