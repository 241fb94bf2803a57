"""The loss of a step on its way to the host."""

from typing import Any

import torch

from ssl_transfer.system import distributed
from ssl_transfer.training.step_outcome import StepOutcome


def test_loss_and_parts_are_read_as_numbers() -> None:
    parts = {"loss": torch.tensor(0.5, requires_grad=True), "top1": torch.tensor(0.25)}
    assert StepOutcome(parts, stopping=False).read() == ({"loss": 0.5, "top1": 0.25}, False)
    assert StepOutcome(parts, stopping=True).read()[1]


def test_a_part_may_have_another_type_and_not_be_finite() -> None:
    parts = {"loss": torch.tensor(torch.inf), "count": torch.tensor(3)}
    values, _ = StepOutcome(parts, stopping=False).read()
    assert values == {"loss": float("inf"), "count": 3.0}


def outcome_of_process() -> tuple[dict[str, float], bool]:
    rank = distributed.rank()
    return StepOutcome({"loss": torch.tensor(float(rank))}, stopping=rank == 1).read()


def test_processes_agree_on_the_mean_and_on_stopping(gloo_pool: Any) -> None:
    for values, stopping in gloo_pool.run(outcome_of_process):
        assert values == {"loss": 0.5}
        assert stopping
