"""Instance discrimination: whether the view most similar to an image is its own."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ssl_transfer.metrics.alignment import directions

CHUNK_ELEMENTS = 2**25
"""Similarities in memory at once: 128 MiB."""
TIE = 1e-6
"""Cosines that differ by no more count as equal: a float32 cosine is rounded by about 1e-7."""

Features = Float[Tensor, "images dim"]


def cross_domain(
    queries: Features, candidates: Features, *, k: int, chunk: int | None = None
) -> Float64[Tensor, " k"]:
    """Return the share of queries whose own view is among the best 1, 2, … k candidates.

    The candidates of every query are one view of each image, its own among them.

    Args:
        queries: one row per image.
        candidates: another view of the same images, in the same order.
        k: the largest rank that counts.
        chunk: queries at a time (``None``: as many as ``CHUNK_ELEMENTS`` allows).

    Returns:
        Top-1 to top-k, fractions. The order of equally similar candidates is taken as random: each
        query counts by its probability to be correct.

    Raises:
        ValueError: if there are fewer than two images, or a feature is zero.
    """
    return _shares(queries, candidates, candidates, k=k, chunk=chunk)


def same_domain(
    queries: Features, positives: Features, *, k: int, chunk: int | None = None
) -> Float64[Tensor, " k"]:
    """Return the share of queries with fewer than 1, 2, … k queries closer than the own view.

    The rule of Shi et al. 2022 (eval/instdisc.py of github.com/WOWNICE/ssl-small): a query's
    positive competes with all queries, of which the query itself is always the most similar and
    takes one place, so that top-k is a place among the first k + 1.

    Args:
        queries: one row per image.
        positives: another view of the same images, in the same order.
        k: the largest rank that counts.
        chunk: queries at a time (``None``: as many as ``CHUNK_ELEMENTS`` allows).

    Returns:
        See ``cross_domain``.

    Raises:
        ValueError: likewise.
    """
    return _shares(queries, positives, queries, k=k, chunk=chunk)


def _shares(
    queries: Features,
    positives: Features,
    gallery: Features,
    *,
    k: int,
    chunk: int | None,
) -> Float64[Tensor, " k"]:
    """Return top-1 to top-k of each query's positive among the gallery's other images."""
    if not len(queries) == len(positives) == len(gallery) or len(queries) < 2:
        raise ValueError(
            "instance discrimination needs two images at least and a view of each, but there are "
            f"{len(queries)} images and {len(positives)} views; add images."
        )
    queries, positives, gallery = (directions(part) for part in (queries, positives, gallery))
    ranks = torch.arange(1, k + 1, device=queries.device, dtype=torch.float64)
    correct = torch.zeros_like(ranks)
    step = chunk or max(1, CHUNK_ELEMENTS // len(gallery))
    for start in range(0, len(queries), step):
        rows = queries[start : start + step]
        own = torch.arange(start, start + len(rows), device=rows.device)
        positive = (rows * positives[own]).sum(1, keepdim=True)
        similarity = rows @ gallery.T
        # The image itself is no competitor: neither the query nor its positive.
        similarity[torch.arange(len(rows), device=rows.device), own] = -torch.inf
        closer = (similarity > positive + TIE).sum(1, keepdim=True)
        equal = (similarity >= positive - TIE).sum(1, keepdim=True) - closer
        # Among `equal` candidates and itself, the positive takes each place equally often.
        places = (ranks - closer) / (equal + 1)
        correct += places.clamp(0, 1).sum(0)
    return correct.cpu() / len(queries)
