"""Several processes, one run: joining what ``torchrun`` started, and the few sums and exchanges.

Every function here also works, and costs nothing, in a single process.

Why not ``DistributedDataParallel``: it exchanges gradients during the last backward pass. A process that runs out of
memory there computes the step again in smaller parts, while the others wait for the rest of the buckets of the first
try: DDP cannot take a bucket back. Here gradients are averaged once a step is computed, in one place. Processes may cut
their share of a batch differently, and parameters may have no gradient.
"""

import contextlib
import datetime
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from dino_nb.errors import UserError

T = TypeVar("T")
_BUCKET = 16  # gradients that are exchanged in one go


@contextlib.contextmanager
def session(timeout_minutes: float = 30.0) -> Iterator[torch.device]:
    """Join the processes that ``torchrun`` (or Slurm) started, for as long as the block lasts; yields the device.

    Without ``WORLD_SIZE`` in the environment this is a single process. On GPUs each process takes that of its
    ``LOCAL_RANK``. A process that fails leaves at once, and the launcher ends the others. Raises ``UserError`` where
    there are more processes than GPUs.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    cuda = torch.cuda.is_available()
    if cuda and local_rank >= torch.cuda.device_count():
        raise UserError(
            f"process {local_rank} has no GPU: there are {torch.cuda.device_count()}. Start at most that many "
            "processes (--nproc-per-node)."
        )
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        yield device
        return
    timeout = datetime.timedelta(minutes=timeout_minutes)
    store, number, count = next(rendezvous("env://", timeout=timeout))
    # torchrun's store outlives its workers: restarted ones must not meet the addresses of the dead.
    store = dist.PrefixStore(f"start_{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    # Small exchanges (flags, results) go over the CPU: they neither wait for the GPU nor take its memory.
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=timeout)
    yield device
    # Not in a finally: after an exception, waiting for the others could take until the timeout.
    dist.barrier()
    dist.destroy_process_group()


def active() -> bool:
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if active() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if active() else 0


def is_main() -> bool:
    """Whether this is the process that prints and writes."""
    return rank() == 0


def print_main(text: object) -> None:
    """Print in the main process alone."""
    if is_main():
        print(text, flush=True)


def is_restart() -> bool:
    """Whether ``torchrun`` or Slurm has restarted this run by itself; it then resumes from its last state."""
    counts = (os.environ.get(name, "0") for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))
    return any(int(count) > 0 for count in counts)


def barrier() -> None:
    """Wait for the others."""
    if active():
        dist.barrier()


def run_on_main(function: Callable[..., T], *args: Any) -> T:
    """``function(*args)``, called in the main process alone; all get its result (a small one), or raise its error."""
    if not active():
        return function(*args)
    outcome: list[Any] = [None, None]
    if is_main():
        try:
            outcome[0] = function(*args)
        except Exception as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=0, device=torch.device("cpu"))
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def reduce_mean(value: float) -> float:
    """The mean of a number over the processes."""
    if not active():
        return float(value)
    total = torch.tensor(float(value), dtype=torch.float64)
    dist.all_reduce(total)
    return total.item() / world_size()


def all_gather_objects(value: T) -> list[T]:
    """``[value of process 0, value of process 1, ...]`` in every process, for plain data."""
    if not active():
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def my_share(items: Sequence) -> Sequence:
    """Those of ``items`` that this process evaluates: every ``world_size``-th."""
    return items[rank() :: world_size()]


@torch.no_grad()
def broadcast_model(model: torch.nn.Module) -> None:
    """Give every process the main one's parameters and buffers."""
    if active():
        for tensor in [*model.parameters(), *model.buffers()]:
            dist.broadcast(tensor.detach(), src=0)


@torch.no_grad()
def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace every ``.grad`` by its mean over the processes, in place.

    A parameter without a gradient in this process counts as zero if another process has one, and stays without one
    otherwise: the optimiser leaves it alone, as in a single process.
    """
    if not active():
        return
    parameters = [p for p in parameters if p.requires_grad]
    used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8)
    dist.all_reduce(used, op=dist.ReduceOp.MAX)
    parameters = [p for p, has_gradient in zip(parameters, used.tolist()) if has_gradient]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    for start in range(0, len(gradients), _BUCKET):
        bucket = gradients[start : start + _BUCKET]
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        dist.all_reduce(flat)
        parts = (flat / world_size()).split([gradient.numel() for gradient in bucket])
        for parameter, gradient, part in zip(parameters[start:], bucket, parts):
            parameter.grad = part.view_as(gradient)
