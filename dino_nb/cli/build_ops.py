"""Build the attention op for this machine (the CPU and the GPU, if there is one), or say what is in use.

dino-nb build-ops            build what is missing; the next session finds it in $DINO_NB_HOME
dino-nb build-ops --force    compile even if the cache holds it
dino-nb build-ops --status   what is in use and why
"""

import argparse

from dino_nb import ops
from dino_nb.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="compile even if the cache holds the library")
    parser.add_argument("--status", action="store_true", help="build nothing, say what is in use and why")


def run(args: argparse.Namespace) -> None:
    status = ops.status() if args.status else ops.build(force=args.force)
    for device in ("cpu", "cuda"):
        if args.status or not status[device].startswith("native"):
            print(f"{device}: {status[device]}")
    failed = [device for device in ("cpu", "cuda") if status[device].startswith("PyTorch")]
    if failed and not args.status and status["mode"] != "torch":
        raise UserError(f"the op could not be built for {' and '.join(failed)}; PyTorch takes its place there.")
