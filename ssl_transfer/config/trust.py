"""Which code a configuration read from disk may call without the user's permission.

Configurations that a user types are trusted. A record, a frozen configuration or an
``encoder.yaml`` is data and may come from anybody. A target in such a file is called only if it
makes an encoder, a method, a data set or a protocol of this project, torchvision or timm. It is not
sufficient that a name begins with one of these packages: they re-export others (``os``,
``torch.hub``) and have functions that write, download or unpickle.
"""

import functools
import inspect
import re
import typing
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from ssl_transfer.config import locate, resolve

FLAG = "--trust-targets"
"""Option of commands with which a user allows all targets that a file names."""

_PLACES = re.compile(
    r"(ssl_transfer\.(models|methods|datasets|protocols)|torchvision\.models|timm(\.models)?)"
    r"(\.[^\W\d]\w*)+"
)
_DEFINED_IN = ("ssl_transfer.", "torchvision.", "timm.")
# Base classes of permitted results, by name: this module is imported before their modules.
_MADE = {("torch.nn.modules.module", "Module"), ("ssl_transfer.datasets.base", "Dataset")}


def targets(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of every ``_target_`` in a plain configuration that is not null."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            key_path = f"{path}.{key}" if path else str(key)
            if key == "_target_" and value is not None:
                yield key_path, value
            else:
                yield from targets(value, key_path)
    elif isinstance(config, list | tuple):
        for place, value in enumerate(config):
            yield from targets(value, f"{path}[{place}]")


@functools.cache
def is_known(target: str) -> bool:
    """Return whether a ``_target_`` may be called without the user's permission.

    Only modules of the packages named above are imported for the check. A target that cannot be
    located is not known.
    """
    if not _PLACES.fullmatch(target):
        return False
    try:
        made = locate(target)
    except ValueError:
        return False
    if not (inspect.isclass(made) or inspect.isfunction(made)):
        return False
    if not str(made.__module__).startswith(_DEFINED_IN):
        return False
    if inspect.isclass(made):
        return _is_made(made) or made.__module__.startswith("ssl_transfer.protocols.")
    return _is_made(_returned(made)) or _is_timm_model(made)


def _is_made(kind: Any) -> bool:
    return inspect.isclass(kind) and any(
        (base.__module__, base.__name__) in _MADE for base in kind.__mro__
    )


def _returned(function: Any) -> Any:
    try:
        return typing.get_type_hints(function).get("return")
    except (
        NameError,
        TypeError,
        AttributeError,
    ):  # only a type checker can resolve them
        return None


def _is_timm_model(function: Any) -> bool:
    """Return whether a function is one of timm's models; some lack a return annotation."""
    if not function.__module__.startswith("timm.models."):
        return False
    import timm

    return function.__name__ in timm.list_models(module=function.__module__.rpartition(".")[2])


def foreign_targets(config: Mapping[str, Any], source: str) -> list[str]:
    """Return one sentence for each ``_target_`` that needs the user's permission.

    Args:
        config: a whole configuration, plain, as it was read. It is also checked with its
            interpolations resolved, because an interpolation may refer to a mapping with a target.
        source: the file, for the messages.

    Raises:
        ValueError: in one sentence, if an interpolation cannot be resolved.
    """
    wrong = _foreign(config)
    if not wrong:
        try:
            wrong = _foreign(resolve(config))
        except OmegaConfBaseException as error:
            raise ValueError(
                f"every interpolation must resolve, but in `{source}` {str(error).splitlines()[0]}."
            ) from error
    return [
        "a `_target_` that is read from a file must make an encoder, method, data set or protocol "
        f"of this project, torchvision or timm, but `{path}` in `{source}` is {target}; add {FLAG} "
        "if you trust the author of that file."
        for target, path in wrong.items()
    ]


def _foreign(config: Any) -> dict[str, str]:
    """Return the targets that are not known, each with the first path that contains it."""
    wrong: dict[str, str] = {}
    for path, target in targets(config):
        if not (isinstance(target, str) and is_known(target)):
            wrong.setdefault(repr(target)[:80], path)
    return wrong


def without_downloads(node: Any) -> Any:
    """Return a plain configuration with all downloads disabled; its ids stay the same."""
    if isinstance(node, Mapping):
        return {
            key: False if key == "download" else without_downloads(value)
            for key, value in node.items()
        }
    return [without_downloads(item) for item in node] if isinstance(node, list) else node


def strangers(node: Any, allowed: Collection[Path], path: str = "") -> Iterator[tuple[str, Path]]:
    """Yield (key, path) of every download target outside of the allowed folders.

    Args:
        node: a node of a resolved configuration.
        allowed: the folders, resolved.
        path: dotted path of the node.
    """
    if isinstance(node, list | tuple):
        for place, value in enumerate(node):
            yield from strangers(value, allowed, f"{path}[{place}]")
    if not isinstance(node, Mapping):
        return
    for key, value in node.items():
        key_path = f"{path}.{key}" if path else str(key)
        if key in ("path", "root") and node.get("download") and isinstance(value, str):
            if not is_inside(Path(value), allowed):
                yield key_path, Path(value)
        else:
            yield from strangers(value, allowed, key_path)


def is_inside(path: Path, folders: Collection[Path]) -> bool:
    """Return whether a path, links followed, lies in one of the resolved folders."""
    return any(path.expanduser().resolve().is_relative_to(folder) for folder in folders)
