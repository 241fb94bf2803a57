"""Rows of features in float64, one block at a time: features may be larger than memory."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Float64
from torch import Tensor

Features = Float[Tensor, "samples dim"]
Block = tuple[slice, Tensor]
"""A range of rows and, in float64, these rows."""

BLOCK_ELEMENTS = 2**23  # of a block: 64 MiB


def blocks(features: Features) -> Iterator[Block]:
    """Yield the rows in float64, block by block."""
    step = max(1, BLOCK_ELEMENTS // features.shape[1])
    for start in range(0, len(features), step):
        rows = slice(start, start + step)
        yield rows, features[rows].double()


def mean(*parts: Float[Tensor, "_ dim"]) -> Float64[Tensor, " dim"]:
    """Return the mean of the rows of all parts."""
    total = torch.zeros(parts[0].shape[1], dtype=torch.float64, device=parts[0].device)
    for part in parts:
        for _, rows in blocks(part):
            total += rows.sum(dim=0)
    return total / sum(len(part) for part in parts)
