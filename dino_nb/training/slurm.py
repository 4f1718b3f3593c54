"""``--slurm``: the same command as a Slurm job, through ``submitit``, over any number of nodes and GPUs.

The job is put back into the queue when its time is up or when it is preempted, and then resumes: the signal that Slurm
sends beforehand lets the training finish its step and save its state.
"""

import argparse
import copy
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dino_nb.errors import UserError

_WARNING_SECONDS = 180  # before the end of the job's time: a step, and writing the state
_REQUEUES = 100
_SLURM = ("partition", "account", "qos", "constraint")  # options that are passed on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a Slurm job to a verb's parser."""
    group = parser.add_argument_group("Slurm", "run as a Slurm job; it is requeued, and resumes, when its time is up")
    group.add_argument("--slurm", action="store_true", help="submit this command as a job and return")
    group.add_argument("--nodes", type=int, default=1, help="machines (default 1)")
    group.add_argument("--gpus", type=int, default=8, help="GPUs a machine, one process each (default 8)")
    group.add_argument("--hours", type=float, default=48, help="time until the job is requeued (default 48)")
    group.add_argument("--cpus", type=int, default=10, help="processors a GPU (default 10)")
    for name in _SLURM:
        group.add_argument(f"--{name}", help=f"Slurm's {name}")
    group.add_argument(
        "--cluster", choices=("slurm", "local"), default="slurm", help="local: processes of this machine, to try it out"
    )


def submit(
    run: Callable[[argparse.Namespace], int], args: argparse.Namespace, output_dir: str | Path, resumes: bool = True
) -> Any:
    """Submit ``run(args)`` as a job of ``args.nodes * args.gpus`` processes. Returns submitit's job.

    Args:
        run: a function that can be imported, such as a verb's ``run``; it is called with ``args.slurm`` switched off.
        args: parsed options, with those of ``add_arguments``.
        output_dir: the job's logs go to ``slurm/JOB`` in it; all machines must see it.
        resumes: a requeued job runs with ``args.resume = "auto"``; False: it starts again.

    Raises:
        UserError: submitit is missing, or there is no Slurm here.
    """
    try:
        import submitit
    except ImportError as error:
        raise UserError('--slurm needs submitit: pip install "dino-nb[slurm]"') from error
    if args.nodes < 1 or args.gpus < 1:
        raise UserError(f"a job needs at least one node and one GPU a node, not {args.nodes} and {args.gpus}.")
    folder = Path(output_dir).resolve() / "slurm" / "%j"
    requeues = {"slurm_max_num_timeout": _REQUEUES, "local_max_num_timeout": _REQUEUES}
    try:
        executor = submitit.AutoExecutor(folder, args.cluster, **requeues)
    except RuntimeError as error:
        raise UserError(
            f"there is no Slurm on this machine ({error}). Submit from a login node of the cluster, or use torchrun "
            "on the machines themselves."
        ) from error
    options = {f"slurm_{name}": getattr(args, name) for name in _SLURM if getattr(args, name)}
    if args.cluster == "local":
        options["local_timeout_min"] = args.hours * 60
    else:  # whole minutes
        options["timeout_min"] = round(args.hours * 60)
    executor.update_parameters(
        name="dino-nb",
        nodes=args.nodes,
        gpus_per_node=args.gpus,
        tasks_per_node=args.gpus,
        cpus_per_task=args.cpus,
        stderr_to_stdout=True,
        slurm_signal_delay_s=_WARNING_SECONDS,
        slurm_srun_args=["--kill-on-bad-exit=1"],  # a process that fails takes the others with it
        **options,
    )
    args = copy.copy(args)
    args.slurm = False
    job = executor.submit(Job(run, args, resumes))
    print(f"Submitted job {job.job_id}. Its output: {job.paths.stdout}")
    return job


class Job:
    """What runs in each process of the job; submitit calls ``checkpoint`` for the one that follows a requeue."""

    def __init__(self, run: Callable[[argparse.Namespace], int], args: argparse.Namespace, resumes: bool) -> None:
        self.run, self.args, self.resumes = run, args, resumes

    def __call__(self) -> None:
        import submitit
        import torch

        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        if torch.cuda.device_count() == 1:
            os.environ["LOCAL_RANK"] = "0"  # clusters that bind GPUs to tasks show each task its own one only
        requeue = _stop_training_first()
        code = self.run(self.args)
        if not requeue() and code:
            raise RuntimeError(f"the command ended with exit code {code}; its output tells why.")

    def checkpoint(self) -> Any:
        import submitit

        args = copy.copy(self.args)
        if self.resumes:
            args.resume = "auto"
        return submitit.helpers.DelayedSubmission(Job(self.run, args, self.resumes))


def _stop_training_first() -> Callable[[], bool]:
    """Let submitit's requeue signal stop the training gently.

    submitit's handler saves and leaves at once, in the middle of a step. Training handles SIGTERM by finishing the
    step and saving; so that is sent first. Returns a function to be called when training has returned: it does
    nothing where no signal came, else it requeues, which ends the main process, and is true in the others.
    """
    number = getattr(signal, "SIG" + os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2"))
    requeue, idle = signal.getsignal(number), signal.getsignal(signal.SIGTERM)
    came = []

    def stop(*received):
        if signal.getsignal(signal.SIGTERM) is idle:  # nothing is being trained yet, or any more
            requeue(*received)
        else:
            came.append(received)
            signal.raise_signal(signal.SIGTERM)

    def after():
        if came:
            requeue(*came[0])
        return bool(came)

    signal.signal(number, stop)
    return after
