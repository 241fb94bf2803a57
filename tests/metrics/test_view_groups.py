from collections import defaultdict

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ssl_transfer.metrics.view_groups import objects_by_size, view_scores


def whitened(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def published(views: torch.Tensor) -> tuple[float, float]:
    """Return similarity and distance of one object as eval_realworld_invariance.py has them."""
    matrix = torch.zeros((views.shape[0], views.shape[0]), dtype=views.dtype)
    for i in range(views.shape[0]):
        for j in range(views.shape[0]):
            matrix[i, j] = F.cosine_similarity(views[i], views[j], dim=-1).mean()
    return float(matrix.mean()), float(torch.pdist(views, p=2).mean())


@pytest.mark.parametrize("count", [2, 3, 12])
def test_scores_are_those_of_the_published_loops(count: int) -> None:
    views = whitened(5, count, 7)
    scores = view_scores(views)
    expected = [published(one) for one in views]
    assert scores.similarity_with_self.tolist() == pytest.approx([one[0] for one in expected])
    assert scores.distance.tolist() == pytest.approx([one[1] for one in expected])


@pytest.mark.parametrize("count", [2, 5, 72])
def test_the_published_similarity_follows_from_that_of_different_views(count: int) -> None:
    scores = view_scores(whitened(4, count, 6))
    expected = (1 + (count - 1) * scores.similarity) / count
    assert torch.allclose(scores.similarity_with_self, expected, rtol=0, atol=1e-12)


def test_equal_views_have_similarity_one_and_distance_zero_and_opposite_ones_minus_one() -> None:
    view = whitened(3, 1, 8)
    equal = view_scores(view.expand(3, 4, 8))
    assert equal.similarity.tolist() == pytest.approx([1.0] * 3)
    assert equal.distance.tolist() == pytest.approx([0.0] * 3, abs=1e-12)
    opposite = view_scores(torch.cat([view, -view], dim=1))
    assert opposite.similarity.tolist() == pytest.approx([-1.0] * 3)
    assert opposite.similarity_with_self.tolist() == pytest.approx([0.0] * 3, abs=1e-12)


def test_nearly_equal_views_far_from_the_mean_keep_their_distance() -> None:
    step = torch.tensor([3e-6, 4e-6], dtype=torch.float64)
    views = torch.stack([torch.full((2,), 1e4, dtype=torch.float64)] * 2)
    views[1] += step
    assert float(view_scores(views[None]).distance) == pytest.approx(5e-6, rel=1e-4)


def test_scores_do_not_depend_on_the_order_of_views_or_on_the_other_objects() -> None:
    views = whitened(4, 6, 5)
    whole, turned = view_scores(views), view_scores(views.flip(1))
    for together, reversed_views, alone in zip(whole, turned, view_scores(views[2:3]), strict=True):
        assert torch.allclose(together, reversed_views, atol=1e-12)
        assert torch.allclose(together[2:3], alone, atol=1e-12)


def test_a_feature_that_is_exactly_the_mean_is_similar_to_nothing() -> None:
    views = whitened(1, 2, 3)
    views[0, 1] = 0
    scores = view_scores(views)
    assert (float(scores.similarity), float(scores.similarity_with_self)) == (0.0, 0.25)


def test_a_single_view_has_no_pair() -> None:
    with pytest.raises(ValueError, match="at least two views of an object, but there are 1"):
        view_scores(whitened(3, 1, 4))


def test_objects_are_collected_by_their_number_of_views() -> None:
    groups = np.random.default_rng(0).integers(0, 40, 100) * 7
    expected = defaultdict(list)
    for place, number in enumerate(groups.tolist()):
        expected[number].append(place)
    found = list(objects_by_size(groups))
    sizes = [members.shape[1] for members in found]
    assert sizes == sorted(set(map(len, expected.values())))
    collected = [row for members in found for row in members.tolist()]
    assert sorted(collected) == sorted(expected.values())
    for members in found:
        numbers = groups[members]
        assert (numbers == numbers[:, :1]).all()
        assert (np.diff(numbers[:, 0]) > 0).all()
