"""A measure of the collapse of embeddings."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ssl_transfer.system import distributed


@torch.no_grad()
def spread(z: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """Return the deviation of the embeddings' directions over the global batch, times √dim.

    It is 0 if all embeddings have the same direction (collapse), and about 1 if their directions
    are uniform (Chen and He 2021, section 4.1, https://arxiv.org/abs/2011.10566).

    Args:
        z: this process's embeddings, of any length but 0.
    """
    unit = F.normalize(z)
    moments = torch.stack([unit.mean(dim=0), unit.square().mean(dim=0)])
    mean, square = (distributed.all_reduce_sum(moments) / distributed.world_size()).unbind()
    # Clamp the variance, since rounding may make it slightly negative.
    deviation = (square - mean.square()).clamp_min(0).sqrt()
    return deviation.mean() * math.sqrt(z.shape[1])
