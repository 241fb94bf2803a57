"""W-MSE: whitening (Ermolov et al. 2021, https://arxiv.org/abs/2007.06346)."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from ssl_transfer.config.ranges import Batch, Fraction, Range, checked
from ssl_transfer.datasets.transforms import Augmentation
from ssl_transfer.methods.base import Images, Method, full_precision
from ssl_transfer.methods.projector import Projector
from ssl_transfer.models import Encoder
from ssl_transfer.system import distributed

ViewsFirst = Float[Tensor, "views batch dim"]

RESCUES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Values of eps to try if a covariance is singular; with 1 it is the identity."""


def _cholesky(
    covariance: Float[Tensor, "views dim dim"], eps: float
) -> tuple[Float[Tensor, "views dim dim"], bool]:
    """Return the lower factors of ``(1 - eps) Σ + eps I``, and whether all are valid.

    A factor is invalid if a pivot is within rounding of zero, relative to the largest variance.
    """
    identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    shrunk = (1 - eps) * covariance + eps * identity
    factor, failures = torch.linalg.cholesky_ex(shrunk)
    pivots = factor.detach().diagonal(dim1=1, dim2=2).square()
    largest = shrunk.detach().diagonal(dim1=1, dim2=2).amax(dim=1, keepdim=True)
    sound = (pivots > torch.finfo(pivots.dtype).eps * largest).all() & (failures == 0).all()
    return factor, bool(sound)


def whiten(z: ViewsFirst, eps: float) -> tuple[ViewsFirst, float]:
    """Whiten each view's embeddings to mean 0 and, for ``eps`` 0, covariance I over the batch.

    The result is ``L⁻¹ (z - mean)`` with the Cholesky factor ``L Lᵀ = (1 - eps) Σ + eps I`` and the
    unbiased covariance Σ (section 3 of the paper). Gradients flow through mean, covariance and
    factor. A singular matrix is factored with a larger eps.

    Args:
        z: embeddings of a sub-batch, at least two.
        eps: in [0, 1].

    Returns:
        The whitened embeddings, and the eps that was used.
    """
    centred = z - z.mean(dim=1, keepdim=True)
    covariance = centred.mT @ centred / (z.shape[1] - 1)
    for tried in (eps, *(rescue for rescue in RESCUES if rescue > eps)):
        factor, sound = _cholesky(covariance, tried)
        if sound:
            break
    return torch.linalg.solve_triangular(factor, centred.mT, upper=False).mT, tried


def agreement(z: ViewsFirst, *, normalise: bool) -> Float[Tensor, ""]:
    """Return the mean squared distance over all pairs of views.

    Uses ``Σ_{u<v} |z_u - z_v|² = V Σ_v |z_v|² - |Σ_v z_v|²`` for V views.

    Args:
        z: embeddings of at least two views.
        normalise: true: distances of normalised rows, summed over features (2 - 2 cos, as in the
            paper); false: distances averaged over features, as in the released code.
    """
    if normalise:
        z = F.normalize(z, dim=2)
    views = len(z)
    distances = views * z.square().sum(dim=(0, 2)) - z.sum(dim=0).square().sum(dim=1)
    mean = distances.mean() / (views * (views - 1) / 2)
    return mean if normalise else mean / z.shape[2]


def w_mse(
    z: ViewsFirst,
    permutations: Sequence[Int64[Tensor, " batch"]],
    *,
    sub_batch: int,
    eps: float,
    normalise: bool = True,
) -> tuple[Float[Tensor, ""], float]:
    """Return the distance of the views' embeddings after whitening (section 3 of the paper).

    Each permutation divides the batch into sub-batches, the same for all views. In each sub-batch
    each view is whitened separately. The loss is the mean over the permutations. If the size does
    not divide the batch, sub-batches are as equal as possible and not smaller.

    Args:
        z: embeddings of the whole global batch.
        permutations: permutations of the batch.
        sub_batch: size of a sub-batch, at most the batch; about twice ``dim`` (issue 7 of
            htdt/self-supervised).
        eps: see ``whiten``.
        normalise: see ``agreement``.

    Returns:
        The loss, and the largest eps that a sub-batch needed.
    """
    losses, needed = [], eps
    for permutation in permutations:
        whitened = []
        for rows in permutation.tensor_split(len(permutation) // sub_batch):
            part, tried = whiten(z[:, rows], eps)
            whitened.append(part)
            needed = max(needed, tried)
        losses.append(agreement(torch.cat(whitened, dim=1), normalise=normalise))
    return torch.stack(losses).mean(), needed


class WMSE(Method):
    """Make the views' embeddings agree after whitening, which prevents collapse.

    The views pass the encoder one after the other; the projector takes all views at once, as in the
    released code. In that batch the views of a sample are adjacent, so that a BatchNorm group holds
    whole samples. Embeddings are whitened in sub-batches of the global batch.

    Args:
        encoder: the encoder, trained in place.
        num_classes: not used.
        views: two or more augmentations; the paper uses two and four.
        projector: keys of ``Projector``.
        sub_batch: see ``w_mse``; also the minimum of the batch size.
        iterations: number of random partitions of the batch per step.
        eps: see ``whiten``.
        normalise: see ``agreement``.

    Raises:
        ValueError: if a value is out of its range, or every covariance would be singular.
    """

    separable = False
    more_views = True

    @checked("method.")
    def __init__(
        self,
        encoder: Encoder,
        num_classes: int | None,
        views: Sequence[Augmentation],
        *,
        projector: Mapping[str, Any],
        sub_batch: Batch,
        iterations: Annotated[int, Range(1, cap=10**4)] = 1,
        eps: Fraction = 0.0,
        normalise: bool = True,
    ) -> None:
        super().__init__(encoder, num_classes, views)
        self.projector = Projector(encoder.feature_dim, **projector)
        smallest = 2 if eps else projector["dims"][-1] + 1
        if sub_batch < smallest:
            raise ValueError(
                f"`method.sub_batch` must be at least {smallest} for embeddings of width "
                f"{projector['dims'][-1]} and `method.eps` {eps}, since a smaller sub-batch has a "
                f"singular covariance, but is {sub_batch}; raise it, or lower the width."
            )
        self.minimum_batch = self.sub_batch = sub_batch
        self.iterations = iterations
        self.eps = eps
        self.normalise = normalise

    def forward(
        self, views: tuple[Images, ...], targets: Int64[Tensor, " batch"]
    ) -> dict[str, Tensor]:
        """Return the loss over the global batch, and the largest eps that a sub-batch needed."""
        count = len(views[0]) * distributed.world_size()
        device = views[0].device
        permutations = [
            distributed.shared_permutation(count, device) for _ in range(self.iterations)
        ]
        features = torch.stack([self.encoder(view) for view in views], dim=1)
        z = full_precision(self.projector(features.flatten(0, 1)))
        with torch.autocast(z.device.type, enabled=False):
            every = distributed.gather(z.view(-1, len(views), z.shape[1])).transpose(0, 1)
            loss, needed = w_mse(
                every,
                permutations,
                sub_batch=self.sub_batch,
                eps=self.eps,
                normalise=self.normalise,
            )
        return {"loss": loss, "eps": loss.new_full((), needed, dtype=torch.float64)}

    def after_loss(self, values: Mapping[str, float]) -> None:
        """Warn if a covariance was singular."""
        # The mean over processes may be rounded.
        if values["eps"] > (1 + 1e-9) * self.eps and distributed.is_main():
            warnings.warn(
                "the covariance of some sub-batches is singular, and was whitened with a larger "
                "`method.eps` (`eps` in the log says which); raise `method.sub_batch` to twice the "
                "embeddings' width, or `method.eps`.",
                stacklevel=2,
            )
