"""Training on several domains: the risk of each domain, and V-REx's penalty on their variance."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_transfer.system import distributed

Variance = Literal["population", "published"]
"""Forms of the variance of the risks, see ``variance_of``."""


def domain_risks(
    losses: Float[Tensor, "*heads share"], domains: int
) -> Float[Tensor, "*heads domains"]:
    """Return the mean loss of every domain of the GLOBAL batch, on all processes.

    The global batch consists of ``domains`` consecutive parts of equal size, one per domain, and
    process r of W holds the r-th of its W consecutive shares (see ``DomainOrder``). Gradients flow
    back to the losses of all processes.

    Args:
        losses: losses of this process's images.
        domains: number of domains in the global batch; it divides the batch.
    """
    share = losses.shape[-1]
    size = share * distributed.world_size() // domains
    first = distributed.rank() * share
    part = torch.arange(first, first + share, device=losses.device) // size
    members = F.one_hot(part, domains).to(losses.dtype)
    return distributed.all_reduce_sum(losses @ members) / size


def variance_of(
    risks: Float[Tensor, "*heads domains"], variance: Variance = "population"
) -> Float[Tensor, "*heads"]:
    """Return the variance of the risks of the domains.

    Args:
        risks: mean losses of at least two domains.
        variance: ``population``: the sum of squared deviations divided by D, as in eq. 8 of V-REx
            and in DomainBed; ``published``: divided by (D - 1) · D, as in the code of
            https://github.com/TjuJianyu/RFC (``src/algorithms/VREX.py``), which divides the
            unbiased variance by D once more. Both are equal for two domains.
    """
    if variance == "population":
        return risks.var(-1, correction=0)
    return risks.var(-1, correction=1) / risks.shape[-1]


def vrex(
    risks: Float[Tensor, "*heads domains"],
    weights: Float[Tensor, "*heads"],
    variance: Variance = "population",
) -> Float[Tensor, "*heads"]:
    """Return the objective of V-REx: (mean risk + λ · variance of the risks) / max(1, λ).

    Krueger et al. 2021, https://arxiv.org/abs/2003.00688, eq. 8, with the mean of the risks in
    place of their sum. As in the authors' code, the whole objective is divided by a λ above 1, so
    that a large λ does not enlarge the steps.

    Args:
        risks: mean losses of the domains.
        weights: λ of each head, at least 0.
        variance: see ``variance_of``.
    """
    penalised = risks.mean(-1) + weights * variance_of(risks, variance)
    return penalised / weights.clamp(min=1)


class DomainObjective(nn.Module):
    """The loss of heads on batches of several domains: the mean risk, or that of V-REx.

    Args:
        domains: number of domains in a batch.
        weights: V-REx's λ of each head (``None``: no penalty, which is empirical risk minimisation
            with domains of equal weight).
        variance: see ``variance_of``.
        from_step: first step with the penalty; before it, λ is 0.
    """

    def __init__(
        self,
        domains: int,
        weights: Sequence[float] | None = None,
        variance: Variance = "population",
        from_step: int = 0,
    ) -> None:
        super().__init__()
        self.domains, self.variance, self.from_step = domains, variance, from_step
        tensor = None if weights is None else torch.tensor(weights, dtype=torch.float64)
        self.register_buffer("weights", tensor, persistent=False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.weights: Tensor | None
        self.steps: Tensor
        """Number of steps so far; part of a checkpoint."""

    def forward(self, losses: Float[Tensor, "heads share"]) -> Float[Tensor, " heads"]:
        """Return each head's objective from the losses of this process's images."""
        risks = domain_risks(losses, self.domains)
        if self.weights is None:
            return risks.mean(-1)
        weights = torch.where(self.steps < self.from_step, 0.0, self.weights)
        return vrex(risks, weights.to(risks.dtype), self.variance)

    def after_step(self) -> None:
        """Count a step."""
        self.steps += 1
