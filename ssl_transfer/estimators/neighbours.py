"""Nearest neighbours of features, exact and in bounded memory, and their votes on classes."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

Metric = Literal["cosine", "euclidean"]
Weighting = Literal["exp", "uniform"]
Space = Literal["original", "norm", "shifted_norm"]
Features = Float[Tensor, "_ dim"]

CHUNK_ELEMENTS = 2**25  # similarities in memory at once: 128 MiB
BLOCK_ELEMENTS = 2**26  # features in memory at once: 256 MiB


def nearest(
    queries: Float[Tensor, "queries dim"],
    bank: Features | Sequence[Features],
    *,
    k: int,
    metric: Metric = "cosine",
    space: "FeatureSpace | None" = None,
) -> tuple[Float[Tensor, "queries k"], Int64[Tensor, "queries k"]]:
    """Return the similarities and the rows of the ``k`` nearest neighbours, the nearest first.

    The bank is read block by block, so that it may be larger than memory if it is memory-mapped.

    Args:
        queries: features to look for.
        bank: features to choose from, or parts whose rows are numbered one after the other.
        k: number of neighbours, in ``[1, rows of the bank]``.
        metric: the similarity is the cosine, or (``euclidean``) minus the distance of the features
            as they are.
        space: where the bank is compared (``None``: as it is); the queries are there already.
    """
    space = space or FeatureSpace()
    parts = [bank] if isinstance(bank, Tensor) else list(bank)
    origin = None
    similarity = queries.new_empty(len(queries), 0)
    rows = torch.zeros(len(queries), 0, dtype=torch.int64, device=queries.device)
    start = 0
    for block in _blocks(parts, space.batch or 1):
        block = space(block.to(queries))
        if metric == "euclidean" and origin is None:
            # Distances do not change with the origin; with this one, rounding errors are small.
            origin = block.mean(0)
        values, places = _nearest_in(queries, block, k, origin)
        similarity = torch.cat([similarity, values], dim=1)
        rows = torch.cat([rows, places + start], dim=1)
        if start:  # merge with the neighbours in earlier blocks
            similarity, order = similarity.topk(min(k, similarity.shape[1]), dim=1)
            rows = rows.gather(1, order)
        start += len(block)
    if metric == "euclidean":
        similarity = -(-similarity).clamp(min=0).sqrt()
    return similarity, rows


def _nearest_in(
    queries: Float[Tensor, "queries dim"],
    bank: Float[Tensor, "bank dim"],
    k: int,
    origin: Float[Tensor, " dim"] | None,
) -> tuple[Float[Tensor, "queries found"], Int64[Tensor, "queries found"]]:
    """Return the neighbours in one block, by cosine or (with ``origin``) minus squared distance."""
    half_squares = None
    if origin is None:
        bank = F.normalize(bank)
    else:
        bank = bank - origin
        half_squares = bank.square().sum(1) / 2
    found = []
    for chunk in torch.split(queries, max(1, CHUNK_ELEMENTS // len(bank))):
        if half_squares is None or origin is None:
            found.append(_largest(F.normalize(chunk) @ bank.T, k))
            continue
        chunk = chunk - origin
        # |q - b|² = |q|² - 2 (qb - |b|²/2): the order depends on the second term only.
        values, places = _largest(torch.addmm(-half_squares, chunk, bank.T), k)
        found.append((2 * values - chunk.square().sum(1, keepdim=True), places))
    return torch.cat([values for values, _ in found]), torch.cat([places for _, places in found])


def _largest(
    values: Float[Tensor, "rows columns"], k: int
) -> tuple[Float[Tensor, "rows found"], Int64[Tensor, "rows found"]]:
    """Return the ``k`` largest values of each row (all, if there are fewer), and their columns.

    The largest values lie in the groups of columns with the ``k`` largest maxima. One pass finds
    the maxima; only these groups are sorted. ``topk`` of whole rows takes several times as long.
    """
    columns = values.shape[1]
    size = math.isqrt(columns // k) if k else 0
    groups = columns // size if size else 0
    if size < 4 or groups <= k:
        top: tuple[Tensor, Tensor] = values.topk(min(k, columns), dim=1)
        return top
    whole = groups * size
    # Group g holds the columns g, g + groups, g + 2 groups, …: the maxima are of contiguous rows.
    grouped = values[:, :whole].view(len(values), size, groups)
    chosen = grouped.amax(1).topk(k, dim=1).indices
    candidates = grouped.gather(2, chosen[:, None].expand(-1, size, -1)).flatten(1)
    if whole < columns:  # the columns that fill no group
        candidates = torch.cat([candidates, values[:, whole:]], dim=1)
    largest, places = candidates.topk(k, dim=1)
    step, group = places // k, chosen.gather(1, places % k)
    in_group = places < size * k
    return largest, torch.where(in_group, step * groups + group, places - size * k + whole)


def _blocks(parts: Sequence[Features], multiple: int = 1) -> Iterator[Features]:
    """Yield parts of bounded size, with a multiple of rows unless a part ends."""
    for part in parts:
        rows = BLOCK_ELEMENTS // part.shape[1] // multiple * multiple
        yield from torch.split(part, max(multiple, rows))


@dataclasses.dataclass(frozen=True)
class FeatureSpace:
    """A map of features for comparing them (Best-NN of Shi et al. 2022, ``eval/knn.py``).

    Args:
        name: ``original``: features as they are. ``norm``: of unit length. ``shifted_norm``: their
            difference to a mean, of unit length.
        mean: the mean for ``shifted_norm``, e.g. of the training features.
        batch: for ``shifted_norm`` the mean of each ``batch`` consecutive rows instead, as
            published; rows are then in the order of their file.
    """

    name: Space = "original"
    mean: Float[Tensor, " dim"] | None = None
    batch: int | None = None

    def __call__(self, features: Features) -> Features:
        """Return the features in this space."""
        if self.name == "original":
            return features
        if self.name == "shifted_norm":
            if self.batch is not None:
                batches = torch.split(features, self.batch)
                features = torch.cat([batch - batch.mean(0) for batch in batches])
            else:
                assert self.mean is not None
                features = features - self.mean
        return F.normalize(features)


def votes(
    similarity: Float[Tensor, "queries neighbours"],
    rows: Int64[Tensor, "queries neighbours"],
    labels: Int64[Tensor, " bank"] | Int64[Tensor, "bank classes"],
    *,
    k: Sequence[int],
    temperature: float,
    classes: int,
    weighting: Weighting = "exp",
) -> Iterator[Float[Tensor, "queries classes"]]:
    """Yield each class's share of the votes of the nearest neighbours, for each number of them.

    Args:
        similarity: similarities of the neighbours, the largest first.
        rows: their rows in the bank.
        labels: classes of the bank; or rows of 1 (shown), 0 (not shown) and -1 (does not vote on
            that class).
        k: numbers of voters in ascending order, in ``[1, neighbours]``.
        temperature: a vote weighs ``exp(similarity / temperature)``; positive.
        classes: number of classes.
        weighting: ``uniform`` gives all votes equal weight and ignores the temperature.

    Yields:
        For each ``k``, rows that sum to 1; with several classes per image each share is of that
        class's own votes (0 where no neighbour votes).
    """
    if weighting == "uniform":
        weights = torch.ones_like(similarity)
    else:
        # The weights of a query have a common factor, which keeps the largest one at 1.
        weights = ((similarity - similarity[:, :1]) / temperature).exp()
    # The sums for k neighbours are those for the previous k and the votes of the further ones.
    shown = weights.new_zeros(len(weights), classes)
    counted = torch.zeros_like(shown)
    before = 0
    for count in k:
        if labels.ndim == 1:
            shown.scatter_add_(1, labels[rows[:, before:count]], weights[:, before:count])
            total = shown.sum(1, keepdim=True)
        else:
            for place in range(before, count):  # one neighbour of all queries after the other
                known, weight = labels[rows[:, place]], weights[:, place : place + 1]
                shown += weight * (known == 1)
                counted += weight * (known >= 0)
            total = counted.clamp(min=torch.finfo(weights.dtype).tiny)
        yield shown / total
        before = count


def vote(
    queries: Float[Tensor, "queries dim"],
    bank: Features | Sequence[Features],
    labels: Int64[Tensor, " bank"] | Int64[Tensor, "bank classes"],
    *,
    k: int,
    temperature: float,
    classes: int,
    metric: Metric = "cosine",
    weighting: Weighting = "exp",
) -> Float[Tensor, "queries classes"]:
    """Return each class's share of the votes of the ``k`` nearest neighbours.

    Args:
        queries: see ``nearest``.
        bank: see ``nearest``.
        labels: see ``votes``.
        k: number of voters.
        temperature: see ``votes``.
        classes: see ``votes``.
        metric: see ``nearest``.
        weighting: see ``votes``.
    """
    similarity, rows = nearest(queries, bank, k=k, metric=metric)
    return next(
        votes(
            similarity,
            rows,
            labels,
            k=[k],
            temperature=temperature,
            classes=classes,
            weighting=weighting,
        )
    )
