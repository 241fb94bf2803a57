"""Memory: how much a computation can still get, and keeping what it frees for its next step."""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import torch

GIB = 2**30

# Files of a control group's version: its limit, its usage, and the part of the usage that the
# kernel gives back when memory runs short.
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")

# Settings of glibc's `mallopt` (malloc.h): the free bytes at the end of the heap from which it
# shrinks, the size from which a block has a mapping of its own, and the number of such mappings.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_KEEPING = {_TRIM_THRESHOLD: -1, _MMAP_MAX: 0}
# The values that glibc itself reaches at most; without `mallopt` they grow with the freed blocks.
_USUAL = {_TRIM_THRESHOLD: 2**26, _MMAP_THRESHOLD: 2**25, _MMAP_MAX: 2**16}


def available_bytes(device: torch.device, root: Path = Path("/")) -> int | None:
    """Return how many bytes can be allocated on a device.

    On the CPU this is the free memory of the computer, or of the control group of this process if
    that is less (jobs of Slurm, containers).

    Args:
        device: the CPU or a GPU.
        root: folder that holds ``proc`` and ``sys``.

    Returns:
        None if the system does not tell.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # Memory that torch keeps for later tensors counts as used there.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + kept
    amounts = [*_of_computer(root), *_of_groups(root)]
    return min(amounts, default=None)


def require_memory(needed: int, device: torch.device, what: str, remedy: str) -> None:
    """Refuse a computation that needs more memory than there is.

    Args:
        needed: bytes to allocate.
        device: where.
        what: the computation, for the message.
        remedy: what the message tells the user to do.

    Raises:
        ValueError: if the device has less memory.
    """
    available = available_bytes(device)
    if available is not None and needed > available:
        raise ValueError(
            f"{what} must fit into memory, but needs {needed / GIB:.1f} GiB of the "
            f"{available / GIB:.1f} GiB that are free on {device}; {remedy}."
        )


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Keep freed memory for later allocations inside of the block; return it to the system after.

    A step of a training allocates the blocks that the step before has freed. By default glibc
    returns the larger ones to the system, which clears every page of them again: 3 to 17 % of a
    step on a CPU. Other libraries are left as they are. The context manager is also a decorator.
    """
    library = ctypes.CDLL(None)
    if not (hasattr(library, "mallopt") and hasattr(library, "malloc_trim")):
        yield
        return
    for setting, value in _KEEPING.items():
        library.mallopt(setting, value)
    try:
        yield
    finally:
        for setting, value in _USUAL.items():
            library.mallopt(setting, value)
        library.malloc_trim(0)


def _of_computer(root: Path) -> Iterator[int]:
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024
    except OSError:  # another system than Linux
        with contextlib.suppress(ValueError, OSError, AttributeError):
            yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _of_groups(root: Path) -> Iterator[int]:
    """Yield what is left in the control group of this process, and in each group around it."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, files = root / "sys/fs/cgroup", _V2
        elif "memory" in controllers.split(","):
            base, files = root / "sys/fs/cgroup/memory", _V1
        else:
            continue
        inside = Path(path.lstrip("/"))
        for folder in (inside, *inside.parents):
            yield from _of_group(base / folder, *files)


def _of_group(folder: Path, limit: str, usage: str, reclaimable: str) -> Iterator[int]:
    # A group may have no such files, and no limit is the word "max".
    with contextlib.suppress(OSError, ValueError):
        most = int((folder / limit).read_text())
        used = int((folder / usage).read_text())
        for line in (folder / "memory.stat").read_text().splitlines():
            if line.startswith(f"{reclaimable} "):
                used -= int(line.split()[1])
        yield max(0, most - used)
