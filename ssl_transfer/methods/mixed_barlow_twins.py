"""Mixed Barlow Twins (Bandara et al. 2023, https://arxiv.org/abs/2312.02151).

The loss is that of Barlow Twins plus a mixing term: the correlations of mixed images' embeddings
with the views' should equal those of the same mixture of the images' own embeddings.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from ssl_transfer.config.ranges import Fraction, Length, NotNegative, Positive, checked
from ssl_transfer.datasets.transforms import Augmentation
from ssl_transfer.methods.barlow_twins import BarlowTwins, Target, Terms, redundancy
from ssl_transfer.methods.base import Images
from ssl_transfer.methods.correlation import (
    Embeddings,
    count_constant_features,
    squared_norms,
    standardise,
)
from ssl_transfer.models import Encoder
from ssl_transfer.system import distributed

Anchor = Literal["a", "b"]


class MixedTerms(NamedTuple):
    """The terms of Barlow Twins, and the squared distances from the two targets."""

    twins: Terms
    to_first: Float[Tensor, ""]
    to_second: Float[Tensor, ""]


def mixed_barlow_twins(
    a: Embeddings,
    b: Embeddings,
    mixed: Embeddings,
    permutation: Int64[Tensor, " batch"],
    share: float | Float[Tensor, ""],
    *,
    lambda_bt: float,
    offdiag_target: Target = 0,
    second_target: Anchor = "a",
    normalise: bool = False,
    unbiased: bool = False,
    eps: float = 1e-5,
) -> MixedTerms:
    """Return the loss of Barlow Twins, and the distances of mixed images from their targets.

    With standardised embeddings Z, the share α and the permutation π (README of wgcban/mix-bt),
    ``C_ma = Z_mᵀ Z_a / B`` has the target ``T_ma = (α Z_a + (1 - α) Z_b[π])ᵀ Z_a / B``;
    ``C_mb`` likewise, with ``Z_b`` on the right. The distances are ``‖C_ma - T_ma‖²_F`` and
    ``‖C_mb - T_mb‖²_F``; gradients flow through the targets, too. Both differences have the same
    left factor, ``C_ma - T_ma = Rᵀ Z_a / B`` with ``R = Z_m - α Z_a - (1 - α) Z_b[π]``, so that
    the function computes neither correlations nor targets (see ``squared_norms``).

    Args:
        a: embeddings of one view of the whole global batch, at least two.
        b: embeddings of the other view, in the same order.
        mixed: embeddings of the images ``α X_a + (1 - α) X_b[π]``.
        permutation: π, of the global batch.
        share: α, in [0, 1].
        lambda_bt: see ``barlow_twins``.
        offdiag_target: see ``barlow_twins``.
        second_target: the left factor of T_mb's first part: ``a`` as in the README and the code for
            small images, or ``b`` as in the code for ImageNet, ``α Z_bᵀ Z_b``.
        normalise: see ``barlow_twins``; true in the code for small images.
        unbiased: see ``barlow_twins``; true in the published code.
        eps: see ``barlow_twins``; 0 in the published code.
    """
    views = [a, b, mixed]
    if normalise:
        views = [F.normalize(z) for z in views]
    a, b, mixed = (standardise(z, unbiased=unbiased, eps=eps) for z in views)
    rest = mixed - (1 - share) * b[permutation]
    factors, second = [a, b, rest - share * a], 2
    if second_target == "b":
        factors.append(rest - share * b)
        second = 3
    squares, to_first, to_second = squared_norms(factors, [(0, 1), (2, 0), (second, 1)])
    twins = redundancy(
        a,
        b,
        squares,
        lambda_bt=lambda_bt,
        offdiag_target=offdiag_target,
    )
    return MixedTerms(twins, to_first / len(a) ** 2, to_second / len(a) ** 2)


class MixedBarlowTwins(BarlowTwins):
    """Barlow Twins with mixed images, which reduce overfitting.

    The mixed images pass the encoder after the two views, with their own batch statistics; all
    three update the running statistics, as in the published code. One permutation and one share are
    drawn per step for the global batch, and deviations are those of the global batch (in the code
    for ImageNet each process has its own). In the published code the gradient is divided by the
    number of processes; here it is not.

    Args:
        encoder: the encoder, trained in place.
        num_classes: not used.
        views: two augmentations.
        lambda_bt: λ_BT.
        projector: keys of ``Projector``.
        lambda_reg: λ_reg; the mixing term's weight in the loss is λ_reg · λ_BT. The code for
            ImageNet halves the term: its λ_reg corresponds to half that value here.
        lambda_reg_warmup: share of the training in which that weight rises linearly from 0; 0 in
            the code for small images, ten epochs in the code for ImageNet.
        mix_beta: parameters of the Beta distribution of the mixing share.
        second_target: see ``mixed_barlow_twins``.
        offdiag_target: see ``barlow_twins``.
        normalise: see ``barlow_twins``.
        unbiased: see ``barlow_twins``.
        eps: see ``barlow_twins``.

    Raises:
        ValueError: if a value is out of its range.
    """

    warmth: Float[Tensor, ""]

    @checked("method.")
    def __init__(
        self,
        encoder: Encoder,
        num_classes: int | None,
        views: Sequence[Augmentation],
        *,
        lambda_bt: NotNegative,
        projector: Mapping[str, Any],
        lambda_reg: NotNegative,
        lambda_reg_warmup: Fraction = 0.0,
        mix_beta: Annotated[Sequence[Positive], Length(2)] = (1.0, 1.0),
        second_target: Anchor = "a",
        offdiag_target: Target = 0,
        normalise: bool = False,
        unbiased: bool = False,
        eps: NotNegative = 1e-5,
    ) -> None:
        super().__init__(
            encoder,
            num_classes,
            views,
            lambda_bt=lambda_bt,
            projector=projector,
            offdiag_target=offdiag_target,
            normalise=normalise,
            unbiased=unbiased,
            eps=eps,
        )
        self.loss_keys["second_target"] = second_target
        self.mixing_weight = lambda_reg * lambda_bt
        self.warmup = lambda_reg_warmup
        self.shares = torch.distributions.Beta(float(mix_beta[0]), float(mix_beta[1]))
        # A buffer, so that a resumed training restores it.
        self.register_buffer("warmth", torch.tensor(float(lambda_reg_warmup == 0)))

    def mix(
        self, first: Images, second: Images
    ) -> tuple[Images, Int64[Tensor, " global_batch"], float]:
        """Return this process's mixed images, and the permutation and share of the global batch."""
        count = len(first) * distributed.world_size()
        permutation = distributed.shared_permutation(count, first.device)
        share = distributed.broadcast_object(float(self.shares.sample()))
        share_indices = permutation.chunk(distributed.world_size())[distributed.rank()]
        others = distributed.gather(second)[share_indices]
        return share * first + (1 - share) * others, permutation, share

    def forward(
        self, views: tuple[Images, ...], targets: Int64[Tensor, " batch"]
    ) -> dict[str, Tensor]:
        """Return the loss over the global batch, its parts, and the constant features."""
        mixed, permutation, share = self.mix(*views)
        a, b, m = self.embed([*views, mixed])
        with torch.autocast(a.device.type, enabled=False):
            terms = mixed_barlow_twins(a, b, m, permutation, share, **self.loss_keys)
            mixing = self.mixing_weight * (terms.to_first + terms.to_second)
            loss = terms.twins.loss + self.warmth * mixing
            constant = count_constant_features([a, b, m])
        return {
            "loss": loss,
            "barlow_twins": terms.twins.loss.detach(),
            "mixing": mixing.detach(),
            "constant_features": constant,
        }

    def scheduled(self, progress: float) -> dict[str, float]:
        """Return the current share of the mixing term's final weight."""
        return {"mix_warmth": min(1.0, progress / self.warmup) if self.warmup else 1.0}

    def after_step(self, progress: float) -> None:
        """Update the weight of the mixing term."""
        self.warmth.fill_(self.scheduled(progress)["mix_warmth"])
