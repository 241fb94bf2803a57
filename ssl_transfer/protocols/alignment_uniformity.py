"""``alignment_uniformity``: how close views, classes and all images lie on the unit sphere."""

import dataclasses
import statistics
from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ssl_transfer.config.ranges import checked
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.reader import some
from ssl_transfer.metrics.alignment import (
    alignment,
    groups,
    intra_class_alignment,
    uniformity,
    uniformity_of_groups,
)
from ssl_transfer.models import Encoder
from ssl_transfer.protocols.augmented_views import AugmentedViews
from ssl_transfer.protocols.base import Score


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignmentUniformity(AugmentedViews):
    """Measure the six figures of Shi et al. 2022 (https://arxiv.org/abs/2107.14762) on features.

    Alignment is the mean squared distance of normalised features: of an image and its first view
    (``alignment_original_view``, "D-SD"), of its two views (``alignment_views``, "SD-SD"), and of
    the images of a class, without and with augmentation (``intra_class_alignment_original``, "D
    cls-align", and ``…_views``, of the first views). Uniformity is the logarithm of the mean of
    ``exp(-2 d²)`` over all pairs of images (``uniformity_original``, ``uniformity_views``). Lower
    is better for all; an encoder whose features are all equal has the best alignment and the worst
    uniformity, which is the primary score.

    Args:
        uniformity: ``exact`` takes all pairs; ``three_groups`` the mean of three seeded groups of
            128 images, as published, with the groups' values in the record.
        views: see ``AugmentedViews``.
        split: see ``AugmentedViews``.
        centre_crop_views: see ``AugmentedViews``.
        image_size: see ``FrozenProtocol``.
        preprocessing: see ``FrozenProtocol``.

    Raises:
        ValueError: if a value is out of its range.
    """

    targets: ClassVar[frozenset[str]] = frozenset({"class", "views"})

    uniformity: Literal["exact", "three_groups"] = "exact"

    def check(self, dataset: Dataset) -> None:
        """Refuse a class with one image, and fewer images than the groups of uniformity need.

        Raises:
            ValueError: naming the classes, or the number of images.
        """
        super().check(dataset)
        labels = self.labels(dataset)
        alone = np.flatnonzero(np.bincount(labels) == 1).tolist()
        if alone:
            raise ValueError(
                f"every class of `{dataset.name}` must have two images in {self.split} for a "
                f"distance within classes, but {len(alone)} of {len(dataset.classes)} have only "
                f"one: {some([dataset.classes[label] for label in alone])}; add images, or leave "
                "these classes out."
            )
        if self.uniformity == "three_groups":
            groups(len(labels), seed=dataset.split_seed)

    def run(self, encoder: Encoder, dataset: Dataset, context: Context) -> Iterator[Score]:
        """Yield the six figures."""
        self.check(dataset)
        features = self.view_features(encoder, dataset, context)
        original, first, second, labels = features
        distances = {
            "alignment_original_view": alignment(original, first),
            "alignment_views": alignment(first, second),
            "intra_class_alignment_original": intra_class_alignment(original, labels),
            "intra_class_alignment_views": intra_class_alignment(first, labels),
        }
        for metric, value in distances.items():
            yield self._score(metric, value, "squared distance")
        for name, rows in {"original": original, "views": first}.items():
            value = self._uniformity(rows, name, dataset, context)
            yield self._score(f"uniformity_{name}", value, "log", primary=name == "original")

    def _uniformity(
        self, rows: Float[Tensor, "images dim"], name: str, dataset: Dataset, context: Context
    ) -> float:
        """Return the uniformity; the record gets the values of groups."""
        if self.uniformity == "exact":
            return uniformity(rows)
        values = uniformity_of_groups(rows, groups(len(rows), seed=dataset.split_seed))
        context.note(**{f"uniformity_of_groups_{name}": list(values)})
        return statistics.fmean(values)

    def _score(self, metric: str, value: float, unit: str, *, primary: bool = False) -> Score:
        return Score(
            metric, value, split=self.split, unit=unit, higher_is_better=False, primary=primary
        )
