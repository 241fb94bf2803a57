"""``instance_discrimination``: whether the view most similar to an image is its own."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

from ssl_transfer.config.ranges import NotEmpty, Range, checked
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.metrics.retrieval import cross_domain, same_domain
from ssl_transfer.models import Encoder
from ssl_transfer.protocols.augmented_views import AugmentedViews
from ssl_transfer.protocols.base import Score

Mode = Literal["d_sd", "sd_sd"]
Gallery = Literal["cross_domain", "same_domain"]


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class InstanceDiscrimination(AugmentedViews):
    """Search for each image's own view by cosine similarity, among those of all images.

    Shi et al. 2022, https://arxiv.org/abs/2107.14762. The published gallery (``same_domain``) is
    not a search among views: the positive competes with the images that queries are taken from.
    Both are measured and named apart: ``d_sd_top1`` is a search among the views,
    ``d_sd_same_domain_top1`` the published figure. Equally similar candidates are taken in random
    order, by probability, so that constant features score as guessing.

    Args:
        modes: ``d_sd``: the query is the image as it is, the positive its first view; ``sd_sd``:
            the query is the first view, the positive the second.
        galleries: ``cross_domain``: the candidates are the positives of all images;
            ``same_domain``: the positive and the other images of the query's own domain.
        topk: the largest k of top-1 to top-k.
        views: see ``AugmentedViews``.
        split: see ``AugmentedViews``.
        centre_crop_views: see ``AugmentedViews``.
        image_size: see ``FrozenProtocol``.
        preprocessing: see ``FrozenProtocol``.

    Raises:
        ValueError: if a value is out of its range.
    """

    targets: ClassVar[frozenset[str]] = frozenset(
        {"class", "classes", "values", "landmarks", "views"}
    )

    modes: Annotated[Sequence[Mode], NotEmpty()] = ("d_sd", "sd_sd")
    galleries: Annotated[Sequence[Gallery], NotEmpty()] = ("cross_domain", "same_domain")
    topk: Annotated[int, Range(1, cap=1000)] = 5

    def run(self, encoder: Encoder, dataset: Dataset, context: Context) -> Iterator[Score]:
        """Yield top-1 to top-k of every mode and gallery; the first is primary."""
        self.check(dataset)
        original, first, second, _ = self.view_features(encoder, dataset, context)
        context.note(candidates=len(original))
        pairs = {"d_sd": (original, first), "sd_sd": (first, second)}
        functions = {"cross_domain": cross_domain, "same_domain": same_domain}
        primary = True
        for mode in dict.fromkeys(self.modes):
            for gallery in dict.fromkeys(self.galleries):
                shares = functions[gallery](*pairs[mode], k=self.topk).tolist()
                prefix = mode if gallery == "cross_domain" else f"{mode}_{gallery}"
                for rank, share in enumerate(shares, 1):
                    yield Score(f"{prefix}_top{rank}", share, split=self.split, primary=primary)
                    primary = False
