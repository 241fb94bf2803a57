"""Measures of the collapse of embeddings."""

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


def rankme(features: Float[Tensor, "samples dim"], eps: float = 1e-7) -> Float[Tensor, ""]:
    """Return RankMe: the exponential of the entropy of the singular values' shares.

    Equations 1 and 2 of Garrido et al. 2023 (https://arxiv.org/abs/2210.02885). It is about 1 if
    all rows have the same direction, and at most the smaller of samples and features.

    Args:
        features: not centred, of any length.
        eps: added to the shares.
    """
    values = torch.linalg.svdvals(features)
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + eps
    rank: Tensor = torch.special.entr(shares).sum().exp()
    return rank
