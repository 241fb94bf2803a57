"""Hydra launchers: how the runs of a sweep come to be executed.

``in_process`` runs them one after another in this process. ``composition`` turns command lines
into runs, ``sweep`` holds what every launcher shares: refusing a wrong sweep as a whole, deciding
what is left to do, and remembering how it went.
"""


def register() -> None:
    """Make the plugins known to Hydra from a clone, without installation."""
    from hydra.core.plugins import Plugins

    from launchers.in_process import InProcessLauncher
    from launchers.sweeper import GridSweeper

    for plugin in (InProcessLauncher, GridSweeper):
        Plugins.instance().register(plugin)
