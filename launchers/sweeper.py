"""Products of the axes: like Hydra's basic sweeper, but composes every run only once."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep
from hydra.core.utils import JobReturn
from hydra.errors import HydraException

from launchers import restore_nulls
from launchers.sweep import SweepRefused
from ssl_transfer.config.arguments import quoted
from ssl_transfer.config.roles import gathered

MOST_RUNS = 10**6
"""Number of runs above which a sweep is surely a mistake."""


class GridSweeper(BasicSweeper):
    """Passes all combinations to the launcher at once.

    Hydra's basic sweeper composes each run as a test and writes a ``multirun.yaml``. Here the
    launcher composes each run once and reports all problems together, and ``sweep.json`` contains
    the command.

    Args:
        max_batch_size: unused, because all runs are launched at once.
        params: key -> values, as on the command line.
        grids: further keys with their values; each gives a product of its own with ``params`` and
            the command line, for experiments whose runs are no single product.
    """

    def __init__(
        self,
        max_batch_size: int | None = None,
        params: Mapping[str, Any] | None = None,
        grids: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(max_batch_size, dict(params or {}))
        self.grids = [{}] if grids is None else [dict(grid) for grid in grids]

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """Launch the products of the arguments (and of ``hydra.sweeper``'s params and grids).

        Raises:
            SweepRefused: for several experiments, because Hydra would not read their grids.
        """
        assert self.hydra_context is not None
        assert self.launcher is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        typed = restore_nulls(arguments)
        lines: list[list[str]] = []
        for grid in self.grids:
            # A later override of the same key wins, so the command line narrows an experiment.
            written = [*_overrides(self.params or {}), *_overrides(grid), *typed]
            lines += command_lines(parser.parse_overrides(written))
        distinct = {tuple(line): line for line in lines}
        return [self.launcher.launch(list(distinct.values()), initial_job_idx=0)]


def _overrides(grid: Mapping[str, Any]) -> list[str]:
    return [f"{key}={values}" for key, values in grid.items()]


def command_lines(overrides: Sequence[Override]) -> list[list[str]]:
    """Return the command line of every run of a sweep, one or more.

    Raises:
        SweepRefused: with exit code 2, for several experiments, no runs, or too many.
        HydraException: see ``combinations``.
    """
    _refuse_several_experiments(overrides)
    _refuse_ranges(overrides)
    lines = combinations(overrides)
    if not lines:
        sweeps = ", ".join(f"`{o.input_line}`" for o in overrides if o.is_sweep_override())
        raise SweepRefused([f"every key must take one value or more, but one of {sweeps} none."])
    return lines


def combinations(overrides: Sequence[Override]) -> list[list[str]]:
    """Return the command line of every combination of values.

    Hydra's own sweepers drop the quotes around a text: ``"2024"`` becomes a number, and a text with
    a special character cannot be parsed again.

    Args:
        overrides: the overrides of the whole sweep; the last one of a key wins.

    Raises:
        HydraException: for an ``interval``, which has no single values.
    """
    choices: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            values = override.sweep_iterator()
            choices[key] = [f"{key}={_written(v)}" for v in values]
        else:
            raise HydraException(
                f"`{override.input_line}` has no single values; write them as {key}=A,B,…"
            )
    return [gathered(line) for line in itertools.product(*choices.values())]


def _written(element: Any) -> str:
    """Return one value of a sweep in Hydra's grammar."""
    if isinstance(element, str):  # Hydra's `choice(…)` has removed the quotes
        return quoted(element)
    return Override._get_value_element_as_str(element)


def _refuse_ranges(overrides: Sequence[Override]) -> None:
    """Refuse a range without a value or with too many values.

    Raises:
        SweepRefused: with exit code 2.
    """
    for override in overrides:
        chosen = override.value()
        if not isinstance(chosen, RangeSweep):
            continue
        line = override.input_line or override.key_or_group
        span = (chosen.stop or 0) - (chosen.start or 0)
        values = span / chosen.step if chosen.step else math.inf
        if not 0 < values <= MOST_RUNS:
            number = "none" if values <= 0 else "too many"
            raise SweepRefused(
                [
                    f"`{override.key_or_group}` must take between 1 and {MOST_RUNS} values, but "
                    f"`{line}` gives {number}; range(a,b) counts up from a and stops before b."
                ]
            )


def _refuse_several_experiments(overrides: Sequence[Override]) -> None:
    for override in overrides:
        if override.key_or_group == "experiment" and override.is_sweep_override():
            raise SweepRefused(
                [
                    "`experiment` must be one experiment, since each has a grid of its own, but is "
                    f"`{(override.input_line or '').partition('=')[2]}`; send one command for each."
                ]
            )
