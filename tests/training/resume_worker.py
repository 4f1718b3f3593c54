"""Short training runs in processes of their own, for tests that kill them."""

import gc
import os
import signal
import sys
from pathlib import Path

import matplotlib.figure
import pycocotools.cocoeval
import timm
import torch

from dino_nb.training import trainer
from dino_nb.training.finetune import finetune
from dino_nb.training.progress import Progress

# Imported here so that processes forked after this module start at once.
IMPORTED = (matplotlib.figure, pycocotools.cocoeval, timm)
EPOCHS, STEPS = 6, 3  # of 12 images in batches of 4
OPTIONS = {
    "preset": "tiny",
    "epochs": EPOCHS,
    "batch_size": 4,
    "num_workers": 0,
    "input_size": (64, 96),
    "save_minutes": 0.0,
    "amp": "fp32",
    "ema": True,
    "eval_every": 2,
    "backbone_weights": False,
    "model_options": {"enc_layers": 1, "dec_layers": 1, "num_queries": 20, "num_select": 20},
    "device": "cpu",
}


def train(cocodir, output_dir, **options):
    """A run from scratch; afterwards the process handles signals as it did before."""
    torch.set_num_threads(1)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    result = finetune(cocodir, None, output_dir=output_dir, **{**OPTIONS, **options})
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    (Path(output_dir) / "stopped").write_text(result.stopped)


def train_and_weigh(cocodir, output_dir, **options):
    """``train``, writing the resident memory in MiB at each evaluation to ``rss``."""
    seen = []
    report = Progress.epoch

    def weigh(self, record):
        report(self, record)
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        seen.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)

    Progress.epoch = weigh
    train(cocodir, output_dir, **options)
    (Path(output_dir) / "rss").write_text(" ".join(map(str, seen)))


def train_and_die_once(cocodir, output_dir):
    """``train`` under torchrun; the second process is killed in its fifth step unless it was started again."""
    step = trainer.train_step

    def die(run, images, targets):
        if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and run.step == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(run, images, targets)

    trainer.train_step = die
    train(cocodir, output_dir)


if __name__ == "__main__":
    train_and_die_once(*sys.argv[1:])
