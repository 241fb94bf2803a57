import random

import numpy as np
import pytest
import torch
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


def next_draws():
    """One number of every global generator."""
    numbers = [random.random(), np.random.random(), float(torch.rand(()))]  # noqa: NPY002
    if torch.cuda.is_available():
        numbers += [
            float(torch.rand((), device=f"cuda:{i}")) for i in range(torch.cuda.device_count())
        ]
    return numbers


def seed_all(seed):
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def test_every_global_generator_is_given_back_after_errors_too():
    seed_all(1)
    expected = next_draws()
    seed_all(1)
    with randomness.preserved():
        seed_all(2)
        next_draws()
    assert next_draws() == expected
    seed_all(1)

    @randomness.preserved()
    def fail():
        seed_all(2)
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert next_draws() == expected


def test_a_preserved_function_can_be_called_again_and_within_itself():
    @randomness.preserved()
    def deep(levels):
        seed_all(levels)
        return [*next_draws(), *(deep(levels - 1) if levels else [])]

    seed_all(1)
    expected = next_draws()
    seed_all(1)
    assert deep(3) == deep(3)
    assert next_draws() == expected


def test_layers_are_initialised_by_the_seed_alone():
    layers = []
    for outer in (1, 2):
        torch.manual_seed(outer)
        with randomness.seeded(5):
            layers.append(torch.nn.Linear(3, 2).weight)
    torch.manual_seed(5)
    assert torch.equal(layers[0], layers[1])
    assert torch.equal(layers[0], torch.nn.Linear(3, 2).weight)


def test_seeding_for_the_cpu_is_torchs_and_reaches_no_gpu(monkeypatch):
    torch.manual_seed(3)
    expected = torch.rand(4)

    def refuse(*_):
        raise AssertionError

    monkeypatch.setattr(torch.cuda, "manual_seed", refuse)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    with randomness.preserved():
        randomness.seed_torch(3, torch.device("cpu"))
        assert torch.equal(torch.rand(4), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_seeding_for_a_gpu_is_torchs_and_all_gpus_are_given_back():
    device = torch.device("cuda", 0)
    torch.manual_seed(3)
    expected = torch.rand(4, device=device)
    seed_all(1)
    before = next_draws()
    seed_all(1)
    with randomness.preserved(device):
        randomness.seed_torch(3, device)
        assert torch.equal(torch.rand(4, device=device), expected)
    assert next_draws() == before
