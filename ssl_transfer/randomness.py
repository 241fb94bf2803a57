"""Counter-based random numbers: every draw is a pure function of its purpose and position.

A draw depends only on ``(seed, purpose, epoch, sample index, view)``, not on the worker or process
that makes it, the order of calls, or earlier draws. So one process gives the same results as
several, and an interrupted run the same as an uninterrupted one, without a generator state to save.

Layers and dropout draw from torch's global generators, which belong to the caller: code that seeds
or uses them does so inside ``preserved`` or ``seeded``.
"""

import contextlib
import hashlib
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64, Int64, UInt64

if TYPE_CHECKING:
    import torch

# Constants of SplitMix64 (Steele, Lea and Flood 2014, https://doi.org/10.1145/2660193.2660195).
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def _mix(z: UInt64[np.ndarray, "*shape"]) -> UInt64[np.ndarray, "*shape"]:
    """Apply SplitMix64's output function, a bijection with independent-looking output bits."""
    z = z + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    mixed: UInt64[np.ndarray, "*shape"] = z ^ (z >> np.uint64(31))
    return mixed


def derive(seed: int, *purpose: str | int) -> int:
    """Return the seed in ``[0, 2**63)`` that belongs to a purpose under ``seed``."""
    text = "\x1f".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def uniforms(
    seed: int,
    purpose: str,
    epochs: Int64[np.ndarray, " samples"],
    indices: Int64[np.ndarray, " samples"],
    *,
    view: int = 0,
    draws: int = 1,
) -> Float64[np.ndarray, "samples draws"]:
    """Return uniform numbers in ``[0, 1)``; row i belongs to sample ``indices[i]``."""
    # uint64 arithmetic on arrays wraps around without a warning, as the hash requires.
    state = np.full(len(indices), derive(seed, purpose, view), dtype=np.uint64)
    for part in (epochs, indices):
        state = _mix(state ^ _mix(part.astype(np.uint64)))
    counters = np.arange(1, draws + 1, dtype=np.uint64) * _GOLDEN
    bits = _mix(state[:, None] + counters[None, :])
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(seed: int, purpose: str, epoch: int, size: int) -> Int64[np.ndarray, " size"]:
    """Return the order of ``size`` samples in an epoch."""
    generator = np.random.Generator(np.random.Philox(derive(seed, purpose, epoch)))
    return generator.permutation(size).astype(np.int64)


def sample(
    seed: int, purpose: str, epoch: int, size: int, count: int
) -> Int64[np.ndarray, " count"]:
    """Return ``count`` different positions out of ``size``, in random order."""
    generator = np.random.Generator(np.random.Philox(derive(seed, purpose, epoch)))
    return generator.choice(size, count, replace=False).astype(np.int64)


@contextlib.contextmanager
def preserved(device: "torch.device | None" = None) -> Iterator[None]:
    """Restore all global generators afterwards: Python's, numpy's and torch's on CPU and GPUs.

    It works as a context manager and as a decorator, and also restores after an exception. CUDA is
    not initialised for this unless ``device`` is a GPU.

    Args:
        device: the device of the work inside (``None``: the CPU, or GPUs already in use).
    """
    import torch  # not at the top: commands that train nothing start without it

    own, cpu = random.getstate(), torch.get_rng_state()
    numpys = np.random.get_state(legacy=False)  # noqa: NPY002 - the caller's generator
    gpus = None
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if in_use or (device is not None and device.type == "cuda"):
        gpus = torch.cuda.get_rng_state_all()
    try:
        yield
    finally:
        random.setstate(own)
        np.random.set_state(numpys)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if gpus is not None:
            torch.cuda.set_rng_state_all(gpus)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch inside the block, e.g. to initialise layers; restore the generators afterwards."""
    import torch

    with preserved():
        seed_torch(seed, torch.device("cpu"))
        yield


def seed_torch(seed: int, device: "torch.device") -> None:
    """Seed torch's generator of the CPU, and that of ``device`` if it is a GPU.

    ``torch.manual_seed`` would seed all GPUs, also those that another program part uses later.
    """
    import torch

    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
