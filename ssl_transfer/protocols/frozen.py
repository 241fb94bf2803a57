"""Base class of measurements of frozen features: keys about images, and the stored features."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from ssl_transfer.config.ranges import Side
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.transforms import Augmentation
from ssl_transfer.features import FrozenFeatures, Representation, StoredPrecision
from ssl_transfer.models import Encoder
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols.base import SPLITS


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrozenProtocol:
    """A measurement that reads an encoder's stored features and neither trains nor augments.

    A subclass is a dataclass of its own keys with a method ``run`` that yields scores; it may
    narrow ``targets`` and ``splits``, and refuse a dataset in ``check``.

    Args:
        image_size: in pixels (null: what the encoder's weights expect).
        preprocessing: keys of ``Preprocessing`` that replace the encoder's own.
        representation: ``embeddings`` measures the outputs of the projector that the encoder was
            trained with, instead of its features.
        feature_precision: ``fp16`` halves the size of stored features, and rounds them.

    Raises:
        ValueError: if a value is out of its range.
    """

    targets: ClassVar[frozenset[str]] = frozenset({"class", "classes"})
    splits: ClassVar[tuple[str, ...]] = tuple(SPLITS)

    image_size: Side | None = None
    preprocessing: dict[str, Any] | None = None
    representation: Representation = "features"
    feature_precision: StoredPrecision = "fp32"

    def __post_init__(self) -> None:
        # The run checks later whether the sizes fit those of the encoder.
        Preprocessing(size=1, resize=None).replaced(self.image_size, self.preprocessing)

    def stored_views(self, dataset: Dataset) -> Sequence[Augmentation]:
        """Return the augmented views whose features are stored beside those of the images."""
        return ()

    def features(self, encoder: Encoder, dataset: Dataset, context: Context) -> FrozenFeatures:
        """Return the features of an encoder on a dataset, computed once for all runs."""
        return FrozenFeatures(
            encoder,
            dataset,
            context,
            image_size=self.image_size,
            preprocessing=self.preprocessing,
            representation=self.representation,
            precision=self.feature_precision,
        )
