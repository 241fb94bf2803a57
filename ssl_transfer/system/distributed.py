"""Start-up of the process group, who am I, and collectives that carry gradients.

Everything here is a no-op with a single process, so callers never ask which case they are in.

What the gradients mean: the collectives differentiate the SUM of all processes' losses (the
adjoint of "every process reads x" is "add up what every process sends back"), and
``DistributedDataParallel`` divides parameter gradients by the number of processes. Together that
is the gradient of the MEAN of the processes' losses. A method may therefore compute the same
full-batch loss on every process (after ``gather``) or its own share's mean: the parameters
receive the true gradient of the global loss either way.
"""

import dataclasses
import datetime
import gc
import os
import socket
from collections.abc import Mapping
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from jaxtyping import Int64, Shaped
from torch import Tensor

from ssl_transfer import randomness

T = TypeVar("T")

_subgroups: dict[int, dist.ProcessGroup] = {}


@dataclasses.dataclass(frozen=True)
class Place:
    """This process's place among those that work on one run.

    Args:
        rank: number of this process.
        world_size: number of processes.
        local_rank: number of this process on its computer.
        address: ``tcp://host:port`` to meet at (``None``: torchrun's environment says it).
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    address: str | None = None


def find_place(environment: Mapping[str, str] | None = None) -> Place:
    """Return the place that torchrun, or submitit, or neither gave this process.

    torchrun's variables come first: a job that packs several single-process runs side by side
    sets ``WORLD_SIZE=1`` and thereby keeps them apart.

    Raises:
        ValueError: if torchrun's variables are incomplete.
    """
    env = os.environ if environment is None else environment
    if "WORLD_SIZE" in env:
        return _torchrun_place(env)
    # A SLURM batch script has SLURM_NTASKS and SLURM_PROCID too, and so has the shell of salloc:
    # only a step started by srun knows SLURM_STEP_NUM_TASKS. Believing the others would make a
    # single process wait for partners that do not exist.
    executor = env.get("SUBMITIT_EXECUTOR")
    if executor == "local" or (executor == "slurm" and "SLURM_STEP_NUM_TASKS" in env):
        return _submitit_place()
    return Place()


def _torchrun_place(env: Mapping[str, str]) -> Place:
    if env["WORLD_SIZE"] == "1":
        return Place()
    missing = [k for k in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if k not in env]
    if missing:
        raise ValueError(
            "The variables RANK, LOCAL_RANK, MASTER_ADDR and MASTER_PORT must accompany "
            f"WORLD_SIZE={env['WORLD_SIZE']}, but {', '.join(missing)} is missing; start with "
            "torchrun, or unset WORLD_SIZE."
        )
    return Place(int(env["RANK"]), int(env["WORLD_SIZE"]), int(env["LOCAL_RANK"]))


def _submitit_place() -> Place:
    import submitit

    try:
        job = submitit.JobEnvironment()
    except RuntimeError:  # the variables were inherited from a job that this process is not
        return Place()
    if job.num_tasks == 1:
        return Place()
    first = job.hostnames[0] if job.num_nodes > 1 else "127.0.0.1"
    host = os.environ.get("MASTER_ADDR", first)
    # A function of the job's id, hence the same for all; below the ports that Linux hands out to
    # outgoing connections (32768 and up).
    port = 20000 + randomness.derive(0, "port", job.job_id) % 12000
    return Place(job.global_rank, job.num_tasks, job.local_rank, f"tcp://{host}:{port}")


def start(device: str = "auto", *, timeout_minutes: float = 30.0) -> torch.device:
    """Join the other processes of this run, if there are any, and return this process's device.

    A process that ends closes its connections, and partners that wait for it raise at once. So
    a failed process must end, or call ``stop``; the time limit is for one that hangs.

    Args:
        device: ``auto`` (CUDA if there is any), ``cpu``, ``cuda``, or a full device name for a
            single process.
        timeout_minutes: longest wait in a collective.

    Raises:
        ValueError: if the device does not exist, if two processes would share a GPU, or if the
            computer to meet at is unknown.
    """
    place = find_place()
    chosen = _device(device, place)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if place.world_size == 1 or dist.is_initialized():
        return chosen
    _refuse_unknown_host(place)
    dist.init_process_group(
        # Objects, flags and barriers travel by gloo: they stay out of the GPU's queue.
        "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo",
        init_method=place.address or "env://",
        rank=place.rank,
        world_size=place.world_size,
        timeout=datetime.timedelta(minutes=timeout_minutes),
    )
    if chosen.type == "cuda":
        _refuse_shared_gpus(chosen)
    return chosen


def _device(name: str, place: Place) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(
            f"`trainer.device` must be `auto`, `cpu` or `cuda`, but is {name!r}."
        ) from error
    if device.type != "cuda":
        return device
    count = torch.cuda.device_count()
    if count == 0 or (device.index or 0) >= count:
        raise ValueError(
            f"`trainer.device` must be a device of this computer, but is {name!r} and {count} "
            "CUDA devices are visible; use `trainer.device=auto`."
        )
    if device.index is None or place.world_size > 1:
        # Modulo: SLURM may show each process only its own GPU, then number 0 for all. For the
        # same reason CUDA_VISIBLE_DEVICES is left as it is.
        return torch.device("cuda", place.local_rank % count)
    return device


def _refuse_unknown_host(place: Place) -> None:
    """Torch would try to find the computer for as long as the time limit."""
    if place.address is None:
        return
    host = place.address.removeprefix("tcp://").rpartition(":")[0]
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise ValueError(
            f"The first computer's name must be known to the network, but `{host}` is not "
            f"({error}); set MASTER_ADDR: hydra.launcher.setup='[\"export MASTER_ADDR=…\"]'."
        ) from error


def _refuse_shared_gpus(device: torch.device) -> None:
    """NCCL hangs or fails obscurely when two processes use one GPU."""
    mine = (socket.gethostname(), str(torch.cuda.get_device_properties(device).uuid))
    gpus = gather_objects(mine)
    if len(set(gpus)) < len(gpus):
        stop()
        raise ValueError(
            f"Each process needs a GPU of its own, but {len(gpus)} processes share "
            f"{len(set(gpus))}; start fewer processes, or use `trainer.device=cpu`."
        )


def stop() -> None:
    """Leave the process group; partners that still wait for this process raise at once.

    A ``DistributedDataParallel`` module that is still referenced (by the traceback of an exception
    that is being handled, too) keeps the connections open, until it goes or the process ends.
    """
    if dist.is_initialized():
        _subgroups.clear()
        gc.collect()  # such modules are part of reference cycles
        dist.destroy_process_group()


def is_lost_partner(error: BaseException) -> bool:
    """Return whether an error says that another process of this run is gone."""
    words = (
        "Connection closed by peer",
        "Connection reset by peer",
        "Broken pipe",
        "remote process",
    )
    return (
        world_size() > 1
        and isinstance(error, RuntimeError)
        and any(word in str(error) for word in words)
    )


def rank() -> int:
    """Return the number of this process, 0 for a single one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes that share this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Return whether this process writes files and talks to the user."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    any_true(False)


def any_true(flag: bool) -> bool:
    """Return whether ``flag`` is true on any process; all get the same answer."""
    if world_size() == 1:
        return flag
    total = torch.tensor(int(flag))
    dist.all_reduce(total)
    return bool(total)


def broadcast_object(value: T) -> T:
    """Return the first process's ``value`` on every process."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def shared_permutation(size: int) -> Int64[Tensor, " size"]:
    """Return a random order that is the same on all processes.

    It is the first process's draw. The training loop seeds generators at every step, so that a
    draw made before anything else in a forward pass is a function of (seed, step) alone.
    """
    return broadcast_object(torch.randperm(size))


def gather_objects(value: T) -> list[T]:
    """Return every process's ``value`` on every process, in order of rank."""
    if world_size() == 1:
        return [value]
    values: list[T | None] = [None] * world_size()
    dist.all_gather_object(values, value)
    return cast("list[T]", values)


def subgroup(size: int) -> dist.ProcessGroup:
    """Return the group of ``size`` consecutive processes that this one belongs to.

    The first call for a size must be made by all processes.
    """
    if size not in _subgroups:
        assert world_size() % size == 0, (world_size(), size)
        for first in range(0, world_size(), size):
            members = list(range(first, first + size))
            group = dist.new_group(members)
            if isinstance(group, dist.ProcessGroup):  # not so for those who are no members
                _subgroups[size] = group
    return _subgroups[size]


def gather(
    x: Shaped[Tensor, "batch *rest"], group: dist.ProcessGroup | None = None
) -> Shaped[Tensor, "rows *rest"]:
    """Return the rows of all processes in order of rank; gradients flow back to their owners.

    Args:
        x: the same shape on every process.
        group: of processes (``None``: all).
    """
    if world_size() == 1:
        return x
    gathered: Tensor = _Gather.apply(x, group)
    return gathered


def all_reduce_sum(
    x: Shaped[Tensor, "*shape"], group: dist.ProcessGroup | None = None
) -> Shaped[Tensor, "*shape"]:
    """Return the sum over processes; gradients flow back to every summand.

    Args:
        x: the same shape on every process.
        group: of processes (``None``: all).
    """
    if world_size() == 1:
        return x
    total: Tensor = _AllReduceSum.apply(x, group)
    return total


class _Gather(torch.autograd.Function):
    """Forward: concatenate. Backward: sum what all processes send back, keep the own rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group, ctx.rows = group, len(x)
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, x, group=group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        first = dist.get_rank(ctx.group) * ctx.rows
        return total[first : first + ctx.rows], None


class _AllReduceSum(torch.autograd.Function):
    """The sum over processes is its own adjoint."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None
