"""The interface of a pre-training method."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.transforms import Augmentation
from ssl_transfer.models import Encoder
from ssl_transfer.models.heads import Head
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.training.learner import Learner

Images = Float[Tensor, "batch 3 height width"]


class Method(Learner):
    """A pre-training objective with its encoder, which the training loop trains.

    ``forward(views, targets)`` returns ``loss`` and named detached parts of it. The mean of each
    over the processes is its value for the global batch, and the gradients that
    ``DistributedDataParallel`` averages are those of the global loss. ``separable`` is whether the
    loss is a mean over samples, ``minimum_batch`` the smallest global batch. In each forward pass,
    the first call of the encoder gets the first views: those of all samples, or each sample's first
    view followed by its other views. Monitors rely on this order to find the first views' features.

    Args:
        encoder: the encoder, trained in place.
        num_classes: number of classes of the pre-training set; only objectives with labels use it.
        views: augmentation of each view of an image.

    Raises:
        ValueError: if the number of views is not ``num_views`` (with ``more_views``: is lower), or
            their sizes differ (see ``smaller_views``).
    """

    num_views: int = 2
    more_views: bool = False
    smaller_views: bool = False
    """Whether views may differ in size, the first ``num_views`` being the largest."""
    needs_classes: bool = False
    """Whether the loss needs one class per image."""
    other_preprocessing: tuple[Preprocessing, ...] = ()
    """Preprocessing of further networks: after its own views, ``forward`` gets the same
    crops with the same colours once more for each, prepared as it says."""
    frozen: tuple[Encoder, ...] = ()
    """Encoders that the method only reads. If the images have a single view without randomness,
    their features are computed once: ``forward`` then gets one tensor of features for each of them
    after that view, and nothing for ``other_preprocessing``."""

    def __init__(
        self, encoder: Encoder, num_classes: int | None, views: Sequence[Augmentation]
    ) -> None:
        super().__init__()
        if len(views) < self.num_views or (len(views) > self.num_views and not self.more_views):
            raise ValueError(
                f"`method.views` must describe {'at least ' if self.more_views else ''}"
                f"{self.num_views} view(s) for {type(self).__name__}, but describes {len(views)}."
            )
        sizes = [view.size or encoder.preprocessing.size for view in views]
        large = sizes[: self.num_views] if self.smaller_views else sizes
        if len({*large, max(sizes)}) > 1:
            first = {1: "one", 2: "two"}.get(self.num_views, str(self.num_views))
            exception = f", but for smaller ones after the first {first}" * self.smaller_views
            raise ValueError(
                f"`method.views` must have one `size` for {type(self).__name__}{exception}, but "
                f"have the sizes {sizes}."
            )
        self.encoder = encoder
        self.num_classes = num_classes
        self.views = tuple(views)

    @property
    def projection(self) -> nn.Sequential | None:
        """The layers from features to embeddings; None if there are none or they are not a list."""
        layers = getattr(self, "projector", getattr(self, "head", None))
        return layers if isinstance(layers, nn.Sequential) else None

    def check(self, dataset: Dataset) -> None:
        """Refuse a pre-training set that does not fit.

        Raises:
            ValueError: if it does not fit.
        """

    def trained_head(self, dataset: Dataset) -> Head | None:
        """Return the classifier that is trained with the encoder; None if there is none.

        Args:
            dataset: the pre-training set, which names the classes.
        """
        return None

    def scheduled(self, progress: float) -> dict[str, float]:
        """Return the values of the method's own schedules for the log, e.g. a momentum.

        Args:
            progress: completed share of the training, in [0, 1].
        """
        return {}


def full_precision(x: Tensor) -> Tensor:
    """Convert half-precision embeddings to float32; losses are computed in full precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
