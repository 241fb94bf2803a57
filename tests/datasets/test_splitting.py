import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold

from ssl_transfer.datasets.splitting import (
    cross_validation_folds,
    held_out,
    hold_out,
    per_class,
)

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


@pytest.mark.parametrize("purpose", ["validation", "test"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_groups_of_one_sample_change_nothing(purpose: str, seed: int) -> None:
    groups = np.random.default_rng(1).permutation(len(TARGETS)) + 7
    for alone, grouped in zip(
        hold_out(TARGETS, 0.2, seed, purpose),
        hold_out(TARGETS, 0.2, seed, purpose, groups),
        strict=True,
    ):
        assert (alone == grouped).all()


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_divided_and_classes_keep_their_shares(seed: int) -> None:
    chance = np.random.default_rng(seed)
    targets = np.repeat([0, 1, 2], [300, 200, 90])
    groups = 100 * targets + chance.integers(0, 30, 590)
    kept, held = hold_out(targets, 0.2, seed, "test", groups)
    assert sorted([*kept, *held]) == list(range(590))
    assert not set(groups[kept]) & set(groups[held])
    # Whole groups may be off by half of one.
    for label, wanted in enumerate([60, 40, 18]):
        largest = np.unique(groups[targets == label], return_counts=True)[1].max()
        assert abs((targets[held] == label).sum() - wanted) <= largest / 2
    order = chance.permutation(590)
    again = hold_out(targets[order], 0.2, seed, "test", groups[order])[1]
    assert not set(groups[order][again]) & set(np.delete(groups[order], again))


def test_a_group_may_have_several_classes() -> None:
    targets = np.tile([0, 0, 1], 20)
    groups = np.repeat(np.arange(20), 3)
    kept, held = hold_out(targets, 0.2, 0, "test", groups)
    assert not set(groups[kept]) & set(groups[held])
    assert np.bincount(targets[held]).tolist() == [8, 4]


def test_a_class_of_one_group_is_kept_and_one_of_two_large_groups_is_divided() -> None:
    targets = np.repeat([0, 1], [10, 10])
    groups = np.repeat([5, 6, 7], [10, 7, 3])
    kept, held = hold_out(targets, 0.2, 0, "test", groups)
    assert set(groups[held]) == {7}
    assert np.bincount(targets[kept]).tolist() == [10, 7]


@pytest.mark.parametrize("targets", [None, TARGETS])
def test_folds_hold_every_sample_out_once_and_are_of_equal_size(targets) -> None:
    folds = cross_validation_folds(len(TARGETS), 5, 0, targets)
    assert sorted(np.concatenate(folds)) == list(range(len(TARGETS)))
    assert sorted(len(held) for held in folds) == [32, 32, 33, 33, 33]
    assert all((np.diff(held) > 0).all() for held in folds)
    again = cross_validation_folds(len(TARGETS), 5, 0, targets)
    assert all((one == two).all() for one, two in zip(folds, again, strict=True))
    other = cross_validation_folds(len(TARGETS), 5, 1, targets)
    assert any(set(one) != set(two) for one, two in zip(folds, other, strict=True))


def test_folds_of_classes_share_each_class_as_evenly_as_scikit_learns() -> None:
    folds = cross_validation_folds(len(TARGETS), 5, 0, TARGETS)
    counts = np.array([np.bincount(TARGETS[held], minlength=5) for held in folds])
    assert (np.ptp(counts, axis=0) <= 1).all()
    judge = StratifiedKFold(5, shuffle=True, random_state=0)
    with pytest.warns(UserWarning, match="least populated"):
        parts = list(judge.split(TARGETS, TARGETS))
    theirs = np.array([np.bincount(TARGETS[held], minlength=5) for _, held in parts])
    assert (np.sort(counts, axis=0) == np.sort(theirs, axis=0)).all()
