"""Paths as a user writes them: expands ``~`` and reports empty or wrong paths."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_AT_HOME = re.compile(r"~[\w.-]*(/|$)")

# A value, or an item of a list, that begins with `~`; Hydra accepts it only in quotes.
_BARE = re.compile(r"(?<=[=,:\[{(])(~[^,\[\]{}()'\"]*)(?=[,\]})]|$)")


def at_home(text: str) -> str:
    """Return a path with ``~`` replaced by the home folder; other text is returned unchanged."""
    if not _AT_HOME.match(text):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError:  # no such user, or no home folder; `problems` reports it
        return text


def quoted(argument: str) -> str:
    """Return a command-line argument with quotes around paths that begin with ``~``."""
    if '"' in argument or "'" in argument:
        return argument
    return _BARE.sub(lambda match: f'"{match[1]}"', argument)


def problems(config: Mapping[str, Any]) -> list[str]:
    """Return one sentence for every invalid path in a resolved configuration."""
    return [sentence for path, value in _paths(config) if (sentence := _problem(path, value))]


def _problem(path: str, value: str) -> str | None:
    if not value.strip():
        remedy = "leave it out for the default" if path.startswith("paths.") else "set it, or null"
        return f"`{path}` must be the path of a file or folder, but is empty; {remedy}."
    if _AT_HOME.match(value):
        return (
            f"`{path}` must begin with `~` only if that is a user's home folder, but is "
            f"{value!r}; write the whole path."
        )
    return None


def _paths(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the dotted keys of paths, and their values."""
    yield from _texts("paths", config.get("paths"))
    yield from _of_data("dataset", config.get("dataset"))
    protocol = config.get("protocol")
    if isinstance(protocol, Mapping):
        yield from _of_data("protocol.statistics", protocol.get("statistics"))
    yield from _of_weights("model", config.get("model"))
    yield from _of_method("method", config.get("method"))


def _of_method(path: str, node: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(node, Mapping):
        return
    yield from _of_data(f"{path}.pretrain_on", node.get("pretrain_on"))
    for key, value in node.items():
        references = {f"{path}.{key}": value}
        if isinstance(value, list):
            references = {f"{path}.{key}[{number}]": item for number, item in enumerate(value)}
        for place, reference in references.items():
            if isinstance(reference, Mapping) and "model" in reference:
                yield from _of_weights(f"{place}.model", reference["model"])
                yield from _of_method(f"{place}.method", reference.get("method"))


def _of_weights(path: str, node: Any) -> Iterator[tuple[str, str]]:
    weights = node.get("weights") if isinstance(node, Mapping) else None
    if isinstance(weights, Mapping) and isinstance(weights.get("path"), str):
        yield f"{path}.weights.path", weights["path"]


def _of_data(path: str, node: Any) -> Iterator[tuple[str, str]]:
    """Yield all texts of one of this project's data sets but its name: none may be empty."""
    if isinstance(node, Mapping) and str(node.get("_target_")).startswith("ssl_transfer."):
        yield from _texts(path, {key: value for key, value in node.items() if key != "name"})


def _texts(path: str, node: Any) -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping):
        yield from ((f"{path}.{k}", value) for k, value in node.items() if isinstance(value, str))
