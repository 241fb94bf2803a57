"""Few-shot episodes: tasks of a few classes with a few labelled images each, drawn from labels."""

import dataclasses

import numpy as np
from jaxtyping import Int64

from ssl_transfer.randomness import uniforms

Labels = Int64[np.ndarray, " samples"]


@dataclasses.dataclass(frozen=True, eq=False)
class Episodes:
    """Drawn episodes; samples are positions in the pool.

    Args:
        classes: class numbers of the ways, in random order.
        support: samples with known labels, of each way.
        queries: samples to classify, of each way; no sample is in both.
    """

    classes: Int64[np.ndarray, "episodes ways"]
    support: Int64[np.ndarray, "episodes ways shots"]
    queries: Int64[np.ndarray, "episodes ways queries"]

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, part: slice) -> "Episodes":
        return Episodes(self.classes[part], self.support[part], self.queries[part])

    @property
    def samples(self) -> Int64[np.ndarray, "episodes images"]:
        """The samples of each episode: the support, way after way, then the queries likewise."""
        by_way = (self.support, self.queries)
        return np.concatenate([part.reshape(len(self), -1) for part in by_way], axis=1)


def draw_episodes(
    labels: Labels, *, ways: int, shots: int, queries: int, episodes: int, seed: int
) -> Episodes:
    """Return episodes of ``ways`` distinct classes with ``shots + queries`` distinct samples each.

    Every set of classes, and every set of a class's samples, is equally likely. An episode depends
    on its number, the seed and the labels alone. A larger number of episodes, of ways or of shots
    adds to the episodes, ways or support samples of a smaller one: the queries stay the same, so
    that numbers of shots are compared on the same queries (unless a class becomes too small).

    Args:
        labels: class numbers of the pool, not negative; a class with fewer than ``shots + queries``
            samples is never drawn.
        ways: number of classes per episode.
        shots: labelled samples per class.
        queries: classified samples per class.
        episodes: number of episodes.
        seed: seed of the choice.

    Raises:
        ValueError: if fewer than ``ways`` classes have enough samples.
    """
    sizes = np.bincount(labels)
    (large,) = np.nonzero(sizes >= shots + queries)
    if len(large) < ways:
        raise ValueError(
            f"{ways} classes must have {shots + queries} samples each, but only {len(large)} have."
        )
    # Classes: those with the smallest random keys of an episode.
    numbers = np.arange(episodes, dtype=np.int64)
    keys = uniforms(
        seed, "episode classes", numbers.repeat(len(large)), np.tile(large, episodes)
    ).reshape(episodes, len(large))
    classes = large[np.argsort(keys, axis=1, kind="stable")[:, :ways]]
    # Samples: a random order of the samples of each class in each episode. The queries come first.
    count = shots + queries
    flat = classes.reshape(-1)
    chance = uniforms(seed, "episode samples", numbers.repeat(ways), flat, draws=count)
    places = _first_of_shuffled(chance, sizes[flat])
    by_class = np.argsort(labels, kind="stable")
    starts = np.cumsum(sizes) - sizes
    samples = by_class[starts[flat][:, None] + places].reshape(episodes, ways, count)
    return Episodes(classes, support=samples[..., queries:], queries=samples[..., :queries])


def _first_of_shuffled(
    chance: np.ndarray, sizes: Int64[np.ndarray, " rows"]
) -> Int64[np.ndarray, "rows draws"]:
    """Return the first places of a random order of ``range(size)``, for every row.

    The algorithm is that of Fisher and Yates: draw j swaps place j with a random place from j on.
    The swaps are kept as pairs, so that the cost does not depend on the sizes.

    Args:
        chance: uniform random numbers in ``[0, 1)``, one per draw.
        sizes: sizes of the rows' ranges, at least the number of draws.
    """
    draws = chance.shape[1]
    step = np.arange(draws)
    partners = step + (chance * (sizes[:, None] - step)).astype(np.int64)
    chosen = np.empty_like(partners)
    moved = np.empty_like(partners)  # what draw j moved to its partner
    for draw in range(draws):
        for row_values, places in (
            (chosen, partners[:, draw]),
            (moved, np.full(len(sizes), draw)),
        ):
            # The content of a place is what the last swap with it moved there.
            swapped = partners[:, :draw] == places[:, None]
            last = draw - 1 - swapped[:, ::-1].argmax(axis=1) if draw else np.zeros_like(places)
            content = moved[np.arange(len(sizes)), last]
            row_values[:, draw] = np.where(swapped.any(axis=1), content, places)
    return chosen
