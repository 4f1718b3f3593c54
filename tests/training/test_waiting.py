"""A training step waits for the device a few times, however many layers and terms of the loss there are."""

import dataclasses
import types

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dino_nb.config import TrainConfig
from dino_nb.models.dino import build_model
from dino_nb.presets import preset
from dino_nb.training.criterion import Criterion
from dino_nb.training.memory import Plan
from dino_nb.training.optim import Ema, make_optimizer
from dino_nb.training.precision import Precision
from dino_nb.training.trainer import train_step
from tests.training.tiny_run import MODEL

READS = [torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default, torch.ops.aten.nonzero.default]
# matcher: whether costs are finite; labels: smallest, largest, both compared (on a CPU alone); denoising: which labels
# are flipped. All else comes back in one tensor at the end of the step.
MOST_READS = 6


class Count(TorchDispatchMode):
    """Counts calls of operators whose result a Python program waits for."""

    reads = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.reads += function in READS
        return function(*args, **(kwargs or {}))


def one_step(layers, device="cpu", amp="fp32"):
    """A function that trains one step on two images, with ``layers`` decoder layers."""
    torch.manual_seed(0)
    options = {**MODEL, "num_classes": 3, "dn_labelbook_size": 3, "dec_layers": layers}
    model = build_model(dataclasses.replace(preset("dino-tiny"), **options)).to(device).train()
    config = TrainConfig(batch_size=2)
    run = types.SimpleNamespace(
        model=model,
        criterion=Criterion(model.config),
        optimizer=make_optimizer(model, config),
        precision=Precision(amp, device),
        sampler=[None],
        config=config,
        plan=Plan(2),
        device=torch.device(device),
        ema=Ema(model, 0.9),
        step=0,
        skipped=0,
    )
    images = [torch.randint(256, (3, 64, 96), dtype=torch.uint8), torch.randint(256, (3, 64, 80), dtype=torch.uint8)]
    boxes = torch.rand(5, 4) * 0.3 + 0.3
    targets = [{"labels": torch.arange(n) % 3, "boxes": boxes[:n], "image_id": n} for n in (2, 5)]
    if device != "cpu":
        images = [image.pin_memory() for image in images]
        targets = [{k: v.pin_memory() if torch.is_tensor(v) else v for k, v in t.items()} for t in targets]
    return lambda: train_step(run, images, targets)


def test_step_reads_a_fixed_small_number_of_values():
    reads, terms = [], []
    for layers in (1, 4):
        step = one_step(layers)
        step()
        with Count() as count:
            terms.append(len(step()))
        reads.append(count.reads)
    assert terms[1] - terms[0] == 18, "three terms more of each layer, and of its denoising queries"
    assert reads[0] == reads[1] <= MOST_READS
