import numpy as np
import pytest

from ssl_transfer.training.options import DomainOrder

DOMAINS = np.array([0] * 50 + [1] * 30 + [3] * 3 + [7] * 40)


def order(**keys) -> DomainOrder:
    values = {"batch_size": 12, "domains_per_batch": 2, "seed": 0, **keys}
    return DomainOrder(samples=len(DOMAINS), drop_last=False, domains=DOMAINS, **values)


def parts(step: int, **keys) -> list[list[int]]:
    indices = [index for _, index in order(**keys).batch(step)]
    size = len(indices) // keys.get("domains_per_batch", 2)
    return [indices[first : first + size] for first in range(0, len(indices), size)]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_batch_holds_equal_parts_of_distinct_domains(count: int) -> None:
    for step in range(20):
        drawn = [{int(DOMAINS[i]) for i in part} for part in parts(step, domains_per_batch=count)]
        assert all(len(domain) == 1 for domain in drawn)
        assert len(set.union(*drawn)) == count


def test_images_are_drawn_without_replacement_unless_their_domain_is_too_small() -> None:
    for step in range(30):
        for part in parts(step):
            counts = np.unique(part, return_counts=True)[1]
            expected = 2 if DOMAINS[part[0]] == 3 else 1  # six images of the domain of three
            assert (counts == expected).all()


def test_domains_are_equally_likely_whatever_their_sizes() -> None:
    drawn = [DOMAINS[part[0]] for step in range(400) for part in parts(step)]
    shares = np.bincount(drawn)[[0, 1, 3, 7]] / len(drawn)
    assert np.abs(shares - 1 / 4).max() < 0.06


def test_a_batch_is_a_function_of_seed_and_step_alone() -> None:
    assert order().batch(7) == order().batch(7)
    assert order().batch(7) != order().batch(8)
    assert order().batch(7) != order(seed=1).batch(7)
    assert {step for step, _ in order().batch(7)} == {7}  # every step has views of its own


def test_an_epoch_is_as_many_images_as_there_are() -> None:
    assert order().steps_per_epoch == len(DOMAINS) / 12
