"""Names of the processors and cards that compute."""

import functools
import platform
from pathlib import Path

import torch
from torch import Tensor

_CPUINFO = Path("/proc/cpuinfo")


def device_name(device: torch.device) -> str | None:
    """Return the name of a processor or card, such as ``NVIDIA H100 80GB HBM3``; None if unknown.

    Times on devices of one type but with different names are not comparable.
    """
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return _processor() if device.type == "cpu" else None


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on a device; the host does not wait for a GPU's work.

    Example:
        >>> to_device(torch.arange(3), torch.device("cpu"))
        tensor([0, 1, 2])
    """
    if device.type == "cuda":  # only from pinned memory is the copy asynchronous
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@functools.cache
def _processor() -> str | None:
    """Return the name of the processor as Linux states it, else as Python does."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return " ".join(value.split())
    return platform.processor() or None
