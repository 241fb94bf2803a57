"""Composes the cells of a sweep, without the overrides whose key a cell's options lack.

``method=as_is,simclr method.epochs=5`` sets the epochs of ``simclr``; ``as_is`` has no such key. A
key that the options of no cell have is refused, as in a command for one run, unless it is a key of
an experiment of which the command line selects a part.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from hydra.errors import HydraException

from launchers.composition import Composition
from launchers.sweep import SweepRefused
from ssl_transfer.config.composer import Composer
from ssl_transfer.config.hydra_errors import sentence

Compose = Callable[[Sequence[str]], Composition]


def compose_cells(
    cells: Sequence[Sequence[str]],
    compose: Compose,
    composer: Composer,
    optional: Collection[str] = (),
) -> tuple[list[Composition], list[str]]:
    """Return the composition of each cell, and one sentence per key that was left out somewhere.

    Args:
        cells: the overrides of each cell.
        compose: composes the overrides of one cell.
        composer: says which keys the options of a cell lack.
        optional: keys that the options of all cells may lack.

    Raises:
        SweepRefused: if a cell does not compose; one sentence per cause.
    """
    composed: dict[int, Composition] = {}
    for place, overrides in enumerate(cells):
        if composer.known_to_lack(overrides):
            continue
        try:
            composed[place] = compose(overrides)
        except HydraException:
            _lacking(composer, overrides)  # so that `known_to_lack` spares the cells alike
    rest = [place for place in range(len(cells)) if place not in composed]
    if not rest:
        return [composed[place] for place in range(len(cells))], []
    known = {*optional, *(composer.key(line) for place in composed for line in cells[place])}
    for place in rest:
        lacking = _lacking(composer, cells[place])
        known |= {composer.key(line) for line in cells[place] if line not in lacking}
    left_out: dict[str, dict[str, None]] = {}
    problems: list[str] = []
    for place in rest:
        lacking = [line for line in _lacking(composer, cells[place]) if composer.key(line) in known]
        try:
            composed[place] = compose([line for line in cells[place] if line not in lacking])
        except HydraException as error:
            problems.append(sentence(error))
            continue
        for key in map(composer.key, lacking):
            left_out.setdefault(key, {})[_option(composed[place], key)] = None
    if problems:
        raise SweepRefused(problems)
    return [composed[place] for place in range(len(cells))], [
        f"`{key}` is not a key of {_listed(list(options))}; it is left out there."
        for key, options in left_out.items()
    ]


def _lacking(composer: Composer, overrides: Sequence[str]) -> list[str]:
    """Return the overrides whose key the options lack; none if the options do not compose."""
    try:
        return composer.lacking(overrides)
    except HydraException:
        return []


def _option(composition: Mapping[str, Any], key: str) -> str:
    """Return the choice of an option that a key belongs to, e.g. ``method=as_is``."""
    axis = key.rpartition("@")[2].partition(".")[0]
    node = composition.get(axis)
    name = node.get("name") if isinstance(node, Mapping) else None
    return f"`{axis}={name}`" if name else f"`{axis}`"


def _listed(options: Sequence[str]) -> str:
    if len(options) == 1:
        return options[0]
    return f"{', '.join(options[:-1])} and {options[-1]}"
