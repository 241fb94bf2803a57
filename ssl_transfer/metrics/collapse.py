"""How far embeddings are from being all the same."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ssl_transfer.system import distributed


@torch.no_grad()
def spread(z: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """Return the deviation of the embeddings' directions over the global batch, times √dim.

    0 if all embeddings point the same way (collapse), about 1 if they point everywhere (Chen and He
    2021, section 4.1, https://arxiv.org/abs/2011.10566).

    Args:
        z: this process's embeddings, of any length but 0.
    """
    unit = F.normalize(z)
    moments = torch.stack([unit.mean(dim=0), unit.square().mean(dim=0)])
    mean, square = (distributed.all_reduce_sum(moments) / distributed.world_size()).unbind()
    # Rounding may leave a variance of 0 slightly negative.
    deviation = (square - mean.square()).clamp_min(0).sqrt()
    return deviation.mean() * math.sqrt(z.shape[1])
