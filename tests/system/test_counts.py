"""Counts that are saved with a module and known on the host."""

import copy

import torch
from torch import nn

from ssl_transfer.system.counts import Count


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.count = Count(self, "steps")


def test_a_count_is_the_same_in_the_buffer_and_on_the_host() -> None:
    module = Counting()
    module.count.add(3)
    module.count.add(4)
    assert int(module.count) == 7
    assert module.state_dict() == {"steps": torch.tensor(7)}


def test_a_loaded_count_is_known_and_counts_on() -> None:
    first, second = Counting(), Counting()
    first.count.add(5)
    second.count.add(1)
    second.load_state_dict(first.state_dict())
    second.count.add(2)
    assert int(second.count) == int(second.get_buffer("steps")) == 7


def test_a_loaded_count_is_known_inside_of_another_module() -> None:
    outer, source = nn.Sequential(Counting()), nn.Sequential(Counting())
    source[0].count.add(5)
    outer.load_state_dict(source.state_dict())
    assert int(outer[0].count) == 5


def test_a_copy_counts_by_itself() -> None:
    module = Counting()
    module.count.add(2)
    twin = copy.deepcopy(module)
    twin.count.add(1)
    twin.load_state_dict(module.state_dict())
    twin.count.add(1)
    assert (int(module.count), int(twin.count)) == (2, 3)
    assert (int(module.get_buffer("steps")), int(twin.get_buffer("steps"))) == (2, 3)
