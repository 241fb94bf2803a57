"""Base class of measurements of images and two augmented views of each."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.reader import some
from ssl_transfer.datasets.transforms import Augmentation
from ssl_transfer.datasets.transforms import views as parsed_views
from ssl_transfer.models import Encoder
from ssl_transfer.protocols.frozen import FrozenProtocol

IMAGES_PER_OBJECT = 3
"""Of a static set: the original and two views."""


class ViewFeatures(NamedTuple):
    """Features of images and of two augmented views of each, in the same order.

    Args:
        original: of the images as they are.
        first: of their first views.
        second: of their second views.
        labels: class numbers of the images, or a row per image (see ``Split``).
    """

    original: Float[Tensor, "images dim"]
    first: Float[Tensor, "images dim"]
    second: Float[Tensor, "images dim"]
    labels: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentedViews(FrozenProtocol):
    """A measurement of images and two augmented views of each.

    Views are made on the fly, or come from a static set (a dataset with the target ``views`` and
    three images per object in the order original, first view, second view). On the fly they depend
    on the dataset's ``split_seed``, so that all encoders are judged by the same views.

    Args:
        views: entries of ``View``; the first two views are used, unless the set has its own.
        split: the split that is measured; a static set has only ``test``.
        centre_crop_views: whether views of a static set pass the encoder's resize and centre crop,
            as originals do; false, as published: they are scaled to the encoder's input only.
        image_size: see ``FrozenProtocol``.
        preprocessing: see ``FrozenProtocol``.

    Raises:
        ValueError: if a value is out of its range, or there are fewer than two views.
    """

    splits: ClassVar[tuple[str, ...]] = ("test",)

    views: Sequence[Mapping[str, Any]]
    split: Literal["train", "test"] = "test"
    centre_crop_views: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        count = len(parsed_views(self.views))
        if count < 2:
            raise ValueError(
                f"`views` must describe two views at least, but describes {count}; set `count: 2`, "
                "or choose others with views@protocol=NAME."
            )
        # The only split that this instance needs.
        object.__setattr__(self, "splits", (self.split,))

    def check(self, dataset: Dataset) -> None:
        """Refuse a set of views that does not have an original and two views of every object.

        Raises:
            ValueError: naming objects, or if there is only one image.
        """
        if dataset.target == "views":
            objects_of(dataset)
        if len(self.labels(dataset)) < 2:
            raise ValueError(
                f"`{dataset.name}` must have two images at least in {self.split}, but has one; "
                "add images."
            )

    def labels(self, dataset: Dataset) -> np.ndarray:
        """Return the targets of the images, one per object of a static set."""
        targets: np.ndarray = dataset[self.split].targets
        return targets[objects_of(dataset)[:, 0]] if dataset.target == "views" else targets

    def augmentations(self, dataset: Dataset) -> tuple[Augmentation, Augmentation]:
        """Return the random parts of the two views, without flips if the dataset forbids them."""
        first, second = (view.augmentation for view in parsed_views(self.views)[:2])
        return (first, second) if dataset.flip else (first.without_flip(), second.without_flip())

    def stored_views(self, dataset: Dataset) -> Sequence[Augmentation]:
        """Return the views that are made on the fly; a static set has its own."""
        return () if dataset.target == "views" else self.augmentations(dataset)

    def view_features(self, encoder: Encoder, dataset: Dataset, context: Context) -> ViewFeatures:
        """Return the features of the images and of their views, on the context's device."""
        if dataset.target == "views":
            rows = self._of_static_set(encoder, dataset, context)
        else:
            features = self.features(encoder, dataset, context)
            rows = [features.rows(self.split)]
            for view, augmentation in enumerate(self.augmentations(dataset)):
                rows.append(features.view_rows(self.split, augmentation, view=view))
        original, first, second = (
            torch.from_numpy(np.array(part)).to(context.device, context.dtype) for part in rows
        )
        labels = torch.from_numpy(self.labels(dataset)).to(context.device)
        return ViewFeatures(original, first, second, labels)

    def _of_static_set(
        self, encoder: Encoder, dataset: Dataset, context: Context
    ) -> list[np.ndarray]:
        """Return the features of originals, first views and second views."""
        names = ["originals", "first views", "second views"]
        parts = {
            f"test, {name}": dataset["test"].subset(rows)
            for name, rows in zip(names, objects_of(dataset).T, strict=True)
        }
        divided = dataclasses.replace(dataset, splits={**dataset.splits, **parts})
        of_originals = self.features(encoder, divided, context)
        of_views = of_originals
        if not self.centre_crop_views:
            scaled = {**(self.preprocessing or {}), "resize": None}
            of_views = dataclasses.replace(self, preprocessing=scaled).features(
                encoder, divided, context
            )
        original, *views = parts
        return [of_originals.rows(original), *(of_views.rows(view) for view in views)]


def objects_of(dataset: Dataset) -> Int64[np.ndarray, "objects 3"]:
    """Return the positions of each object's original, first view and second view.

    Raises:
        ValueError: naming objects that do not have three images.
    """
    test = dataset["test"]
    assert test.groups is not None, "a view needs the number of its object"
    numbers, counts = np.unique(test.groups, return_counts=True)
    wrong = numbers[counts != IMAGES_PER_OBJECT]
    if len(wrong):
        names = [test.names[int(np.flatnonzero(test.groups == number)[0])] for number in wrong[:6]]
        raise ValueError(
            f"every object of `{dataset.name}` must have an original and two views in this order, "
            f"but {len(wrong)} of {len(numbers)} objects do not have {IMAGES_PER_OBJECT} images, "
            f"such as that of {some(names)}; choose a static set of augmented views."
        )
    return np.argsort(test.groups, kind="stable").reshape(-1, IMAGES_PER_OBJECT)
