import numpy as np
import pytest

from ssl_transfer.datasets.splitting import held_out, hold_out, per_class

TARGETS = np.random.default_rng(0).permutation(np.repeat(np.arange(5), [100, 50, 10, 2, 1]))


@pytest.mark.parametrize(
    ("count", "fraction", "expected"),
    [(5000, 0.2, 1000), (10, 0.2, 2), (3, 0.2, 1), (2, 0.9, 1), (1, 0.5, 0), (13, 0.5, 7)],
)
def test_held_out_rounds_but_leaves_one_on_either_side(count, fraction, expected) -> None:
    assert held_out(count, fraction) == expected


def test_every_class_keeps_a_sample_and_gives_its_share() -> None:
    kept, held = hold_out(TARGETS, 0.2, 0, "validation")
    assert np.bincount(TARGETS[kept], minlength=5).tolist() == [80, 40, 8, 1, 1]
    assert np.bincount(TARGETS[held], minlength=5).tolist() == [20, 10, 2, 1, 0]
    assert sorted([*kept, *held]) == list(range(len(TARGETS)))


def test_choices_depend_on_seed_and_purpose_only() -> None:
    first = hold_out(TARGETS, 0.2, 0, "validation")[1]
    assert (first == hold_out(TARGETS, 0.2, 0, "validation")[1]).all()
    assert set(first) != set(hold_out(TARGETS, 0.2, 1, "validation")[1])
    assert set(first) != set(hold_out(TARGETS, 0.2, 0, "test")[1])


def test_a_class_is_chosen_from_whatever_the_others_hold() -> None:
    without = TARGETS.copy()
    without[TARGETS == 1] = 7
    for targets in (TARGETS, without):
        held = hold_out(targets, 0.2, 0, "validation")[1]
        assert set(held[targets[held] == 0]) == set(
            (h := hold_out(TARGETS, 0.2, 0, "validation")[1])[TARGETS[h] == 0]
        )


def test_few_labels_are_nested() -> None:
    few, more = (set(per_class(TARGETS, count, 0, "labels").tolist()) for count in (4, 9))
    assert few < more
    assert np.bincount(TARGETS[sorted(few)]).tolist() == [4, 4, 4, 2, 1]
