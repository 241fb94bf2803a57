"""Instance discrimination against the published lists and against scipy's distances."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from ssl_transfer.metrics.retrieval import cross_domain, same_domain

GALLERIES = pytest.mark.parametrize("score", [cross_domain, same_domain])


def pairs(images: int, noise: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    chance = torch.Generator().manual_seed(seed)
    first = torch.randn(images, 8, generator=chance, dtype=torch.float64)
    second = first + noise * torch.randn(images, 8, generator=chance, dtype=torch.float64)
    return first, second * 3


def published(queries: Tensor, positives: Tensor, k: int) -> list[float]:
    """Return top-1 to top-k as published: the positive is within the best k + 1 of its list."""
    first, second = (part / part.norm(dim=1, keepdim=True) for part in (queries, positives))
    correct = np.zeros(k)
    for i in range(len(first)):
        listed = [float(first[i] @ second[i]), *(float(first[i] @ other) for other in first)]
        best = np.argsort(listed)[::-1]
        correct += [0 in best[: rank + 1] for rank in range(1, k + 1)]
    return (correct / len(first)).tolist()


def nearest(queries: Tensor, candidates: Tensor, k: int) -> list[float]:
    """Return top-1 to top-k of a search among all candidates by scipy's cosine distance."""
    order = cdist(queries.numpy(), candidates.numpy(), "cosine").argsort(axis=1)
    place = (order == np.arange(len(queries))[:, None]).argmax(axis=1)
    return [float((place < rank).mean()) for rank in range(1, k + 1)]


@pytest.mark.parametrize("noise", [0.2, 1.0, 3.0])
def test_the_same_domain_gallery_is_the_published_rule(noise: float) -> None:
    queries, positives = pairs(60, noise)
    assert same_domain(queries, positives, k=5).tolist() == pytest.approx(
        published(queries, positives, 5)
    )


@pytest.mark.parametrize("noise", [0.2, 1.0, 3.0])
def test_the_cross_domain_gallery_is_a_search_among_the_views(noise: float) -> None:
    queries, positives = pairs(60, noise)
    scores = cross_domain(queries, positives, k=5).tolist()
    assert scores == pytest.approx(nearest(queries, positives, 5))
    if noise == 1.0:
        assert scores != pytest.approx(same_domain(queries, positives, k=5).tolist(), abs=1e-3)


@GALLERIES
def test_equal_domains_give_1_at_every_rank(score) -> None:
    queries, _ = pairs(50, 0.0)
    assert score(queries, 2 * queries, k=5).tolist() == [1.0] * 5


@GALLERIES
def test_random_features_give_k_of_n_and_so_do_constant_ones(score) -> None:
    chance = torch.Generator().manual_seed(0)
    queries, positives = torch.randn(2, 1500, 64, generator=chance)
    expected = [k / 1500 for k in range(1, 6)]
    assert score(queries, positives, k=5).tolist() == pytest.approx(expected, abs=4e-3)
    same = torch.randn(1, 64, generator=chance).expand(1500, -1)
    assert score(same, same.clone(), k=5).tolist() == pytest.approx(expected)


@GALLERIES
def test_neither_order_nor_chunks_change_the_scores(score) -> None:
    queries, positives = pairs(101, 1.5)
    queries[7], positives[7] = queries[3], positives[3]  # a tie
    order = torch.randperm(101, generator=torch.Generator().manual_seed(1))
    scores = score(queries, positives, k=3)
    assert 0 < scores[0] < 1
    assert torch.allclose(score(queries[order], positives[order], k=3), scores)
    for chunk in (1, 7, 101, 500):
        assert torch.allclose(score(queries, positives, k=3, chunk=chunk), scores)


def test_a_tie_counts_by_the_probability_of_its_places() -> None:
    queries = torch.eye(3)
    candidates = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 0, 1]])
    # Image 0 ties with 1 for the first place; image 1 is as far as all others.
    assert cross_domain(queries, candidates, k=2).tolist() == pytest.approx(
        [(1 / 2 + 1 / 3 + 1) / 3, (1 + 2 / 3 + 1) / 3]
    )


def test_one_image_cannot_be_told_from_others() -> None:
    with pytest.raises(ValueError, match="needs two images at least"):
        same_domain(torch.ones(1, 4), torch.ones(1, 4), k=1)
