"""t-SNE of features in two dimensions, and how far it can be trusted."""

import dataclasses
import inspect
from typing import Literal

import numpy as np
import sklearn.manifold
import torch
from jaxtyping import Float, Float64

from ssl_transfer.metrics.alignment import directions

Initialisation = Literal["pca", "random"]
NEIGHBOURS = 5
"""Neighbours of a point that trustworthiness compares."""
MIN_POINTS = 2 * NEIGHBOURS + 2
MIN_ITERATIONS = 250
"""The first 250 iterations exaggerate attraction, so that no shorter run is a t-SNE."""
SAME = 1e-6
"""Largest difference of unit vectors that counts as rounding."""


@dataclasses.dataclass(frozen=True, eq=False)
class Embedding:
    """A t-SNE.

    Args:
        points: its coordinates.
        kl_divergence: its loss, in nats.
        trustworthiness: see ``trustworthiness``.
    """

    points: Float64[np.ndarray, "images 2"]
    kl_divergence: float
    trustworthiness: float


def embed(
    features: Float[np.ndarray, "images dim"],
    *,
    perplexity: float,
    initialisation: Initialisation = "pca",
    iterations: int = 1000,
    pca_dims: int = 50,
    seed: int = 0,
) -> Embedding:
    """Return the t-SNE of the directions of features, by scikit-learn.

    van der Maaten and Hinton 2008, https://jmlr.org/papers/v9/vandermaaten08a.html. Features are
    normalised and reduced to their first principal components, as by Shi et al. 2022
    (experiments/tsne.py of github.com/WOWNICE/ssl-small).

    Args:
        features: one row per image, at least ``MIN_POINTS``.
        perplexity: number of neighbours that count, below the number of images.
        initialisation: the first two principal components, or random points.
        iterations: at least ``MIN_ITERATIONS``.
        pca_dims: number of principal components that are kept.
        seed: seed of scikit-learn.

    Raises:
        ValueError: if a feature is zero, or all have the same direction.
    """
    unit = directions(torch.from_numpy(features).double()).numpy()
    if float(np.ptp(unit, axis=0).max()) <= SAME:
        raise ValueError(
            f"t-SNE needs features that differ, but those of all {len(unit)} images have the same "
            "direction; check the encoder's weights and `preprocessing`."
        )
    # The argument has another name before scikit-learn 1.5.
    known = inspect.signature(sklearn.manifold.TSNE).parameters
    steps = "max_iter" if "max_iter" in known else "n_iter"
    tsne = sklearn.manifold.TSNE(
        perplexity=perplexity,
        init=initialisation,
        learning_rate="auto",
        random_state=seed % 2**32,
        **{steps: iterations},
    )
    points = np.asarray(tsne.fit_transform(_principal(unit, pca_dims)), dtype=np.float64)
    return Embedding(points, float(tsne.kl_divergence_), trustworthiness(unit, points))


def _principal(
    rows: Float64[np.ndarray, "images dim"], dims: int
) -> Float64[np.ndarray, "images kept"]:
    """Return the first principal components, each with the sign of its largest loading."""
    centred = rows - rows.mean(axis=0)
    if centred.shape[1] <= dims:
        return np.asarray(centred)
    left, lengths, right = np.linalg.svd(centred, full_matrices=False)
    largest = np.abs(right).argmax(axis=1)
    signs = np.sign(right[np.arange(len(right)), largest])
    return np.ascontiguousarray((left * lengths * signs)[:, :dims])


def trustworthiness(
    features: Float64[np.ndarray, "images dim"], points: Float64[np.ndarray, "images 2"]
) -> float:
    """Return how many neighbours in an embedding are neighbours of the features, too.

    Venna and Kaski 2001, https://doi.org/10.1007/3-540-44668-0_68: 1 if all of a point's five
    nearest ones are among those of its features; each other one lowers it by its rank.

    Args:
        features: one row per image, at least ``MIN_POINTS``.
        points: the embedding.

    Returns:
        A fraction; about 0.5 for points at random.
    """
    return float(sklearn.manifold.trustworthiness(features, points, n_neighbors=NEIGHBOURS))
