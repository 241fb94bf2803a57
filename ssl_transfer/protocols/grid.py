"""Grids of hyper-parameters: their checks before any work."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from ssl_transfer.config.ranges import NotNegative, PositiveRate, Range, fault, hints
from ssl_transfer.training.optim import OPTIMIZERS

Logarithm = Annotated[float, Range(-300, 300)]
"""Decimal logarithm of a penalty; outside of this range the penalty or its inverse overflows."""


NO_OPTIMIZER_KEYS = frozenset({"encoder_lr", "penalty_weight"})
"""Keys of a grid that are keys of the protocol, not of its optimizer."""


def check_logarithms(key: str, ends: Sequence[float], what: str) -> None:
    """Refuse ends of a logarithmic grid that are not two numbers in ascending order.

    Args:
        key: name of the key.
        ends: decimal logarithms of the smallest and the largest value.
        what: the value in words.

    Raises:
        ValueError: if they are not.
    """
    if len(ends) != 2 or ends[0] > ends[1]:
        raise ValueError(
            f"`{key}` must be two numbers in ascending order, the decimal logarithms of the "
            f"smallest and the largest {what}, within [-300, 300], but is {list(ends)}."
        )


def check_grid(grid: Mapping[str, Sequence[float] | None], fixed: Mapping[str, Any]) -> None:
    """Refuse an invalid grid of a tuning protocol, or one that would override a fixed value.

    Args:
        grid: key -> values to choose from (``None``: the fixed value is used).
        fixed: keys of the optimizer, ``encoder_lr`` and ``penalty_weight``.

    Raises:
        ValueError: if the grid is invalid or overrides a fixed value.
    """
    function = OPTIMIZERS.get(fixed.get("name", ""))
    known = {} if function is None else hints(function)
    # A fixed learning rate of 0 is allowed, but a grid must not contain it: nothing is trained.
    known |= {"lr": PositiveRate, "encoder_lr": PositiveRate, "penalty_weight": NotNegative}
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
            place = key if key in NO_OPTIMIZER_KEYS else f"optimizer.{key}"
            raise ValueError(
                f"`protocol.{place}` must be null where `protocol.grid.{key}` is set, which is "
                f"{values}, but is {value}; set `protocol.grid.{key}=[{value}]` to use this "
                f"value, or `protocol.{place}=null`."
            )
