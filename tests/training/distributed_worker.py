"""What ``test_distributed`` starts with torchrun: ``distributed_worker.py FOLDER MODE ...``."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.utils.data import DataLoader, Dataset

from dino_nb import distributed
from dino_nb.config import TrainConfig
from dino_nb.errors import UserError
from dino_nb.models.dino import build_model
from dino_nb.presets import preset
from dino_nb.training import trainer
from dino_nb.training.criterion import Criterion
from dino_nb.training.memory import Plan
from dino_nb.training.optim import Ema, make_optimizer
from dino_nb.training.precision import Precision
from dino_nb.training.run import Run
from dino_nb.training.sampler import ResumableBatchSampler, SeededDataset

# Denoising is off: how many denoising groups there are depends on the images of a micro-batch (as published), so
# with it a split batch is not the same sum of losses.
MODEL = replace(preset("dino-tiny"), dn_number=0, enc_layers=1, num_classes=3, num_queries=20, num_select=20)
CONFIG = TrainConfig(model="dino-tiny", epochs=1, batch_size=4, amp="fp32", seed=5, lr=1e-3, lr_backbone=1e-3)
IMAGES = 20


class Images(Dataset):
    """Noise of one size (padding would differ between the parts of a split batch), 0 to 3 objects a image."""

    def __len__(self):
        return IMAGES

    def __getitem__(self, index):
        draw = torch.Generator().manual_seed(index)
        image = torch.rand(3, 64, 64, generator=draw, dtype=torch.float64)
        boxes = torch.rand(index % 4, 4, generator=draw, dtype=torch.float64) * 0.3 + 0.3
        labels = torch.randint(0, 3, (index % 4,), generator=draw)
        return image + torch.rand(1, dtype=torch.float64), {"labels": labels, "boxes": boxes, "image_id": index}


def train(micro_batch=4):
    """An epoch of steps by the real loop; the model."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_model(MODEL).double()
    distributed.broadcast_model(model)
    optimizer = make_optimizer(model, CONFIG)
    sampler = ResumableBatchSampler(
        [(64, 64)] * IMAGES, CONFIG.batch_size, 5, rank=distributed.rank(), world_size=distributed.world_size()
    )
    data = SeededDataset(Images(), CONFIG.seed)
    run = Run(
        model=model,
        criterion=Criterion(MODEL),
        optimizer=optimizer,
        precision=Precision("fp32", "cpu"),
        sampler=sampler,
        loader=DataLoader(data, batch_sampler=sampler, collate_fn=lambda items: tuple(zip(*items))),
        validation=None,
        manager=SimpleNamespace(due=lambda: False, save=lambda state, is_best: None),
        progress=SimpleNamespace(step=lambda record, images: None, say=print),
        stop=SimpleNamespace(reason=None),
        config=CONFIG,
        plan=Plan(micro_batch),
        device=torch.device("cpu"),
        output_dir=None,
        settings={},
        data_fingerprint={},
        ema=Ema(model, 0.9),
    )
    assert trainer.train_one_epoch(run) is None and run.step == 5
    return run


def poison(run_step, is_bad):
    """``train`` whose loss is not finite in the steps for which ``is_bad`` holds; the network."""
    real, calls = trainer.accumulate_gradients, []

    def accumulate(*args):
        losses, parts = real(*args)
        calls.append(1)
        if is_bad(len(calls) - 1):
            for parameter in args[0].parameters():
                parameter.grad = parameter if parameter.grad is None else parameter.grad * float("nan")
            parts = [part * float("nan") for part in parts]
        return losses, parts

    trainer.accumulate_gradients = accumulate
    try:
        return run_step()
    finally:
        trainer.accumulate_gradients = real


def steps(folder):
    """Half the batch each; every process writes what it ended with. The second one cuts its half in two."""
    rank = distributed.rank()
    run = train(micro_batch=2 - rank)
    torch.save([run.model.state_dict(), run.ema.module.state_dict()], folder / f"{rank}.pt")


def trouble(folder):
    """The first process runs out of memory in its second step; the second one's loss is not finite in the third."""
    rank, calls = distributed.rank(), []
    backward = Precision.backward

    def run_out(self, loss):
        backward(self, loss)
        calls.append(1)
        if rank == 0 and len(calls) == 2:  # gradients of the first try are there, and must not count
            raise torch.OutOfMemoryError("CUDA out of memory.")

    Precision.backward = run_out
    run = poison(lambda: train(micro_batch=2), lambda step: rank == 1 and step == 2)
    assert (run.plan.micro_batch, run.ema.step) == (1 + rank, 4)
    torch.save([run.model.state_dict(), run.ema.module.state_dict()], folder / f"trouble{rank}.pt")


def exchange(folder):
    """The small functions, where each process knows something else."""
    rank = distributed.rank()
    assert distributed.world_size() == 2 and distributed.is_main() == (rank == 0)
    assert distributed.reduce_mean([4, 7][rank]) == 5.5
    assert distributed.all_gather_objects({"rank": rank}) == [{"rank": 0}, {"rank": 1}]
    assert distributed.my_share([3, 1, 2]) == [[3, 2], [1]][rank]
    assert distributed.run_on_main(lambda: f"from {rank}") == "from 0"
    try:
        distributed.run_on_main(lambda: [][rank])
    except IndexError:
        (folder / f"error{rank}").touch()
    weights = [torch.nn.Parameter(torch.zeros(3)) for _ in range(3)]
    weights[0].grad = torch.full((3,), float(rank))
    if rank == 1:
        weights[1].grad = torch.ones(3)
    distributed.average_gradients(weights)
    assert weights[0].grad.tolist() == [0.5] * 3 and weights[1].grad.tolist() == [0.5] * 3 and weights[2].grad is None
    (folder / f"done{rank}").touch()


def fail(folder):
    """One process meets an error while the other waits for it."""
    if distributed.rank() == 1:
        raise UserError("image 17 is broken")
    distributed.barrier()
    (folder / "went on").touch()


if __name__ == "__main__":
    with distributed.session():
        for mode in sys.argv[2:]:
            {"steps": steps, "exchange": exchange, "fail": fail, "trouble": trouble}[mode](Path(sys.argv[1]))
    assert not distributed.active() and os.environ["WORLD_SIZE"] == "2"
