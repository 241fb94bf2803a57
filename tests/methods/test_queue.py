"""The queue: order, fill, wrap, refusal."""

import pytest
import torch

from ssl_transfer.methods.queue import Queue


def _rows(first: int, count: int) -> torch.Tensor:
    return torch.arange(first, first + count).float()[:, None].expand(count, 2)


def test_it_starts_with_random_directions() -> None:
    queue = Queue(50, 3)
    torch.testing.assert_close(queue.rows.norm(dim=1), torch.ones(50))
    assert len(queue.rows.unique(dim=0)) == 50
    assert not queue.is_full


def test_rows_go_in_by_order_and_wrap_around_over_the_oldest() -> None:
    queue = Queue(5, 2)
    start = queue.rows.clone()
    queue.push(_rows(1, 2))
    assert queue.rows[:2, 0].tolist() == [1, 2]
    assert torch.equal(queue.rows[2:], start[2:])
    assert queue.pushed == int(queue.count) == 2
    assert not queue.is_full
    queue.push(_rows(3, 2))
    queue.push(_rows(5, 3))  # the size is no multiple of any batch
    assert queue.rows[:, 0].tolist() == [6, 7, 3, 4, 5]
    assert queue.is_full
    assert queue.pushed == 7


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_it_holds_the_latest_rows_whatever_the_batch(batch: int) -> None:
    queue = Queue(7, 2)
    for first in range(0, 10 * batch, batch):
        queue.push(_rows(first, batch))
    expected = set(range(max(0, 10 * batch - 7), 10 * batch))
    assert set(queue.rows[:, 0].tolist()) == expected


def test_its_state_goes_on_elsewhere() -> None:
    queue, other = Queue(5, 2), Queue(5, 2)
    queue.push(_rows(1, 4))
    other.load_state_dict(queue.state_dict())
    for each in (queue, other):
        each.push(_rows(5, 3))
    assert torch.equal(queue.rows, other.rows)
    assert queue.rows[:, 0].tolist() == [6, 7, 3, 4, 5]


def test_more_rows_than_it_has_are_refused_with_the_number_needed() -> None:
    with pytest.raises(ValueError, match=r"`method.queue_size` must be at least 6.*but is 5"):
        Queue(5, 2).push(_rows(0, 6))
    with pytest.raises(ValueError, match="at least 1, but is 0"):
        Queue(0, 2)


def test_it_is_cut_off_from_gradients() -> None:
    queue, rows = Queue(5, 2), torch.ones(2, 2, requires_grad=True)
    queue.push(rows)
    assert not queue.rows.requires_grad
