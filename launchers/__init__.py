"""Hydra launchers: how the runs of a sweep come to be executed.

``in_process`` runs them one after another in this process. ``composition`` turns command lines
into runs, ``sweep`` holds what every launcher shares: refusing a wrong sweep as a whole, deciding
what is left to do, and remembering how it went.
"""

NULL = r"choice(no\ value)"
"""A choice of one that stands for null, which Hydra's ``choice`` does not take; a text with a blank
would be in quotes."""


def register() -> None:
    """Make the plugins known to Hydra from a clone, without installation."""
    from hydra.core.plugins import Plugins

    # First: finding Hydra's own plugins loads their modules anew, and with them the base classes.
    plugins = Plugins.instance()
    from launchers.in_process import InProcessLauncher
    from launchers.local import LocalLauncher
    from launchers.slurm import SlurmLauncher
    from launchers.sweeper import GridSweeper

    for plugin in (InProcessLauncher, LocalLauncher, SlurmLauncher, GridSweeper):
        plugins.register(plugin)
        # Hydra instantiates only what is called hydra_plugins.…; a package of that name would have
        # to be installed to be found.
        plugins.class_name_to_class[f"hydra_plugins.ssl_transfer.{plugin.__name__}"] = plugin


def flags_first(arguments: list[str]) -> list[str]:
    """Return the arguments with ``-m`` in front: argparse takes no overrides on both sides."""
    return sorted(arguments, key=lambda argument: argument not in ("-m", "--multirun"))


def defer_axis_keys(arguments: list[str]) -> list[str]:
    """Return a multirun's arguments with the axes' keys left to the composition of each run.

    Before it sweeps, Hydra applies every constant override to the default options, where
    ``method=simclr,byol method.epochs=5`` fails because the default method has no epochs. A choice
    of one is applied with the options that it belongs to.
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
            return argument  # Hydra itself says what is wrong with it
        # `dataset@method.pretrain_on=…` belongs to the method as `method.epochs=…` does.
        axis, dot, _ = (override.package or override.key_or_group).partition(".")
        if axis not in AXES or not dot or override.is_sweep_override() or override.is_delete():
            return argument
        value = override.value()
        if value is None:
            written = NULL
        elif isinstance(value, str):
            written = f"choice({quoted(value)})"
        else:
            written = f"choice({override.get_value_element_as_str()})"
        return f"{override.get_key_element()}={written}"

    return [a if a.startswith("-") else deferred(a) for a in arguments]


def restore_nulls(arguments: list[str]) -> list[str]:
    """Return arguments of ``defer_axis_keys`` as the user meant them."""
    return [
        argument.removesuffix(NULL) + "null" if argument.endswith(f"={NULL}") else argument
        for argument in arguments
    ]
