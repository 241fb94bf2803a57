"""Similarity of the views of one object, as a mean over all pairs of its views.

Ericsson, Gouk and Hospedales 2021, https://arxiv.org/abs/2111.11398; their code is
eval_realworld_invariance.py of github.com/linusericsson/ssl-invariances.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor


class ViewScores(NamedTuple):
    """Means over the pairs of views of each object.

    Args:
        similarity: mean cosine of two different views, in [-1, 1].
        similarity_with_self: mean cosine over all ordered pairs, each view's cosine with itself,
            which is 1, included: the published figure. With k views it equals
            ``(1 + (k - 1) * similarity) / k``.
        distance: mean Euclidean distance of two different views.
    """

    similarity: Float64[Tensor, " objects"]
    similarity_with_self: Float64[Tensor, " objects"]
    distance: Float64[Tensor, " objects"]


def view_scores(views: Float64[Tensor, "objects views dim"]) -> ViewScores:
    """Return the similarity and the distance of the views of objects with equally many views.

    Args:
        views: whitened features, at least two views per object; a zero vector has cosine 0 with
            every vector, itself included.

    Raises:
        ValueError: if there are fewer than two views.
    """
    count = views.shape[1]
    if count < 2:
        raise ValueError(f"a pair needs at least two views of an object, but there are {count}.")
    pairs = count * (count - 1)  # ordered pairs of different views
    # 1. Cosines of all pairs of views of an object, by one matrix product for all objects.
    unit = torch.nn.functional.normalize(views, dim=-1)
    cosines = unit @ unit.mT
    total = cosines.sum(dim=(1, 2))
    own = cosines.diagonal(dim1=1, dim2=2).sum(dim=1)
    # 2. Distances from inner products. Centred views lose less precision where views are alike.
    centred = views - views.mean(dim=1, keepdim=True)
    products = centred @ centred.mT
    squares = products.diagonal(dim1=1, dim2=2)
    squared = squares[:, :, None] + squares[:, None, :] - 2 * products
    distances = squared.clamp_min(0).sqrt()
    distances.diagonal(dim1=1, dim2=2).zero_()
    return ViewScores(
        similarity=(total - own) / pairs,
        similarity_with_self=total / count**2,
        distance=distances.sum(dim=(1, 2)) / pairs,
    )


def objects_by_size(groups: Int64[np.ndarray, " views"]) -> Iterator[Int64[np.ndarray, "o v"]]:
    """Yield the positions of the views of all objects that have equally many, for every number.

    Args:
        groups: number of each view's object.

    Returns:
        arrays with one row per object, in ascending order of the number of views and, within an
        array, of the objects' numbers; the views of an object are in the given order.
    """
    order = np.argsort(groups, kind="stable")
    _, starts, counts = np.unique(groups[order], return_index=True, return_counts=True)
    for count in np.unique(counts).tolist():
        places = starts[counts == count][:, None] + np.arange(count)
        yield order[places]
