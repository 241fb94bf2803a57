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
from launchers.base import ProjectLauncher
from launchers.sweep import SweepRefused
from ssl_transfer.config import AXES
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
            the command line, for experiments whose runs are no single product. An axis on the
            command line selects from the grids.
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
        shared = parser.parse_overrides(_written_keys(self.params or {}))
        grids = [parser.parse_overrides(_written_keys(grid)) for grid in self.grids]
        typed = parser.parse_overrides(restore_nulls(arguments))
        lines = products(shared, grids, typed)
        if isinstance(self.launcher, ProjectLauncher):
            self.launcher.optional_keys = unneeded_keys(grids, typed)
        return [self.launcher.launch(lines, initial_job_idx=0)]


def products(
    shared: Sequence[Override], grids: Sequence[Sequence[Override]], typed: Sequence[Override]
) -> list[list[str]]:
    """Return the distinct command lines of all grids.

    Args:
        shared: the overrides of every grid.
        grids: the overrides of each grid; one empty grid is a sweep without grids.
        typed: the overrides of the command line; of several of one key the last one wins.

    Raises:
        SweepRefused: with exit code 2, if no run is left, or if only some of an axis's values are
            in the grids; see ``command_lines``, too.
    """
    _refuse_mixed(grids, typed)
    lines: dict[tuple[str, ...], list[str]] = {}
    for number, grid in enumerate(grids):
        selected = _selected(grids, number, typed)
        rest = [override for override in typed if override.get_key_element() not in selected]
        for line in command_lines([*shared, *grid, *rest]):
            values = dict(text.split("=", 1) for text in line)
            if all(values[key] in chosen for key, chosen in selected.items()):
                lines[tuple(line)] = line
    if not lines:
        chosen = ", ".join(override.input_line or "" for override in typed)
        raise SweepRefused(
            [
                f"the command line must select runs of the experiment's grids, but `{chosen}` "
                "selects none; leave an axis out."
            ]
        )
    return list(lines.values())


def _selected(
    grids: Sequence[Sequence[Override]], number: int, typed: Sequence[Override]
) -> dict[str, set[str]]:
    """Return the axes of a grid that the command line selects values of, and these values.

    Where the command line names values of an axis (model, method, dataset, protocol) that some grid
    has, each grid of that axis keeps those of its values alone. Values that no grid has replace
    those of all grids instead.
    """
    chosen = {o.get_key_element(): set(_values(o)) for o in typed if o.get_key_element() in AXES}
    return {
        key: values
        for key, values in chosen.items()
        if _of_key(grids[number], key) and any(_of_key(grid, key) & values for grid in grids)
    }


def _refuse_mixed(grids: Sequence[Sequence[Override]], typed: Sequence[Override]) -> None:
    """Refuse values of an axis of which some are in the grids and others are in none.

    The former select runs of the grids, and the latter would replace the values of all grids.
    """
    for own in typed:
        if (key := own.get_key_element()) not in AXES:
            continue
        known = {value for grid in grids for value in _of_key(grid, key)}
        chosen = list(dict.fromkeys(_values(own)))
        others = [value for value in chosen if value not in known]
        if 0 < len(others) < len(chosen):
            inside = [value for value in chosen if value in known]
            raise SweepRefused([
                f"all values of `{key}` must be in the experiment's grids, or none of them, but "
                f"`{'`, `'.join(inside)}` {'is' if len(inside) == 1 else 'are'} and "
                f"`{'`, `'.join(others)}` {'is' if len(others) == 1 else 'are'} not; send "
                f"{key}={','.join(inside)} and {key}={','.join(others)} by two commands."
            ])  # fmt: skip


def unneeded_keys(grids: Sequence[Sequence[Override]], typed: Sequence[Override]) -> frozenset[str]:
    """Return the keys of grids that are only for values which the command line does not select."""
    return frozenset(
        own.get_key_element()
        for number, grid in enumerate(grids)
        if _selected(grids, number, typed)
        for own in grid
    )


def _of_key(grid: Sequence[Override], key: str) -> set[str]:
    """Return the values that a grid gives a key; none if it lacks the key."""
    return {value for own in grid if own.get_key_element() == key for value in _values(own)}


def _written_keys(grid: Mapping[str, Any]) -> list[str]:
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
        choices[key] = [f"{key}={value}" for value in _values(override)]
    return [gathered(line) for line in itertools.product(*choices.values())]


def _values(override: Override) -> list[str]:
    """Return the values of an override in Hydra's grammar."""
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if override.is_discrete_sweep():
        return [_written(value) for value in override.sweep_iterator()]
    raise HydraException(
        f"`{override.input_line}` has no single values; write them as "
        f"{override.get_key_element()}=A,B,…"
    )


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
