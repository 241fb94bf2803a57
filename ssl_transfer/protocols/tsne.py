"""``tsne``: a picture of a representation in two dimensions."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar

import numpy as np

from ssl_transfer.config.ranges import Count, Fraction, NotEmpty, Positive, Range, checked
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.splitting import per_class
from ssl_transfer.datasets.transforms import Augmentation
from ssl_transfer.estimators.tsne import (
    MIN_ITERATIONS,
    MIN_POINTS,
    Embedding,
    Initialisation,
    embed,
)
from ssl_transfer.models import Encoder
from ssl_transfer.protocols.augmented_views import AugmentedViews, objects_of
from ssl_transfer.protocols.base import Score
from ssl_transfer.protocols.embedding_picture import (
    Points,
    picture,
    require_matplotlib,
    table,
)
from ssl_transfer.randomness import derive
from ssl_transfer.system import distributed
from ssl_transfer.system.files import write_atomically

PICTURE, TABLE = "tsne.png", "tsne.csv"


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class TSNE(AugmentedViews):
    """Draw the t-SNE of normalised features by class, with the views of each image if asked for.

    The run's folder gets ``tsne.png`` (one panel per perplexity) and ``tsne.csv`` (the
    coordinates). The scores judge the picture, not the encoder: ``trustworthiness`` (the primary
    one, of the first perplexity) is the share of neighbours in the picture that are neighbours of
    the features, lowered by the ranks of the others; ``kl_divergence`` is the loss of t-SNE in
    nats. Those of further perplexities have the perplexity in their names.

    Args:
        perplexities: numbers of neighbours that count; one panel each.
        initialisation: ``pca`` or ``random``.
        iterations: at least 250.
        pca_dims: number of principal components of which the distances are taken.
        max_samples: largest number of images, the same number of each class, chosen by the
            dataset's ``split_seed``; views come in addition.
        max_classes: largest number of classes, the first ones, as published.
        show_views: whether to show two views of each image, too, joined with it; a static set
            always shows them.
        zoom: a region that further panels show larger: left, bottom, right and top as shares of the
            picture (null: no such panels).
        views: see ``AugmentedViews``.
        split: see ``AugmentedViews``.
        centre_crop_views: see ``AugmentedViews``.
        image_size: see ``FrozenProtocol``.
        preprocessing: see ``FrozenProtocol``.

    Raises:
        ValueError: if a value is out of its range.
    """

    targets: ClassVar[frozenset[str]] = frozenset({"class", "views"})

    perplexities: Annotated[Sequence[Positive], NotEmpty()] = (30.0,)
    initialisation: Initialisation = "pca"
    iterations: Annotated[int, Range(MIN_ITERATIONS, cap=10**6)] = 1000
    pca_dims: Annotated[int, Range(2, cap=10**6)] = 50
    max_samples: Count = 1000
    max_classes: Count = 10
    show_views: bool = False
    zoom: Sequence[Fraction] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.zoom is None:
            return
        corners = list(self.zoom)
        ordered = len(corners) == 4 and corners[0] < corners[2] and corners[1] < corners[3]
        if not ordered or min(corners) < 0 or max(corners) > 1:
            raise ValueError(
                "`zoom` must be left, bottom, right and top of a region as shares of the picture "
                f"from 0 to 1, such as [0.2,0.2,0.4,0.4], but is {corners}."
            )

    def check(self, dataset: Dataset) -> None:
        """Refuse too few images for the perplexities, and a machine without matplotlib.

        Raises:
            ValueError: naming the number.
        """
        super().check(dataset)
        require_matplotlib()
        count = len(self._chosen(dataset)) * (3 if self._shows_views(dataset) else 1)
        needed = max(MIN_POINTS, int(max(self.perplexities)) + 1)
        if count < needed:
            raise ValueError(
                f"t-SNE with perplexities {list(self.perplexities)} needs {needed} points at "
                f"least, but {self.split} of `{dataset.name}` gives {count}; lower "
                "`protocol.perplexities`, or raise `protocol.max_samples` or "
                "`protocol.max_classes`."
            )

    def run(self, encoder: Encoder, dataset: Dataset, context: Context) -> Iterator[Score]:
        """Draw the picture and yield the scores of its panels."""
        self.check(dataset)
        chosen = self._chosen(dataset)
        points = self._points(dataset, chosen)
        if self._shows_views(dataset):
            originals, first, second, _ = self.view_features(encoder, dataset, context)
            parts = [part.cpu().numpy()[chosen] for part in (originals, first, second)]
        else:
            parts = [np.array(self.features(encoder, dataset, context).rows(self.split)[chosen])]
        rows = np.concatenate(parts)
        embeddings = self._embeddings(rows, dataset, context)
        if distributed.is_main():
            coordinates = {key: value.points for key, value in embeddings.items()}
            title = f"t-SNE of {encoder.name} on {dataset.name} ({self.split})"
            drawn = picture(points, coordinates, title, self.zoom)
            write_atomically(context.folder / TABLE, table(points, coordinates).encode())
            write_atomically(context.folder / PICTURE, drawn)
        context.note(points=len(rows), classes_shown=len(np.unique(points.labels)))
        for number, (perplexity, embedding) in enumerate(embeddings.items()):
            suffix = f"_perplexity_{perplexity:g}" if number else ""
            yield Score(
                f"trustworthiness{suffix}",
                embedding.trustworthiness,
                split=self.split,
                primary=number == 0,
            )
            yield Score(
                f"kl_divergence{suffix}",
                embedding.kl_divergence,
                split=self.split,
                unit="nats",
                higher_is_better=False,
            )

    def _embeddings(
        self, rows: np.ndarray, dataset: Dataset, context: Context
    ) -> dict[float, Embedding]:
        """Return the t-SNE of each perplexity, computed by one process for all of them."""
        embeddings = {}
        if distributed.is_main():
            perplexities = dict.fromkeys(map(float, self.perplexities))
            for perplexity in context.progress(
                perplexities, total=len(perplexities), label="t-SNE"
            ):
                embeddings[perplexity] = embed(
                    rows,
                    perplexity=perplexity,
                    initialisation=self.initialisation,
                    iterations=self.iterations,
                    pca_dims=self.pca_dims,
                    seed=derive(dataset.split_seed, "t-SNE"),
                )
        shared: dict[float, Embedding] = distributed.broadcast_object(embeddings)
        return shared

    def stored_views(self, dataset: Dataset) -> Sequence[Augmentation]:
        """Return the views that are made on the fly if they are shown."""
        return super().stored_views(dataset) if self.show_views else ()

    def _shows_views(self, dataset: Dataset) -> bool:
        return self.show_views or dataset.target == "views"

    def _chosen(self, dataset: Dataset) -> np.ndarray:
        """Return the images that are shown."""
        labels = self.labels(dataset)
        classes = np.unique(labels)[: self.max_classes]
        candidates = np.flatnonzero(np.isin(labels, classes))
        share = max(1, self.max_samples // len(classes))
        picked = per_class(labels[candidates], share, dataset.split_seed, "images of t-SNE")
        return np.asarray(candidates[picked][: self.max_samples])

    def _points(self, dataset: Dataset, chosen: np.ndarray) -> Points:
        """Return what the points show: all originals, then all first and all second views."""
        split = dataset[self.split]
        count = 3 if self._shows_views(dataset) else 1
        samples = np.tile(chosen, count)
        if dataset.target == "views":
            samples = objects_of(dataset)[chosen].T.reshape(-1)
        return Points(
            names=[split.names[i] for i in samples.tolist()],
            labels=np.tile(self.labels(dataset)[chosen], count),
            views=np.repeat(np.arange(count), len(chosen)),
            images=np.tile(np.arange(len(chosen)), count),
            classes=dataset.classes,
        )
