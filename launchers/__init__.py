"""Hydra launchers, which execute the runs of a sweep.

``in_process``, ``local`` and ``slurm`` are the launchers. ``composition`` turns command lines into
runs. ``sweep`` has the steps that all launchers share: check the whole sweep, select the unfinished
runs, execute them and record the outcome.
"""

import copy
import functools
from typing import Any

NULL = r"choice(no\ value)"
"""Placeholder for null, which Hydra's ``choice`` does not accept. It cannot be a user's text,
because a text with a blank would be in quotes."""


def register() -> None:
    """Register the plugins with Hydra, so that a clone works without installation."""
    from hydra.core.plugins import Plugins

    _parse_overrides_once()
    # Before the imports: Hydra's search for its own plugins reloads their modules and base classes.
    plugins = Plugins.instance()
    from launchers.in_process import InProcessLauncher
    from launchers.local import LocalLauncher
    from launchers.slurm import SlurmLauncher
    from launchers.sweeper import GridSweeper

    for plugin in (InProcessLauncher, LocalLauncher, SlurmLauncher, GridSweeper):
        plugins.register(plugin)
        # Hydra instantiates only classes named hydra_plugins.…, and finds a package of that name
        # only if it is installed.
        plugins.class_name_to_class[f"hydra_plugins.ssl_transfer.{plugin.__name__}"] = plugin


@functools.cache
def _parse_overrides_once() -> None:
    """Let Hydra parse an override once, instead of four times; 10,000 seeds take seconds."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parse_rule = OverridesParser.parse_rule

    @functools.lru_cache(maxsize=256)
    def parsed(text: str, rule: str) -> Any:
        return parse_rule(OverridesParser.create(), text, rule)

    def copied(_: OverridesParser, s: str, rule_name: str) -> Any:
        return copy.copy(parsed(s, rule_name))  # Hydra sets attributes of what it has parsed

    OverridesParser.parse_rule = copied  # type: ignore[method-assign, assignment]


def flags_first(arguments: list[str]) -> list[str]:
    """Return the arguments with ``-m`` first: argparse allows no overrides on both sides of it."""
    return sorted(arguments, key=lambda argument: argument not in ("-m", "--multirun"))


def defer_axis_keys(arguments: list[str]) -> list[str]:
    """Return a multirun's arguments with constant overrides of axes' keys as sweeps of one value.

    Before a sweep, Hydra applies every constant override to the default options. There
    ``method=simclr,byol method.epochs=5`` fails, because the default method has no epochs. Hydra
    applies a sweep of one value only together with the options of each run.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from ssl_transfer.config import AXES
    from ssl_transfer.config.arguments import quoted

    if not {"-m", "--multirun"} & set(arguments):
        return arguments
    parser = OverridesParser.create()

    def deferred(argument: str) -> str:
        try:
            override = parser.parse_override(argument)
        except HydraException:
            return argument  # Hydra itself reports the error
        # `dataset@method.pretrain_on=…` belongs to the method as `method.epochs=…` does.
        axis, dot, _ = (override.package or override.key_or_group).partition(".")
        if axis not in AXES or not dot or override.is_sweep_override() or override.is_delete():
            return argument
        value = override.value()
        if value is None:
            choice = NULL
        elif isinstance(value, str):
            choice = f"choice({quoted(value)})"
        else:
            choice = f"choice({override.get_value_element_as_str()})"
        return f"{override.get_key_element()}={choice}"

    return [a if a.startswith("-") else deferred(a) for a in arguments]


def restore_nulls(arguments: list[str]) -> list[str]:
    """Return the arguments of ``defer_axis_keys`` with null instead of the placeholder."""
    return [
        argument.removesuffix(NULL) + "null" if argument.endswith(f"={NULL}") else argument
        for argument in arguments
    ]
