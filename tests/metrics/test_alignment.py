"""Alignment and uniformity against closed forms, scipy and the published loops."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from torch import Tensor
from torch.nn import functional as F

from ssl_transfer.metrics import alignment as alignments
from ssl_transfer.metrics.alignment import (
    alignment,
    groups,
    intra_class_alignment,
    uniformity,
    uniformity_of_groups,
)
from ssl_transfer.metrics.retrieval import same_domain


def directions(images: int, dim: int, seed: int = 0) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(images, dim, generator=chance) * torch.rand(images, 1, generator=chance)


def unit(features: Tensor) -> np.ndarray:
    return F.normalize(features.double()).numpy()


def test_alignment_is_the_mean_squared_distance_of_unit_vectors() -> None:
    first, second = directions(3000, 7), directions(3000, 7, seed=1)
    expected = np.square(unit(first) - unit(second)).sum(1).mean()
    assert alignment(first, second) == pytest.approx(expected, rel=1e-6)
    assert alignment(first, second) == pytest.approx(
        2 - 2 * (unit(first) * unit(second)).sum(1).mean(), rel=1e-6
    )


def test_alignment_is_0_for_equal_4_for_opposite_and_2_for_independent_directions() -> None:
    features = directions(2000, 256)
    assert alignment(features, 3 * features) == pytest.approx(0, abs=1e-10)
    assert alignment(features, -features) == pytest.approx(4)
    assert alignment(features, directions(2000, 256, seed=1)) == pytest.approx(2, abs=0.02)


def test_intra_class_alignment_is_the_mean_over_classes_of_all_pairs() -> None:
    features = directions(60, 5) + 0.5
    labels = torch.tensor([0] * 2 + [1] * 20 + [3] * 38)  # unequal, and 2 has no image
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    expected = np.mean(
        [pdist(unit(features[labels == c]), "sqeuclidean").mean() for c in (0, 1, 3)]
    )
    assert intra_class_alignment(features[order], labels[order]) == pytest.approx(expected)


def test_intra_class_alignment_is_the_closed_form_of_the_mean() -> None:
    features = directions(50, 16) + 0.3
    squared = np.square(unit(features).mean(0)).sum()
    expected = 2 * 50 / 49 * (1 - squared)
    assert intra_class_alignment(features, torch.zeros(50, dtype=torch.long)) == pytest.approx(
        expected
    )


def test_a_class_with_one_image_has_no_distance() -> None:
    with pytest.raises(ValueError, match=r"1 have only one, the first being class 1"):
        intra_class_alignment(directions(3, 4), torch.tensor([0, 0, 1]))


@pytest.mark.parametrize("images", [2, 3, 64, 257])
@pytest.mark.parametrize("block", [7, 64, 1000, None])
def test_uniformity_is_that_of_all_pairs_by_scipy_for_every_size_of_blocks(
    images: int, block: int | None
) -> None:
    features = directions(images, 9)
    expected = math.log(np.exp(-2 * pdist(unit(features), "sqeuclidean")).mean())
    assert uniformity(features, block=block) == pytest.approx(expected, abs=2e-6)


def test_uniformity_is_0_of_equal_directions_and_nearly_minus_4_of_random_ones() -> None:
    one = directions(1, 32).expand(100, -1) * torch.arange(1, 101)[:, None]
    assert uniformity(one) == pytest.approx(0, abs=1e-5)
    # E exp(4 cos) = 1 + 16 / (2 dim) + … for cosines of variance 1 / dim.
    assert uniformity(directions(1500, 4096)) == pytest.approx(-4 + 8 / 4096, abs=2e-3)
    both = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert uniformity(both) == pytest.approx(-8, abs=1e-5)


@pytest.mark.parametrize(
    ("width", "others"), [(16, [(10, 15), (10, 5)]), (1, [(10, 10), (10, 5), (10, 5)])]
)
def test_every_part_of_the_upper_triangle_is_computed_once(
    width: int, others: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    monkeypatch.setattr(alignments, "WIDTH", width)
    original = alignments._kernel

    def counting(rows: Tensor, columns: Tensor, buffer: Tensor) -> Tensor:
        computed.append((len(rows), len(columns)))
        return original(rows, columns, buffer)

    monkeypatch.setattr(alignments, "_kernel", counting)
    uniformity(directions(25, 4), block=10)
    assert sorted(computed) == sorted([(10, 10), (10, 10), (5, 5), *others])


def published_uniformity(features: np.ndarray, members: np.ndarray) -> float:
    """Return the published estimate: the mean over groups of the log of the mean kernel."""
    logarithms = []
    for group in members:
        rows, kernels = features[group], []
        for i in range(len(rows)):
            for j in range(i + 1, len(rows)):
                kernels.append(math.exp(-2 * np.square(rows[i] - rows[j]).sum()))
        logarithms.append(math.log(sum(kernels) / len(kernels)))
    return float(np.mean(logarithms))


def test_the_estimate_of_groups_is_the_published_loop_and_close_to_the_exact_value() -> None:
    features = directions(1000, 32)
    members = groups(1000, seed=3)
    assert members.shape == (3, 128)
    assert len(np.unique(members)) == 3 * 128
    assert np.array_equal(members, groups(1000, seed=3))
    assert not np.array_equal(members, groups(1000, seed=4))
    estimate = float(np.mean(uniformity_of_groups(features, members)))
    assert estimate == pytest.approx(published_uniformity(unit(features), members), abs=1e-5)
    assert estimate == pytest.approx(uniformity(features), abs=0.05)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="need 384 images, but there are 383"):
        groups(383, seed=0)
    with pytest.raises(ValueError, match="uniformity needs at least 2 images, but there are 1"):
        uniformity(directions(1, 4))
    with pytest.raises(ValueError, match="alignment needs at least 1 images, but there are 0"):
        alignment(directions(0, 4), directions(0, 4))


def test_a_feature_without_a_direction_is_refused() -> None:
    features = directions(5, 4)
    features[[1, 3]] = 0
    labels = torch.zeros(5, dtype=torch.long)
    for figure in (
        lambda: alignment(directions(5, 4), features),
        lambda: uniformity(features),
        lambda: intra_class_alignment(features, labels),
        lambda: same_domain(features, features, k=1),
    ):
        with pytest.raises(ValueError, match="those of 2 of 5 images are zero"):
            figure()
