"""A number that is estimated from few values, with its interval."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A coefficient, a mean, or a difference of two, with its 95 % interval.

    Without an interval, ``low`` and ``high`` are NaN and ``note`` gives the reason; without a value
    ``value`` is NaN, too.

    Args:
        value: the estimate, e.g. a coefficient in ``[-1, 1]`` or a regret in points.
        low, high: the ends of the interval.
        n: the number of encoders or data sets from which it is estimated.
        note: what is missing, and why.
    """

    value: float
    low: float
    high: float
    n: int
    note: str = ""

    @classmethod
    def none(cls, n: int, note: str) -> "Estimate":
        """Return an estimate without a value."""
        return cls(math.nan, math.nan, math.nan, n, note)

    @classmethod
    def exact(cls, value: float) -> "Estimate":
        """Return a single value, which has no interval."""
        return cls(value, math.nan, math.nan, 1, "a single value")

    def __bool__(self) -> bool:
        return not math.isnan(self.value)
