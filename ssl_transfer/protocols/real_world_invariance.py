"""``real_world_invariance``: how alike the whitened features of an object's real views are."""

import dataclasses
import functools
import json
import re
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64

from ssl_transfer import datasets
from ssl_transfer.config.ranges import checked
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.reader import some
from ssl_transfer.metrics.invariance import CHUNK_ELEMENTS, Whitening
from ssl_transfer.metrics.view_groups import ViewScores, objects_by_size, view_scores
from ssl_transfer.models import Encoder
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols.base import Score
from ssl_transfer.protocols.whitened import WhitenedProtocol

SplitName = Literal["train", "val", "test"]

UNITS = {
    "similarity": "cosine",
    "similarity_with_self": "cosine",
    "distance": "standard deviations",
}
_AXIS_KEY = re.compile(r"(?<![\w./])dataset\.(?=[a-z_]+\b)")


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class RealWorldInvariance(WhitenedProtocol):
    """Compare the whitened features of the real views of each object; mean over objects.

    Ericsson et al. 2021, https://arxiv.org/abs/2111.11398. ``similarity`` is the mean cosine of two
    different views, ``similarity_with_self`` the published figure, which also counts each view's
    cosine with itself, and ``distance`` the mean Mahalanobis distance of two different views. The
    scores of each object are stored in ``objects.npz``, under the name of its first view.

    Args:
        statistics: a node of ``conf/dataset`` whose images give mean and covariance (``None``: the
            views that are measured). The published code uses the validation images of ImageNet.
        statistics_split: the split of ``statistics``.
        statistics_preprocessing: keys that replace the encoder's own for the images of
            ``statistics`` (``None``: ``image_size`` and ``preprocessing``). The published code
            resizes the views to 224 pixels, but these images to 256, before both are cropped.
        shrinkage: see ``WhitenedProtocol``.
        ridge: see ``WhitenedProtocol``.
        factorisation: see ``WhitenedProtocol``.
        image_size: see ``FrozenProtocol``.
        preprocessing: see ``FrozenProtocol``.

    Raises:
        ValueError: if a value is out of its range.
    """

    targets: ClassVar[frozenset[str]] = frozenset({"views"})
    splits: ClassVar[tuple[str, ...]] = ("test",)

    statistics: dict[str, Any] | None = None
    statistics_split: SplitName = "test"
    statistics_preprocessing: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        Preprocessing(size=1, resize=None).replaced(None, self.statistics_preprocessing)
        if self.statistics is None and self.statistics_preprocessing is not None:
            raise ValueError(
                "`protocol.statistics_preprocessing` must be null if mean and covariance come from "
                "the measured views; choose a set with +dataset@protocol.statistics=NAME."
            )

    def check(self, dataset: Dataset) -> None:
        """Refuse objects with a single view, and a set of statistics that cannot be used.

        Raises:
            ValueError: naming the objects, or what is wrong with the set.
        """
        alone = [
            place
            for members in objects_by_size(_groups(dataset))
            if members.shape[1] == 1
            for place in members[:, 0].tolist()
        ]
        if alone:
            names = [dataset["test"].names[place] for place in alone]
            raise ValueError(
                f"every object of `{dataset.name}` must have two views, but {len(names)} "
                f"{'has' if len(names) == 1 else 'have'} only one: {some(names)}; add views, or "
                "leave these objects out."
            )
        source = self._source(dataset)
        if len(source[self.statistics_split]) < 2:
            raise ValueError(
                "`protocol.statistics_split` must name a split with two images at least, but "
                f"{self.statistics_split} of `{source.name}` has "
                f"{len(source[self.statistics_split])}; choose another split."
            )

    def more_data(self) -> Dataset | None:
        """Return the dataset of ``statistics``, built once per process (``None``: there is none).

        Raises:
            ValueError: if the data do not fit their description.
        """
        if self.statistics is None:
            return None
        return _built(json.dumps(self.statistics, sort_keys=True))

    def _source(self, dataset: Dataset) -> Dataset:
        """Return the dataset whose images give mean and covariance."""
        more_data = self.more_data()
        return dataset if more_data is None else more_data

    def run(self, encoder: Encoder, dataset: Dataset, context: Context) -> Iterator[Score]:
        """Yield the means over objects."""
        self.check(dataset)
        white = self._whitening(encoder, dataset, context)
        rows = self.features(encoder, dataset, context).rows("test")
        scores, first_views = _scores(white, rows, _groups(dataset), context)
        names = [dataset["test"].names[place] for place in first_views.tolist()]
        context.save_arrays("objects", first_view=np.array(names), **scores)
        context.note(objects=len(names), views=len(rows))
        for metric, values in scores.items():
            yield Score(
                metric,
                float(values.mean()),
                unit=UNITS[metric],
                higher_is_better=metric != "distance",
                primary=metric == "similarity",
            )

    def _whitening(self, encoder: Encoder, dataset: Dataset, context: Context) -> Whitening:
        """Return the whitening by the statistics that the keys name."""
        own, source = self.statistics_preprocessing, self._source(dataset)
        keys: RealWorldInvariance = self
        if own is not None:
            keys = dataclasses.replace(self, image_size=None, preprocessing=own)
        features = keys.features(encoder, source, context)
        context.note(statistics_of={"dataset": source.name, "fingerprint": source.fingerprint})
        return self.whitening(features, self.statistics_split, context)


def _groups(dataset: Dataset) -> Int64[np.ndarray, " views"]:
    groups = dataset["test"].groups
    if groups is None:
        raise ValueError(
            f"the views of `{dataset.name}` must have the numbers of their objects, but have none; "
            "set `groups` of its split `test`."
        )
    return groups


@functools.lru_cache(maxsize=4)
def _built(node: str) -> Dataset:
    """Return the dataset of a node in JSON.

    Raises:
        ValueError: if the data do not fit; keys are named by their place in the protocol.
    """
    try:
        return datasets.build(json.loads(node))
    except ValueError as error:
        raise ValueError(_AXIS_KEY.sub("protocol.statistics.", str(error))) from error


def _scores(
    white: Whitening,
    rows: Float[np.ndarray, "views dim"],
    groups: Int64[np.ndarray, " views"],
    context: Context,
) -> tuple[dict[str, Float64[np.ndarray, " objects"]], Int64[np.ndarray, " objects"]]:
    """Return each score of all objects, and the positions of their first views, in ascending order.

    Args:
        white: the whitening.
        rows: stored features of the views.
        groups: number of each view's object.
        context: the run's context.
    """
    chunks = [
        chunk for members in objects_by_size(groups) for chunk in _chunks(members, rows.shape[1])
    ]
    parts = []
    for chunk in context.progress(chunks, total=len(chunks), label="objects"):
        # `np.array` copies: memory of a file that is mapped for reading cannot be a tensor's.
        views = torch.from_numpy(np.array(rows[chunk])).to(context.device)
        parts.append(view_scores(white(views)))
    first_views = np.concatenate([chunk[:, 0] for chunk in chunks])
    order = np.argsort(first_views)
    scores = {
        metric: torch.cat([getattr(part, metric) for part in parts]).cpu().numpy()[order]
        for metric in ViewScores._fields
    }
    return scores, first_views[order]


def _chunks(
    members: Int64[np.ndarray, "objects views"], dim: int
) -> Iterator[Int64[np.ndarray, "part views"]]:
    """Yield parts of the objects whose features and products fit into a bounded memory."""
    count = members.shape[1]
    size = max(1, CHUNK_ELEMENTS // (count * max(count, dim)))
    yield from (members[start : start + size] for start in range(0, len(members), size))
