"""Base class of measurements of whitened features."""

import dataclasses
import logging

from ssl_transfer.context import Context
from ssl_transfer.features import FrozenFeatures
from ssl_transfer.features.statistics import split_statistics
from ssl_transfer.metrics.invariance import (
    Factorisation,
    Ridge,
    Shrinkage,
    Whitening,
    whitening,
)
from ssl_transfer.protocols.base import SPLITS
from ssl_transfer.protocols.frozen import FrozenProtocol
from ssl_transfer.system import distributed

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WhitenedProtocol(FrozenProtocol):
    """A measurement of frozen features that are whitened by the mean and covariance of a split.

    Args:
        shrinkage: see ``metrics.invariance.whitening``.
        ridge: likewise.
        factorisation: likewise.
        image_size: see ``FrozenProtocol``.
        preprocessing: see ``FrozenProtocol``.

    Raises:
        ValueError: if a value is out of its range.
    """

    shrinkage: Shrinkage = "auto"
    ridge: Ridge = 0.0
    factorisation: Factorisation = "eigen"

    def whitening(self, features: FrozenFeatures, split: str, context: Context) -> Whitening:
        """Return the whitening by a split's statistics, on the context's device.

        The record gets the split's number of images, the rank of the covariance, and the shrinkage;
        a shrinkage that was chosen because the covariance is singular also gives a warning.

        Args:
            features: the stored features.
            split: name of the split.
            context: the run's context.

        Raises:
            ValueError: if the covariance is singular and the keys do not regularise it.
        """
        white = whitening(
            split_statistics(features, split),
            shrinkage=self.shrinkage,
            ridge=self.ridge,
            factorisation=self.factorisation,
        )
        if self.shrinkage == "auto" and white.shrinkage and distributed.is_main():
            log.warning(
                "the covariance of the features has rank %d of %d dimensions (%d %s images) and "
                "cannot be inverted, so that it is shrunk by %.4f, which Ledoit and Wolf's "
                "estimator chooses; set `protocol.shrinkage` to choose another value",
                white.rank, len(white.mean), white.samples, SPLITS.get(split, split),
                white.shrinkage,
            )  # fmt: skip
        context.note(
            whitening={
                "split": split,
                "images": white.samples,
                "rank": white.rank,
                "dimensions": len(white.mean),
                "shrinkage": white.shrinkage,
                "ridge": white.ridge,
            }
        )
        return white.to(context.device)
