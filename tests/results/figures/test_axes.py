import itertools
import math

import pytest

from results.figures.axes import Scale, fitting_ticks, plain, spanning, spanning_log
from results.figures.text import width
from results.figures.theme import TICK


def test_a_scale_maps_its_ends_and_its_middle() -> None:
    linear = Scale(10.0, 20.0, 100.0, 300.0)
    assert [linear(v) for v in (10.0, 15.0, 20.0)] == [100.0, 200.0, 300.0]
    log = Scale(1.0, 100.0, 100.0, 300.0, log=True)
    assert log(10.0) == pytest.approx(200.0)


@pytest.mark.parametrize(
    ("scale", "ticks"),
    [
        (Scale(0.0, 1.0, 0, 200), [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (Scale(61.3, 79.0, 0, 200), [65, 70, 75]),
        (Scale(0.5, 14.5, 0, 200, whole=True), [5, 10]),
        (Scale(0.5, 3.5, 0, 200, whole=True), [1, 2, 3]),
        (Scale(2e6, 1e8, 0, 200, log=True), [2e6, 5e6, 1e7, 2e7, 5e7, 1e8]),
        (Scale(1e-3, 1e3, 0, 200, log=True), [1e-3, 1e-2, 1e-1, 1, 10, 100, 1000][::2]),
    ],
)
def test_ticks_are_round_and_few(scale: Scale, ticks: list[float]) -> None:
    assert scale.ticks(6) == pytest.approx(ticks)


@pytest.mark.parametrize("low", [-1e5, -3.0, 0.0, 0.71234, 12345.6])
@pytest.mark.parametrize("length", [1e-4, 0.3, 7.0, 4321.0])
def test_numbers_at_an_axis_never_touch(low: float, length: float) -> None:
    scale = Scale(low, low + length, 0.0, 190.0)
    ticks = fitting_ticks(scale, plain, 6, across=True)
    for (a, first), (b, second) in itertools.pairwise(ticks):
        apart = scale(b) - scale(a)
        assert apart > (width(first, TICK) + width(second, TICK)) / 2
        assert low <= a < b <= low + length * (1 + 1e-6)


@pytest.mark.parametrize(
    "values", [[], [0.5], [0.5, 0.5], [1e17, 1e17], [math.nan, 1.0], [1e308, -1e308], [math.inf]]
)
def test_every_set_of_values_has_a_scale(values: list[float]) -> None:
    for scale in (spanning(values, 0, 100), spanning_log(values, 0, 100)):
        assert scale.low < scale.high
        assert math.isfinite(scale.high - scale.low)
        assert all(math.isfinite(tick) for tick in scale.ticks(6))


def test_the_margin_lies_on_both_sides() -> None:
    scale = spanning([10.0, 20.0], 0, 100, 0.1)
    assert (scale.low, scale.high) == (9.0, 21.0)
    log = spanning_log([1.0, 100.0], 0, 100, 0.5)
    assert (log.low, log.high) == (pytest.approx(0.1), pytest.approx(1000.0))
