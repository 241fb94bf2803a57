"""Moving averages of a trained network: BYOL's target, MoCo's key encoder, DINO's teacher.

Such a network is an ordinary submodule without gradients, so that it is saved and restored with the
rest. Only its parameters are averaged. BatchNorm layers of a target are in train mode and keep
their own running statistics.
"""

import copy
import math
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def target_of(online: Module) -> Module:
    """Return a copy of ``online`` that gets no gradients."""
    return copy.deepcopy(online).requires_grad_(False)


@torch.no_grad()
def follow(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """Move the target's parameters, in place, to ``momentum · target + (1 - momentum) · online``.

    Args:
        target: the network that ``target_of(online)`` returned.
        online: the network that gradients train.
        momentum: in [0, 1]; 1 does not change the target.
    """
    # One call for all parameters: a GPU then needs few kernels.
    torch._foreach_lerp_([*target.parameters()], [*online.parameters()], 1.0 - momentum)


def cosine_momentum(start: float, progress: float) -> float:
    """Return a momentum that rises from ``start`` to 1 along half a cosine.

    Section 3.2 of BYOL (https://arxiv.org/abs/2006.07733), section 3.1 of DINO
    (https://arxiv.org/abs/2104.14294).

    Args:
        start: the momentum at progress 0.
        progress: completed share of the training, in [0, 1].
    """
    return 1.0 - (1.0 - start) * (math.cos(math.pi * progress) + 1.0) / 2.0
