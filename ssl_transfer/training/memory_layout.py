"""The memory layout of images and filters in a training: channels first or channels last.

The layout changes the order of sums, and therefore the last bits of a result, but no formula.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

Choice = bool | Literal["auto"]
"""Values of ``trainer.channels_last``."""

WIDE = 512
"""Channels of the widest convolution from which a CPU trains a network faster with channels last.

Networks that have such a convolution (ResNets, RegNets, DenseNets, MobileNets, EfficientNets)
trained 1.02 to 1.4 times as fast on the machine of ``benchmarks/README.md``, VGG-11 0.82 times;
narrower networks 0.95 to 1.13 times.
"""


def is_faster_last(network: nn.Module, device: str, precision: str) -> bool:
    """Return whether ``trainer.channels_last=auto`` selects channels last.

    The rule depends on the architecture, the type of the device and the precision, never on a
    measurement, so that a run selects the same layout whenever it is repeated. A network counts as
    convolutional if it has two convolutions besides patch embeddings. The rule selects channels
    last for convolutional networks in half precision on a GPU, whose tensor cores need this layout
    (https://docs.nvidia.com/deeplearning/performance/dl-performance-convolutional/), and in
    ``fp32`` or ``bf16`` on a CPU if the widest convolution has at least ``WIDE`` channels.

    Args:
        network: the learner that is trained.
        device: the type of the device, such as ``cpu`` or ``cuda``.
        precision: ``fp32``, ``bf16``, ``fp16`` or ``fp64``.
    """
    widths = [max(layer.in_channels, layer.out_channels) for layer in _convolutions(network)]
    tensors = (*network.parameters(), *network.buffers())
    if len(widths) < 2 or any(tensor.ndim == 5 for tensor in tensors):
        return False  # torch cannot convert a module with tensors of five axes
    if device == "cuda":
        return precision in ("bf16", "fp16")
    return device == "cpu" and precision in ("fp32", "bf16") and max(widths) >= WIDE


def _convolutions(network: nn.Module) -> Iterator[nn.Conv2d]:
    """Yield the convolutions that are not patch embeddings, whose patches do not overlap."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            kernel, stride = layer.kernel_size, layer.stride
            if kernel != stride or kernel == (1, 1):
                yield layer


def channels_last(view: Tensor) -> Tensor:
    """Return images with channels last; features, which have two axes, are unchanged."""
    return view.contiguous(memory_format=torch.channels_last) if view.ndim == 4 else view
