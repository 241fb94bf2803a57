"""Translates Hydra's errors about a command line into one sentence each."""

import difflib
import re
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssl_transfer.config.arguments import argument as typed
from ssl_transfer.config.composition import options
from ssl_transfer.errors import FORMER_KEYS

_UNREADABLE = ("no viable alternative", "mismatched input", "extraneous input", "missing ",
               "token recognition error", "LexerNoViableAltException")  # fmt: skip
"""Beginnings of the messages of Hydra's parser."""


_KEY = re.compile(r"(\+\+?|~)?[\w.@/$-]+")

_MISPLACED = re.compile(r"Could not override '(\w+@(\w+)[\w.]*)'")
"""Hydra's message for a group that should fill a key that does not exist."""


_REPEATED = re.compile(
    r"Multiple values for ([\w/]+)\. To override a value use 'override [^:]*: (.*)'"
)
"""Hydra's message for an added choice of a group that the defaults list already chooses."""


def sentence(error: HydraException) -> str:
    """Return what is wrong and how to correct it, without Hydra's internals."""
    lines = str(error).splitlines() or [type(error).__name__]
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        return _unknown_option(error.missing_cfg_file, error.options)
    if isinstance(error, OverrideParseException):
        for line in lines:
            if line.startswith(_UNREADABLE) or "Unknown function" in line:
                return _unreadable(error.override, line.rstrip("."))
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        parent, _, key = str(cause.full_key).rpartition(".")
        if lines[0].startswith("Could not override"):
            siblings = _siblings(cause.parent_node)
            option = f"={siblings['name']}" if "${" not in siblings.get("name", "${") else ""
            where = f"`{parent}{option}`" if parent else "the configuration"
            known = [name for name in siblings if name not in ("_target_", "hydra")]
            hint = did_you_mean(key, known) or f"; known keys: {', '.join(known)}."
            if not known:  # an open mapping, or null
                hint = f" as it stands; `+{cause.full_key}=…` adds it."
            return f"`{cause.full_key}` is not a key of {where}{hint}"
        reason = str(cause.msg).partition("\n")[0]
        if reason == "list index out of range":
            reason = "the list has no such place, counted from 0"
        return f"`{cause.full_key}` cannot be set: {reason[:1].lower()}{reason[1:]}."
    if repeated := _REPEATED.match(lines[0]):
        group, option = repeated.groups()
        return f"`{group}` has a choice already; write `{group}={option}`, without `+`."
    if misplaced := _MISPLACED.match(lines[0]):
        place, owner = misplaced.groups()
        return (
            f"`{place}` has no place in the option chosen of `{owner}`, or in one of them; leave "
            "it out, or send what has no such key in a command of its own."
        )
    if lines[0].startswith(("Ambiguous value for argument", "Sweep parameters")):
        argument = lines[0].partition("'")[2].removesuffix(" requires --multirun")[:-1]
        key, _, text = argument.partition("=")
        prefix = f"`{argument}` names several values; add -m to run every combination, or write "
        if "." not in key:
            return f"{prefix}key=[a,b] for a list."
        as_list = f"{shlex.quote(f'{key}=[{text}]')} for a list, or "
        return f"{prefix}{as_list * lines[0].startswith('Amb')}{typed(key, text)} for one text."
    if lines[0].startswith("Error resolving interpolation '../${recipe}/"):
        return (
            "each of model, method, dataset, protocol and recipe must name one option, as in "
            "`protocol=knn`, but one of them is removed or has another kind of value."
        )
    messages = [line.rstrip(".") for line in lines if line and not line.startswith("See https:")]
    text = "; ".join(messages)
    return text if text.endswith("?") else f"{text}."


def _unknown_option(path: str, beside: Collection[str]) -> str:
    """Return the message for an option that does not exist.

    Args:
        path: its group and name, e.g. ``experiment/demo`` or ``hydra/launcher/local``.
        beside: options in the same folder that Hydra finds, also on the user's search path.
    """
    depth = 2 if path.startswith("hydra/") else 1
    parts = path.split("/")
    group, option = "/".join(parts[:depth]), "/".join(parts[depth:])
    if renamed := renamed_option(group, option):
        return f"`{group}={option}` has another name now; use `{group}={renamed}`."
    folder = "".join(f"{name}/" for name in parts[depth:-1])
    no_folder = not set(options(group)).isdisjoint(beside)  # Hydra lists the whole group instead
    if no_folder and (folder or Path(option).expanduser().exists()):
        folder = ""
        if advice := _of_a_file(group, option):
            return f"`{group}` must name an option, but `{option}` is a path; {advice}."
    others = {f"{folder}{name}" for name in beside if not name.startswith("_")}
    known = sorted({*options(group), *others})
    hint = did_you_mean(option, known) or "."
    return f"`{group}` must be one of {', '.join(known)}, but is `{option}`{hint}"


def _of_a_file(group: str, option: str) -> str:
    """Return how a file or folder is named that stands for an option; "" if none does."""
    if group == "model":
        return (
            "name the network and its weights, as in model=resnet50 "
            f"{typed('model.weights.path', option)} (`python -m ssl_transfer.models.inspect FILE` "
            "tells what a file is)"
        )
    if group != "dataset":
        return ""
    if option.endswith((".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".pq")):
        return f"a table of images is dataset=image_table {typed('dataset.path', option)}"
    return f"images in class folders are dataset=image_folder {typed('dataset.root', option)}"


_FORMER_PAPERS = {
    "mixed_bt_": "mixed_barlow_twins_",
    "labels_": "swav_labels_",
    "imagenet_labels": "swav_labels",
}
"""Former prefixes of experiments and recipes -> prefixes with the names of their papers."""


def renamed_option(group: str, former: str) -> str | None:
    """Return the present name of an experiment or recipe; None if ``former`` was never used.

    Most names only changed the `_` after the paper's name to `/`: ``ssl_sota_knn`` is
    ``ssl_sota/knn``.
    """
    if group == "recipe" and former == "transfer_2021":
        return "transfer_2021/shared"
    for prefix, paper in _FORMER_PAPERS.items():
        if former.startswith(prefix):
            former = paper + former.removeprefix(prefix)
    names = options(group) if group in ("experiment", "recipe") else []
    return next((name for name in names if name.replace("/", "_") == former), None)


def _unreadable(argument: str, reason: str) -> str:
    """Return what is wrong with an argument that Hydra's parser rejects."""
    prefix = f"every argument must read as key=value, but `{argument}` does not ({reason}); "
    key, equals, text = argument.partition("=")
    if _KEY.fullmatch(argument):
        return f"every argument must read as key=value, such as protocol=knn, but is `{argument}`."
    if not equals or not _KEY.fullmatch(key):
        return f"{prefix}put quotes around text with special characters, such as 'key=\"a b\"'."
    if text.startswith(("[", "{")):
        return (
            f"{prefix}put quotes around text with special characters, such as "
            f'overrides:["method.epochs=5"], or type {typed(key, text)} if all of it is one text.'
        )
    return f"{prefix}a text with special characters is typed in quotes: {typed(key, text)}."


def _siblings(node: Any) -> dict[str, str]:
    """Return the keys of a node with their values as text, interpolations unresolved."""
    values = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_dict(node) else {}
    assert isinstance(values, dict)
    return {str(key): str(value) for key, value in values.items()}


def did_you_mean(name: str, known: Collection[str]) -> str:
    """Return the end of a sentence with the new or the most similar name; "" if there is none."""
    if FORMER_KEYS.get(name) in known:
        return f"; it is called `{FORMER_KEYS[name]}` now."
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean `{near[0]}`?" if near else ""
