"""Configurations: their schema, their composition by Hydra, and the names inside them.

A configuration is a plain dictionary with the keys of ``schema.RootOptions``. ``compose`` builds
one from overrides, ``plain`` expands its encoder references, ``resolve`` resolves its
interpolations, and ``locate`` imports the function or class that a ``_target_`` names.
"""

from ssl_transfer.config.composition import compose, groups, options
from ssl_transfer.config.references import plain
from ssl_transfer.config.resolution import resolve
from ssl_transfer.config.schema import AXES, CONF, UNTRAINED, RootOptions, TrainerOptions
from ssl_transfer.config.targets import locate

__all__ = [
    "AXES",
    "CONF",
    "UNTRAINED",
    "RootOptions",
    "TrainerOptions",
    "compose",
    "groups",
    "locate",
    "options",
    "plain",
    "resolve",
]
