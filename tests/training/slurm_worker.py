"""What ``test_slurm`` submits: a stand-in for training that saves when it is stopped, in two processes."""

import os
import time
from pathlib import Path

from dino_nb.training import distributed
from dino_nb.training.stopping import StopRequest


def run(args):
    folder = Path(args.folder)
    assert not args.slurm
    with distributed.session():
        rank = distributed.rank()
        assert distributed.all_gather_objects(rank) == [0, 1]
        if args.resume is None:
            with StopRequest() as stop:
                (folder / f"pid{rank}.part").write_text(str(os.getpid()))
                (folder / f"pid{rank}.part").rename(folder / f"pid{rank}")
                end = time.monotonic() + 60
                while not stop.reason and time.monotonic() < end:
                    time.sleep(0.02)
            (folder / f"saved{rank}").write_text(str(stop.reason))
            return 143
        else:
            assert args.resume == "auto" and (folder / f"saved{rank}").read_text() == "SIGTERM"
            (folder / f"finished{rank}").touch()
            return 0


def fail(args):
    return 1
