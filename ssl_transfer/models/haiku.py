"""Reading arrays from a pickle of JAX, Haiku and optax without executing any of its code.

BYOL's weights were published as ``dill.dump(dict(experiment_state=…, step=…, rng=…), protocol=2)``
(``byol/utils/checkpointing.py`` of google-deepmind/deepmind-research). Such a file names classes of
Haiku, optax and BYOL that hold the arrays. Nothing of these is imported here: each name stands for
an inert container that keeps what it is given, and NumPy's arrays alone are what they were. A name
of any other package refuses the file.
"""

import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Packages whose objects stand in such checkpoints around the arrays.
_CONTAINERS = frozenset(
    {"haiku", "optax", "jax", "jaxlib", "byol", "acme", "chex", "dill", "collections", "typing"}
)
_RECONSTRUCT: Any = np.zeros(1).__reduce__()[0]
_SCALAR: Any = np.float64(0.0).__reduce__()[0]


class Refused(ValueError):
    """The pickle names something that is neither an array nor a known container."""


class _Inert:
    """Stands for an object of a class that is not imported; keeps what it was made of."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __call__(self, *arguments: Any) -> "_Inert":
        return _Inert(*arguments)

    def parts(self) -> Iterator[tuple[str, Any]]:
        """Yield what it holds: the items of mappings, and fields by name where it has names."""
        for held in (*self.arguments, self.state):
            if isinstance(held, Mapping):
                yield from ((str(key), value) for key, value in held.items())


class _Record(_Inert):
    """Stands for a named tuple, which pickles construct without calling ``__init__``."""

    fields: tuple[str, ...] = ()

    def __new__(cls, *arguments: Any) -> "_Record":
        made = super().__new__(cls)
        made.arguments, made.state = arguments, None
        return made

    def parts(self) -> Iterator[tuple[str, Any]]:
        names = self.fields or tuple(map(str, range(len(self.arguments))))
        yield from zip(names, self.arguments, strict=False)


def _named_tuple(name: str, fields: Any, *_: Any) -> type[_Record]:
    """Stand for ``dill``'s function of the same purpose."""
    return type(str(name), (_Record,), {"fields": tuple(map(str, fields))})


def _encode(text: str, encoding: str) -> bytes:
    """Turn text into bytes, which is how the second pickle protocol writes bytes."""
    return text.encode("latin1" if encoding == "latin1" else "ascii")


def _array(make: Any, arguments: Any, state: Any, *_: Any) -> Any:
    """Stand for JAX's functions that make an array of their own from a NumPy array's pickle."""
    if make is not _RECONSTRUCT:
        return _Inert(arguments, state)
    array = _RECONSTRUCT(*arguments)
    array.__setstate__(state)
    return array


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _RECONSTRUCT for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _SCALAR for core in ("core", "_core")},
    **{(module, "_create_namedtuple"): _named_tuple for module in ("dill._dill", "dill.dill")},
    **{("builtins", kind.__name__): kind for kind in (bytes, dict, list, tuple, set, complex)},
    # The name of `builtins` in the second protocol.
    **{("__builtin__", kind.__name__): kind for kind in (bytes, dict, list, tuple, set, complex)},
}
# `_ByolExperimentState` of byol/byol_experiment.py, for pickles that hold its name alone.
_BYOL_FIELDS = ("online_params", "target_params", "online_state", "target_state", "opt_state")
_ARRAYS_OF_JAX = frozenset({"_reconstruct_array", "reconstruct_device_array"})


class _Unpickler(pickle.Unpickler):
    """Finds every name in this module's tables, none by importing."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if (known := _KNOWN.get((module, name))) is not None:
            found: Callable[..., Any] = known
            return found
        root = module.partition(".")[0]
        if root not in _CONTAINERS:
            raise Refused(f"{module}.{name}")
        if root in ("jax", "jaxlib") and name in _ARRAYS_OF_JAX:
            return _array
        if name == "_ByolExperimentState":
            return _named_tuple(name, _BYOL_FIELDS)
        # Other classes of named tuples may be pickled by name, too.
        return type(name, (_Record if root in ("byol", "optax") else _Inert,), {})


def read_arrays(path: Path) -> dict[str, Any]:
    """Return the arrays of a pickle as nested dictionaries of tensors.

    Args:
        path: an existing file.

    Raises:
        Refused: if it names anything but arrays and known containers; nothing was executed.
        ValueError: if it is no whole pickle.
    """
    try:
        with path.open("rb") as file:
            content = _Unpickler(file).load()
    except Refused:
        raise
    except Exception as error:  # damaged pickles fail in many ways
        raise ValueError(f"`{path}` is no whole pickle ({type(error).__name__})") from error
    return dict(_plain(content))


def _plain(content: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(content, Mapping):
        parts: Iterator[tuple[str, Any]] = ((str(k), v) for k, v in content.items())
    elif isinstance(content, _Inert):
        parts = content.parts()
    else:
        return
    for name, value in parts:
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and value.size:
            yield name, _tensor(value)
        elif nested := dict(_plain(value)):
            yield name, nested


def _tensor(array: np.ndarray) -> Tensor:
    # torch takes native byte order and positive strides only.
    native = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    return torch.from_numpy(native.reshape(array.shape).copy())
