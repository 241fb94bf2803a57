"""CKA has its closed forms, and is the estimate that its definition says."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from ssl_transfer.analysis.similarity import MinibatchCKA, gram, unbiased_hsic


def cka(*batches: tuple[Tensor, Tensor]) -> float:
    found = MinibatchCKA()
    for x, y in batches:
        found.add(gram(x), gram(y))
    value = found.value()
    assert value is not None
    return value


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def rotation(size: int) -> Tensor:
    return torch.linalg.qr(normal(size, size, seed=9))[0]


def test_a_representation_is_like_itself_rotated_scaled_and_shifted() -> None:
    x = normal(20, 7)
    assert cka((x, x)) == pytest.approx(1, abs=1e-12)
    assert cka((x, -3 * x @ rotation(7) + 5)) == pytest.approx(1, abs=1e-12)
    y = normal(20, 4, seed=1) + x[:, :4]
    assert cka((2 * x @ rotation(7), y - 1)) == pytest.approx(cka((x, y)), abs=1e-12)
    # Not to other linear maps: those may hide what is different.
    assert cka((x, x * torch.tensor([9.0, 1, 1, 1, 1, 1, 1]))) < 0.9


def test_unrelated_representations_are_unlike_even_with_more_features_than_samples() -> None:
    x, y = normal(40, 500), normal(40, 500, seed=1)
    centred = [part - part.mean(0) for part in (x, y)]
    assert abs(cka((x, y))) < 0.15
    assert feature_space(*centred) > 0.9  # the published, biased estimate


def feature_space(x: Tensor, y: Tensor) -> float:
    """Kornblith et al. 2019, section 3: linear CKA of centred features."""
    norm = torch.linalg.matrix_norm
    return float(norm(y.T @ x) ** 2 / (norm(x.T @ x) * norm(y.T @ y)))


def test_with_many_samples_it_is_the_feature_space_form() -> None:
    x = normal(3000, 5) * torch.tensor([3.0, 2, 1, 1, 1])
    y = x @ normal(5, 4, seed=1) + 2 * normal(3000, 4, seed=2)
    assert cka((x, y)) == pytest.approx(feature_space(x - x.mean(0), y - y.mean(0)), abs=2e-3)


def test_hsic_is_the_mean_over_all_four_different_samples() -> None:
    # Song et al. 2012, eq. 4: the U-statistic; and for the biased one tr(KHLH) with the mean over
    # all samples, different or not.
    x, y = normal(6, 3), normal(6, 2, seed=1)
    K, L = gram(x), gram(y)
    terms = [
        K[i, j] * (L[i, j] + L[q, r] - 2 * L[i, q])
        for i, j, q, r in itertools.permutations(range(6), 4)
    ]
    assert unbiased_hsic(K, L) == pytest.approx(float(sum(terms)) / len(terms), abs=1e-12)
    every = [
        K[i, j] * (L[i, j] + L[q, r] - 2 * L[i, q])
        for i, j, q, r in itertools.product(range(6), repeat=4)
    ]
    H = torch.eye(6, dtype=torch.float64) - 1 / 6
    assert float(sum(every)) / 6**4 == pytest.approx(float(torch.trace(K @ H @ L @ H)) / 36)


def test_the_gram_matrix_does_not_depend_on_what_all_samples_share() -> None:
    x, y = normal(8, 3, 2, 2), normal(8, 5, seed=1)
    K, L = x.flatten(1) @ x.flatten(1).T, y @ y.T
    assert unbiased_hsic(gram(x + 1e3), gram(y)) == pytest.approx(unbiased_hsic(K, L), rel=1e-6)
    assert gram(x).dtype == gram(x.float()).dtype == torch.float64


def test_batches_are_averaged_before_they_are_divided() -> None:
    # Nguyen et al. 2021, eq. 2.
    pairs = [
        (normal(9, 4, seed=s), normal(9, 4, seed=s) + normal(9, 4, seed=s + 9)) for s in (0, 1)
    ]
    sums = [0.0, 0.0, 0.0]
    for x, y in pairs:
        K, L = gram(x), gram(y)
        for place, (a, b) in enumerate(((K, L), (K, K), (L, L))):
            sums[place] += unbiased_hsic(a, b)
    assert cka(*pairs) == pytest.approx(sums[0] / math.sqrt(sums[1] * sums[2]), abs=1e-12)


def test_a_constant_representation_is_like_nothing() -> None:
    found = MinibatchCKA()
    found.add(gram(normal(5, 3)), gram(torch.ones(5, 2)))
    assert found.value() is None


def test_three_samples_are_too_few() -> None:
    with pytest.raises(ValueError, match="at least 4 samples, but has 3"):
        unbiased_hsic(gram(normal(3, 2)), gram(normal(3, 2)))
