"""Several processes, one training run: start-up by ``torchrun``'s environment, and the few sums and exchanges.

Every function here also works, and costs nothing, in a single process. Gradients are averaged after the last
micro-batch of a step, all at once: processes may cut their share of a batch differently (one of them may have run out
of memory), may have parameters without a gradient, and may agree to skip a step, none of which an overlapped
all-reduce allows.
"""

import contextlib
import datetime
import os

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from dino_nb.errors import UserError

_BUCKET = 8 << 20  # gradient elements that are reduced in one go


@contextlib.contextmanager
def session(timeout_minutes=30.0):
    """Join the processes that ``torchrun`` (or Slurm) started, for as long as the block lasts; yields the device.

    Without ``WORLD_SIZE`` in the environment, or where it is 1, this is a single process. On GPUs each process takes
    the one of its ``LOCAL_RANK``. An exception in one process is not held up by the others: it leaves at once, the
    launcher ends them, and at the latest their next exchange fails.

    Raises:
        UserError: more processes than GPUs on this machine.
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
    # torchrun's store outlives its workers: those that it starts again must not meet the addresses of the dead.
    store = dist.PrefixStore(f"start_{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    # Small exchanges (flags, results) go over the CPU, so that they neither wait for the GPU nor take its memory.
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=timeout)
    yield device
    # Reached without an exception only: waiting for the others after one could take until the timeout.
    dist.barrier()
    dist.destroy_process_group()


def active():
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized()


def world_size():
    """Number of processes."""
    return dist.get_world_size() if active() else 1


def rank():
    """Number of this process, from 0."""
    return dist.get_rank() if active() else 0


def is_main():
    """Whether this is the process that prints and writes."""
    return rank() == 0


def say(text):
    """Print in the main process alone."""
    if is_main():
        print(text, flush=True)


def is_restart():
    """Whether ``torchrun`` or Slurm has started this run again by itself: it then goes on from its last state."""
    counts = (os.environ.get(name, "0") for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))
    return any(int(count) > 0 for count in counts)


def barrier():
    """Wait for the others."""
    if active():
        dist.barrier()


def on_main(function, *args):
    """Call ``function(*args)`` in the main process alone; its result, or its error, is that of every process."""
    if not active():
        return function(*args)
    outcome = [None, None]
    if is_main():
        try:
            outcome[0] = function(*args)
        except Exception as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=0, device=torch.device("cpu"))
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def any_process(flag):
    """Whether ``flag`` is true in at least one process."""
    return reduce_sum(float(bool(flag))) > 0


def reduce_sum(value):
    """The sum of a number over the processes, as a float."""
    if not active():
        return float(value)
    total = torch.tensor(float(value), dtype=torch.float64)
    dist.all_reduce(total)
    return total.item()


def reduce_mean(value):
    """The mean of a number over the processes, as a float: the number of boxes that losses are divided by."""
    return reduce_sum(value) / world_size()


def all_gather_objects(value):
    """``[value of process 0, value of process 1, ...]`` in every process, for plain data."""
    if not active():
        return [value]
    gathered = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def gather_results(results):
    """Evaluation results of all processes: ``{image_id: result}`` each -> one, in order of the ids, in every process.

    An image that several processes looked at counts once.
    """
    merged = {}
    for part in reversed(all_gather_objects(results)):
        merged.update(part)
    return {image_id: merged[image_id] for image_id in sorted(merged)}


def my_share(items):
    """Those of ``items`` that this process evaluates: every ``world_size``-th."""
    return items[rank() :: world_size()]


@torch.no_grad()
def broadcast_model(model):
    """Give every process the main one's parameters and buffers."""
    if active():
        for tensor in [*model.parameters(), *model.buffers()]:
            dist.broadcast(tensor.detach(), src=0)


@torch.no_grad()
def average_gradients(parameters):
    """Replace every ``.grad`` by its mean over the processes, in place.

    A parameter without a gradient in this process counts as zero if another process has one, and stays without one
    otherwise (so that the optimiser leaves it alone, as in a single process).
    """
    if not active():
        return
    parameters = [p for p in parameters if p.requires_grad]
    present = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8)
    dist.all_reduce(present, op=dist.ReduceOp.MAX)
    for parameter, used in zip(parameters, present.tolist()):
        if used and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for bucket in _buckets([p.grad for p in parameters if p.grad is not None]):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        dist.all_reduce(flat)
        flat /= world_size()
        parts = flat.split([gradient.numel() for gradient in bucket])
        torch._foreach_copy_(bucket, [part.view_as(gradient) for part, gradient in zip(parts, bucket)])


def _buckets(tensors):
    """Lists of tensors of one dtype and device, of about ``_BUCKET`` elements."""
    bucket, size = [], 0
    for tensor in tensors:
        if bucket and (
            size + tensor.numel() > _BUCKET or (tensor.dtype, tensor.device) != (bucket[0].dtype, bucket[0].device)
        ):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel()
    if bucket:
        yield bucket
