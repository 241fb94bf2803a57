"""Start-up of the process group, ranks, and collectives that propagate gradients.

Everything here is a no-op with a single process, so callers need no special case.

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
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from jaxtyping import Int64, Shaped
from torch import Tensor

from ssl_transfer import randomness
from ssl_transfer.system.devices import to_device

T = TypeVar("T")

_subgroups: dict[int, dist.ProcessGroup] = {}


@dataclasses.dataclass(frozen=True)
class Place:
    """This process's place among those that work on one run.

    Args:
        rank: number of this process.
        world_size: number of processes.
        local_rank: number of this process on its computer.
        address: rendezvous as ``tcp://host:port`` (``None``: from torchrun's environment).
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    address: str | None = None


def find_place(environment: Mapping[str, str] | None = None) -> Place:
    """Return this process's place, from the environment of torchrun or submitit.

    torchrun's variables have priority: a job that packs several single-process runs sets
    ``WORLD_SIZE=1`` for each of them.

    Returns:
        The place of a single process if neither launcher started this one.

    Raises:
        ValueError: if torchrun's variables are incomplete.
    """
    env = os.environ if environment is None else environment
    if "WORLD_SIZE" in env:
        return _torchrun_place(env)
    # Batch scripts and the shell of salloc have SLURM_NTASKS and SLURM_PROCID, too, but only a step
    # started by srun has SLURM_STEP_NUM_TASKS. With the other variables a single process would wait
    # for processes that do not exist.
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
    except RuntimeError:  # variables inherited from a job that this process does not belong to
        return Place()
    if job.num_tasks == 1:
        return Place()
    first = job.hostnames[0] if job.num_nodes > 1 else "127.0.0.1"
    host = os.environ.get("MASTER_ADDR", first)
    # Derived from the job's id, so it is the same on all processes; below the range that Linux uses
    # for outgoing connections (32768 and up).
    port = 20000 + randomness.derive(0, "port", job.job_id) % 12000
    return Place(job.global_rank, job.num_tasks, job.local_rank, f"tcp://{host}:{port}")


def start(device: str = "auto", *, timeout_minutes: float = 30.0) -> torch.device:
    """Join the other processes of this run, if there are any, and return this process's device.

    When a process ends, its connections close and waiting processes raise at once. A failed
    process must therefore end or call ``stop``; the time limit only covers one that hangs.

    Args:
        device: ``auto`` (CUDA if available), ``cpu``, ``cuda``, or a full device name for a
            single process.
        timeout_minutes: longest wait in a collective.

    Raises:
        ValueError: if the device does not exist, if two processes would share a GPU, or if the
            rendezvous host is unknown.
    """
    place = find_place()
    chosen = _device(device, place)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if place.world_size == 1 or dist.is_initialized():
        return chosen
    _refuse_unknown_host(place)
    dist.init_process_group(
        # Objects, flags and barriers use gloo, so that they do not enter the GPU's queue.
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
        # Modulo, because SLURM may make only one GPU visible to each process, which is then
        # number 0. CUDA_VISIBLE_DEVICES is left unchanged for the same reason.
        return torch.device("cuda", place.local_rank % count)
    return device


def _refuse_unknown_host(place: Place) -> None:
    """Raise ValueError if the rendezvous host has no address; torch would retry for minutes."""
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
    """Raise ValueError if two processes use one GPU: NCCL would hang or fail obscurely."""
    gpu = (socket.gethostname(), str(torch.cuda.get_device_properties(device).uuid))
    gpus = gather_objects(gpu)
    if len(set(gpus)) < len(gpus):
        stop()
        raise ValueError(
            f"Each process needs a GPU of its own, but {len(gpus)} processes share "
            f"{len(set(gpus))}; start fewer processes, or use `trainer.device=cpu`."
        )


def stop() -> None:
    """Leave the process group; processes that still wait for this one raise at once.

    A ``DistributedDataParallel`` module keeps the connections open while anything refers to it,
    such as the traceback of an exception that is being handled.
    """
    if dist.is_initialized():
        _subgroups.clear()
        gc.collect()  # such modules are in reference cycles
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


def share(count: int) -> slice:
    """Return this process's share of ``count`` items: consecutive ones, about as many as others."""
    return slice(count * rank() // world_size(), count * (rank() + 1) // world_size())


def shared_permutation(size: int, device: torch.device) -> Int64[Tensor, " size"]:
    """Return a random order on a device, the same on all processes and kinds of devices.

    The first process draws it. The training loop seeds the generators at every step, so the first
    draw in a forward pass is a function of (seed, step) alone.
    """
    return to_device(broadcast_object(torch.randperm(size)), device)


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
            if isinstance(group, dist.ProcessGroup):  # otherwise this process is no member
                _subgroups[size] = group
    return _subgroups[size]


def gather(
    x: Shaped[Tensor, "batch *rest"], group: dist.ProcessGroup | None = None
) -> Shaped[Tensor, "rows *rest"]:
    """Return the rows of all processes in order of rank; gradients flow back to their owners.

    Args:
        x: the same shape on every process.
        group: the processes (``None``: all).
    """
    if world_size() == 1:
        return x
    gathered: Tensor = _Gather.apply(x, group)
    return gathered


def gather_views(views: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return ``gather`` of each of some tensors of one shape, by one collective."""
    if world_size() == 1:
        return tuple(views)
    return gather(torch.stack(list(views), dim=1)).unbind(1)


def all_reduce_sum(
    x: Shaped[Tensor, "*shape"], group: dist.ProcessGroup | None = None
) -> Shaped[Tensor, "*shape"]:
    """Return the sum over processes; gradients flow back to every summand.

    Args:
        x: the same shape on every process.
        group: the processes (``None``: all).
    """
    if world_size() == 1:
        return x
    total: Tensor = _AllReduceSum.apply(x, group)
    return total


class _Gather(torch.autograd.Function):
    """Forward: concatenate. Backward: sum the gradients of all processes, keep the own rows."""

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
