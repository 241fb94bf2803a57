"""A hash of everything but the weights that defines a network: code, attributes, unsaved buffers.

``repr`` of a network shows the names of its layers. It does not show the code of ``forward``, plain
attributes (``self.scale = 2.0``), or buffers that are not saved with the weights.
"""

import enum
import functools
import hashlib
import importlib.metadata
import inspect
import logging
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PROJECT = "ssl_transfer"
_INTERNAL = frozenset(vars(nn.Module()))
_UNIMPORTANT = frozenset(
    {"__doc__", "__module__", "__dict__", "__weakref__", "__annotations__", "__annotate__",
     "__annotations_cache__", "__firstlineno__", "__static_attributes__", "__parameters__",
     "__orig_bases__"}
)  # fmt: skip
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)


def network(module: nn.Module, *makers: Callable[..., Any] | None) -> str:
    """Return the sha256, in hexadecimal digits, of everything that defines a network but weights.

    The hash covers layers with their names, attributes, hooks and unsaved buffers. For classes and
    functions outside of installed packages, including those of this project, it covers the compiled
    code and the code of everything that they refer to, also for a class defined in a notebook. For
    classes of installed packages, it covers the name and the package's version.

    Args:
        module: the network.
        makers: the callables that built it.
    """
    description = _Description()
    description.value(makers)
    description.value(module)
    for package in sorted(description.packages):
        description.add("version", package, _version(package))
    return description.hash.hexdigest()


def files_of(config: Mapping[str, Any]) -> list[Path]:
    """Return the source files of a user's own classes and functions that a configuration names.

    The list includes the modules that these import, except modules of installed packages and of
    this project, whose revision is in the record.

    Args:
        config: a configuration; every ``_target_`` in it counts, at any depth.
    """
    waiting = [sys.modules.get(name.rpartition(".")[0]) for name in _targets(config)]
    paths: dict[Path, None] = {}
    seen = set()
    while waiting:
        module = waiting.pop()
        if module is None or module.__name__ in seen:
            continue
        seen.add(module.__name__)
        if module.__name__.partition(".")[0] == PROJECT or _is_installed(module.__name__):
            continue
        if path := getattr(module, "__file__", None):
            paths[Path(path).absolute()] = None
        for value in list(vars(module).values()):
            name = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None)
            waiting.append(sys.modules.get(name) if isinstance(name, str) else None)
    return list(paths)


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from _targets(value)


@functools.cache
def _is_installed(module: str) -> bool:
    """Return whether a module belongs to Python or to an installed package.

    The result is False for this project's modules, wherever they are installed: a clone and a wheel
    of the same code must give the same hash, and one version may cover several states of the code.
    """
    if module == "__main__":  # a script or a notebook
        return False
    if module.partition(".")[0] == PROJECT:
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:  # built-in, or defined interactively
        return module in sys.builtin_module_names
    path = Path(file).absolute()
    places = {Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")}
    inside = any(path.is_relative_to(place) for place in places)
    return inside or bool({"site-packages", "dist-packages"} & set(path.parts))


@functools.cache
def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(sys.modules.get(package), "__version__", ""))


class _Description:
    """A hash of the content of Python objects that is the same in every process."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.packages: set[str] = set()
        self.numbers: dict[int, int] = {}  # of visited objects, which may refer to each other
        self.alive: list[Any] = []

    def add(self, *words: Any) -> None:
        """Add plain words to the hash."""
        self.hash.update(repr(words).encode(errors="surrogatepass"))

    def value(self, value: Any) -> None:
        """Add any object to the hash."""
        if isinstance(value, _PLAIN) and not isinstance(value, enum.Enum):
            self.add(type(value).__name__, value)
            return
        if id(value) in self.numbers:
            self.add("met", self.numbers[id(value)])
            return
        self.numbers[id(value)] = len(self.numbers)
        self.alive.append(value)
        match value:
            case enum.Enum():
                self.add("enum", type(value).__qualname__, value.name)
            case Tensor() | np.ndarray():
                self._array(value)
            case nn.Module():
                self._module(value)
            case type():
                self._class(value)
            case types.FunctionType():
                self._function(value)
            case types.MethodType():
                self.value(value.__func__)
                self.value(value.__self__)
            case functools.partial():
                self.value([value.func, value.args, value.keywords])
            case staticmethod() | classmethod():
                self.value(value.__func__)
            case property():
                self.value([value.fget, value.fset])
            case Mapping():
                self._mapping(value)
            case list() | tuple():
                self.add(type(value).__name__, len(value))
                for item in value:
                    self.value(item)
            case set() | frozenset():
                self.add("set", sorted(map(_alone, value)))
            case types.ModuleType() | logging.Logger():
                self.add("name", getattr(value, "__name__", None) or value.name)
            case _:
                self._object(value)

    def _array(self, array: Tensor | np.ndarray) -> None:
        rows = array.detach().cpu().resolve_conj() if isinstance(array, Tensor) else array
        self.add("array", tuple(rows.shape), str(rows.dtype))
        if isinstance(rows, Tensor):
            rows = rows.contiguous().reshape(-1).view(torch.uint8).numpy()
        if rows.dtype == object:
            self.value(rows.tolist())
        else:
            self.hash.update(np.ascontiguousarray(rows).tobytes())

    def _module(self, module: nn.Module) -> None:
        self.value(type(module))
        if isinstance(module, torch.jit.ScriptModule):
            self.add("program", getattr(module, "code", None))
        else:
            own = {k: v for k, v in vars(module).items() if k not in _INTERNAL}
            self.value(own)
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                self.value(list(hooks.values()))
        for name in sorted(module._non_persistent_buffers_set):
            self.add("buffer", name)
            self.value(module._buffers.get(name))
        for name, child in module.named_children():
            self.add("child", name)
            self.value(child)

    def _class(self, kind: type) -> None:
        self.add("class", kind.__module__, kind.__qualname__)
        if _is_installed(kind.__module__):
            self.packages.add(kind.__module__.partition(".")[0])
            return
        for base in kind.__bases__:
            self.value(base)
        own = {k: v for k, v in vars(kind).items() if k not in _UNIMPORTANT}
        self._mapping({k: v for k, v in own.items() if not isinstance(v, _DESCRIPTORS)})

    def _function(self, function: types.FunctionType) -> None:
        bare = inspect.unwrap(function)
        if not isinstance(bare, types.FunctionType):
            self.value(bare)
            return
        self.add("function", bare.__module__, bare.__qualname__)
        if _is_installed(bare.__module__ or ""):
            self.packages.add((bare.__module__ or "").partition(".")[0])
            return
        self.code(bare.__code__)
        self.value([bare.__defaults__, bare.__kwdefaults__])
        for cell in bare.__closure__ or ():
            self.value(_content(cell))
        for name in sorted(_names(bare.__code__)):
            if name in bare.__globals__:
                self.add("global", name)
                self._global(bare.__globals__[name])

    def _global(self, value: Any) -> None:
        """Add an object that a function refers to; of a large object, only its name."""
        if inspect.ismodule(value) and not _is_installed(value.__name__):
            path = getattr(value, "__file__", None)  # the whole file counts
            self.add("module", value.__name__, _source(path) if path else None)
        else:
            self.value(value)

    def code(self, code: types.CodeType) -> None:
        """Add compiled code to the hash, without file names and line numbers."""
        self.add(code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_flags)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self.code(constant)
            else:
                self.value(constant)

    def _mapping(self, mapping: Mapping[Any, Any]) -> None:
        self.add("mapping", len(mapping))
        for key in sorted(mapping, key=repr):
            self.value(key)
            self.value(mapping[key])

    def _object(self, value: Any) -> None:
        kind = type(value)
        self.value(kind)
        if callable(value) and hasattr(value, "__qualname__"):  # a function written in C
            self.add("function", getattr(value, "__module__", None), value.__qualname__)
            return
        if kind.__module__.startswith("torch._dynamo"):
            return
        slots = [s for base in kind.__mro__ for s in _as_tuple(vars(base).get("__slots__", ()))]
        state = {slot: getattr(value, slot) for slot in slots if hasattr(value, slot)}
        state |= getattr(value, "__dict__", {})
        if state:
            self._mapping(state)
        elif " at 0x" not in repr(value):
            self.add(repr(value))


_DESCRIPTORS = (types.GetSetDescriptorType, types.MemberDescriptorType)


def _alone(value: Any) -> str:
    description = _Description()
    description.value(value)
    return description.hash.hexdigest()


def _as_tuple(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return None


def _names(code: types.CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


@functools.cache
def _source(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return ""
