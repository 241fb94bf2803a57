"""The grid of a tuning protocol: lists of values for the optimizer's keys and ``encoder_lr``."""

from collections.abc import Mapping, Sequence
from typing import Any

from ssl_transfer.config.ranges import PositiveRate, fault, hints
from ssl_transfer.training.optim import OPTIMIZERS


def check_grid(grid: Mapping[str, Sequence[float] | None], fixed: Mapping[str, Any]) -> None:
    """Refuse a grid that cannot be searched, or that would win over a fixed value without a word.

    Args:
        grid: key -> values to choose from (``None``: the fixed value is used).
        fixed: keys of the optimizer, and ``encoder_lr``.

    Raises:
        ValueError: in one sentence.
    """
    function = OPTIMIZERS.get(fixed.get("name", ""))
    known = {} if function is None else hints(function)
    # A learning rate of 0 has its uses, but trains nothing worth selecting.
    known |= {"lr": PositiveRate, "encoder_lr": PositiveRate}
    for key, values in grid.items():
        if values is None:
            continue
        if len(set(values)) < max(1, len(values)):
            raise ValueError(
                f"`grid.{key}` must list one value or more, each once, or be null, but is {values}."
            )
        wrong = fault(values, list[known.get(key, float)])  # type: ignore[misc]
        if wrong is not None:
            raise ValueError(wrong.sentence(f"grid.{key}"))
        if (value := fixed.get(key)) is not None:
            place = key if key == "encoder_lr" else f"optimizer.{key}"
            raise ValueError(
                f"`protocol.{place}` must be null where `protocol.grid.{key}` is set, which is "
                f"{values}, but is {value}; set `protocol.grid.{key}=[{value}]` to use this "
                f"value, or `protocol.{place}=null`."
            )
