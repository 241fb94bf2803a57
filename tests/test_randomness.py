import numpy as np
import pytest
from scipy import stats

from ssl_transfer import randomness


def draws(seed=0, purpose="augment", epochs=0, size=20_000, **keys):
    indices = np.arange(size)
    return randomness.uniforms(seed, purpose, np.full(size, epochs), indices, **keys)


def test_draws_are_uniform_and_uncorrelated():
    u = draws(draws=3)
    assert u.shape == (20_000, 3)
    assert u.min() >= 0
    assert u.max() < 1
    for column in u.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    assert np.abs(np.corrcoef(u.T) - np.eye(3)).max() < 0.03
    assert abs(np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]) < 0.03


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"purpose": "head"}, {"epochs": 1}, {"view": 1}], ids=str
)
def test_every_part_of_the_address_matters(other):
    assert abs(np.corrcoef(draws()[:, 0], draws(**other)[:, 0])[0, 1]) < 0.03
    assert not np.array_equal(draws(), draws(**other))


def test_a_draw_does_not_depend_on_its_neighbours():
    together = draws(draws=2)
    alone = randomness.uniforms(0, "augment", np.array([0]), np.array([17]), draws=1)
    assert alone[0, 0] == together[17, 0]


def test_an_order_is_a_permutation_that_depends_on_the_epoch():
    first, second = (randomness.permutation(0, "order", epoch, 100) for epoch in (0, 1))
    assert sorted(first) == list(range(100))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, randomness.permutation(0, "order", 0, 100))
