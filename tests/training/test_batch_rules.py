"""The rules of batches and groups, beside what the loop does with every shape that they allow."""

import doctest

import pytest

from ssl_transfer.training import batch_rules
from ssl_transfer.training.batch_rules import group_problem, micro_batch_problem, share_problem


def test_the_examples_are_true() -> None:
    results = doctest.testmod(batch_rules)
    assert results.failed == 0
    assert results.attempted >= 5


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_a_batch_is_shared_where_every_micro_batch_has_the_same_size(processes: int) -> None:
    for accumulate in (1, 2, 3):
        for size in range(1, 25):
            equal = size // processes // accumulate * processes * accumulate == size
            assert (share_problem(size, processes, accumulate) == "") == equal


@pytest.mark.parametrize("processes", [1, 2, 4, 6])
def test_a_group_lies_in_one_process_or_spans_whole_ones(processes: int) -> None:
    for groups in range(1, 13):
        fits = groups % processes == 0 or processes % groups == 0
        assert (group_problem(groups, processes) == "") == fits
        inside = groups % (2 * processes) == 0
        assert (micro_batch_problem(groups, processes, 2) == "") == inside
        assert micro_batch_problem(groups, processes, 1) == ""
    assert "must divide the batch (8)" in group_problem(3, 1, batch_size=8)
    assert group_problem(0, processes) != ""
