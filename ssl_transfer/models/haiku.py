"""Read arrays from a pickle of JAX, Haiku and optax without executing any of its code.

BYOL's weights were published as ``dill.dump(dict(experiment_state=…, step=…, rng=…), protocol=2)``
(``byol/utils/checkpointing.py`` of google-deepmind/deepmind-research). Such a file names classes of
Haiku, optax and BYOL that hold the arrays. This module imports none of them: it replaces each of
these classes by an inert container that keeps its arguments, and only restores NumPy's arrays. A
file that names any other package is refused.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_transfer.models.unpickling import DEEPEST, Array, Budget, Inert, TooMuch, read

# Packages whose objects contain the arrays in such checkpoints.
_CONTAINERS = frozenset({"haiku", "optax", "jax", "jaxlib", "byol", "acme", "chex", "dill"})
# `_ByolExperimentState` of byol/byol_experiment.py, for pickles that only hold its name.
_BYOL_FIELDS = ("online_params", "target_params", "online_state", "target_state", "opt_state")
_ARRAYS_OF_JAX = frozenset({"_reconstruct_array", "reconstruct_device_array"})


class _Record(Inert):
    """Substitute for a named tuple."""

    fields: tuple[str, ...] = ()

    def parts(self) -> Iterator[tuple[str, Any]]:
        names = self.fields or tuple(map(str, range(len(self.arguments))))
        yield from zip(names, self.arguments, strict=False)


def _named_tuple(name: str, fields: Any, *_: Any) -> type[_Record]:
    """Replace ``dill``'s function that creates a class of named tuples."""
    return type(str(name), (_Record,), {"fields": tuple(map(str, fields))})


def _array(make: Any, arguments: Any, state: Any, *_: Any) -> Inert:
    """Replace JAX's functions that make a JAX array from a NumPy array's pickle."""
    if make is not Array:
        return Inert(arguments, state)
    array = Array()
    array.__setstate__(state)
    return array


def _find(module: str, name: str) -> Any:
    root = module.partition(".")[0]
    if root not in _CONTAINERS:
        return None
    if root in ("jax", "jaxlib") and name in _ARRAYS_OF_JAX:
        return _array
    if root == "dill":
        return _named_tuple if name == "_create_namedtuple" else Inert
    if name == "_ByolExperimentState":
        return _named_tuple(name, _BYOL_FIELDS)
    # Other classes of named tuples may also be pickled by name.
    return type("Inert", (_Record if root in ("byol", "optax") else Inert,), {})


def read_arrays(path: Path, budget: Budget) -> dict[str, Any]:
    """Return the arrays of a pickle as nested dictionaries of tensors.

    Args:
        path: an existing file.
        budget: budget of the file.

    Raises:
        Refused: if it names anything but arrays and known containers; nothing was executed.
        TooMuch: if it asks for more memory or time than its size warrants.
        UnpicklingError: if it is not a complete pickle.
    """
    return dict(_arrays(read(path.read_bytes(), budget, _find), budget, {}))


def _arrays(content: Any, budget: Budget, tensors: dict[int, Tensor], depth: int = 0) -> Any:
    """Return the content with arrays as tensors; an array at two places becomes one tensor."""
    if isinstance(content, Mapping):
        parts: Iterator[tuple[str, Any]] = ((str(k), v) for k, v in content.items())
    elif isinstance(content, Inert):
        parts = content.parts()
    else:
        return {}
    if depth > DEEPEST:
        raise TooMuch("it nests too deeply, or holds itself")
    made: dict[str, Any] = {}
    for name, value in parts:
        budget.spend(2_000)  # limits repeated references to one dictionary
        array = value.value if isinstance(value, Array) else None
        if array is not None and array.dtype.kind in "fiu" and array.size:
            if id(array) not in tensors:
                budget.spend(array.nbytes)
                tensors[id(array)] = _tensor(array)
            made[name] = tensors[id(array)]
        elif nested := _arrays(value, budget, tensors, depth + 1):
            made[name] = nested
    return made


def _tensor(array: np.ndarray) -> Tensor:
    # torch only accepts native byte order and positive strides.
    native = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    return torch.from_numpy(native.reshape(array.shape).copy())
