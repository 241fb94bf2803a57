"""Unpickle untrusted files: no code is executed, and memory and time are limited.

A pickle is a program. This module replaces each name in it by a function or class of its own:
tensors and arrays become descriptions of the location of their bytes, harmless values become inert
containers, and a file with any other name is refused. The instructions are checked before they run:
a pickle of a few bytes can ask for gigabytes, or nest so deeply that Python fails.
"""

import io
import math
import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

MOST_OPCODES = 3_000_000
DEEPEST = 200
_LONG_BITS, _MOST_LONGS = 64, 10_000  # numbers beyond 64 bits can be chosen to collide in a dict
_SPARE = 256 << 20


class Refused(ValueError):
    """The pickle names something that is neither data nor a harmless value."""


class TooMuch(ValueError):
    """The file asks for more memory or time than its size warrants."""


class Budget:
    """Limit of the memory for reading a file: 256 MB plus eight times its size.

    Args:
        size: size of the file in bytes.
    """

    def __init__(self, size: int) -> None:
        self.left = _SPARE + 8 * size

    def spend(self, count: int) -> None:
        """Subtract bytes from the budget before they are allocated.

        Raises:
            TooMuch: if they exceed the rest of the budget.
        """
        self.left -= count
        if self.left < 0:
            raise TooMuch("it asks for far more memory than its size warrants")


class Inert:
    """Substitute for an object of a class that is not imported; keeps its arguments and state."""

    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *arguments: Any) -> "Inert":
        """Keep the arguments; pickles may skip ``__init__``."""
        made = super().__new__(cls)
        made.arguments = arguments
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Drop an item: the replaced mapping is never read."""

    def append(self, value: Any) -> None:
        """Drop an item of a replaced list."""

    extend = update = add = append

    def __call__(self, *arguments: Any) -> "Inert":
        """Return the substitute for the result of a call."""
        return Inert(*arguments)

    def parts(self) -> Iterator[tuple[str, Any]]:
        """Yield its content: the items of mappings, and fields by name if it has names."""
        for held in (*self.arguments, self.state):
            if isinstance(held, Mapping):
                yield from ((str(key), value) for key, value in held.items())


class _Mapping(OrderedDict[Any, Any]):
    """Substitute for a mapping of any class; keeps only its items."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__()
        for held in arguments:
            if isinstance(held, Mapping):
                self.update(held)

    def __setstate__(self, state: Any) -> None:
        """Drop attributes, such as the ``_metadata`` of a state dict."""

    def __reduce__(self) -> Any:
        raise TypeError("a mapping read from an untrusted pickle cannot be pickled")


class DType:
    """Substitute for ``numpy.dtype``, which only supports numbers of a fixed size."""

    def __init__(self, spec: Any = "", *_: Any) -> None:
        spec = spec.decode("ascii", "replace") if isinstance(spec, bytes) else spec
        known = isinstance(spec, str) and re.fullmatch(r"[<>=|]?(b1|[iu][1248]|f[248])", spec)
        self.kind = np.dtype(spec) if known else None

    def __setstate__(self, state: Any) -> None:
        if self.kind is not None and isinstance(state, tuple) and state[1:2] in ((">",), (b">",)):
            self.kind = self.kind.newbyteorder(">")


class Array(Inert):
    """Substitute for ``numpy.ndarray``; ``value`` is the array if it holds numbers."""

    value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) == 5):
            return
        _, shape, dtype, is_fortran, content = state
        if not (isinstance(dtype, DType) and dtype.kind is not None and isinstance(content, bytes)):
            return
        count = product(shape)
        if count * dtype.kind.itemsize != len(content):
            raise pickle.UnpicklingError("an array is not as long as its shape says")
        flat = np.frombuffer(content, dtype.kind)  # shares the bytes
        self.value = flat.reshape(shape, order="F" if is_fortran else "C")


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any = "C", *_: Any) -> Array:
    """Replace the function that makes arrays in pickle protocol 5."""
    array = Array()
    content = bytes(content) if isinstance(content, bytearray) else content
    array.__setstate__((1, shape, dtype, order == "F", content))
    return array


def product(shape: Any) -> int:
    """Return the number of elements of a shape, which may be invalid.

    Raises:
        UnpicklingError: if it is not a tuple of at most 32 non-negative numbers.
    """
    if not isinstance(shape, tuple) or len(shape) > 32 or any(
        type(n) is not int or not 0 <= n < 1 << 48 for n in shape
    ):  # fmt: skip
        raise pickle.UnpicklingError("a shape is damaged")
    return math.prod(shape)


Finder = Callable[[str, str], Any]


class Unpickler(pickle.Unpickler):
    """An unpickler that looks up every name in tables and imports nothing.

    Args:
        content: one pickle, and the bytes after it.
        budget: budget of the file.
        find: returns the substitute of a (module, name) that is not common to all files, None if
            it is unknown.
        load: returns the object of a persistent id.
    """

    def __init__(
        self,
        content: io.BytesIO,
        budget: Budget,
        find: Finder,
        load: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(content, encoding="latin1")
        self.budget, self.find, self.load_persistent = budget, find, load
        made = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "dict": dict}
        values: dict[str, Any] = {
            **{name: self._container(kind) for name, kind in made.items()},
            **dict.fromkeys(("bytes", "bytearray"), self._encode),
            **dict.fromkeys(
                (
                    "complex",
                    "int",
                    "float",
                    "str",
                    "bool",
                    "slice",
                    "range",
                    "xrange",
                    "long",
                    "unicode",
                ),
                Inert,
            ),
        }
        self.common: dict[tuple[str, str], Any] = {
            **{(module, name): value for module in ("builtins", "__builtin__")
               for name, value in values.items()},
            ("_codecs", "encode"): self._encode,
            ("copyreg", "_reconstructor"): _reconstructor,
            ("copy_reg", "_reconstructor"): _reconstructor,
        }  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        """Return the substitute of a name.

        Raises:
            Refused: if there is none.
        """
        for substitute in (self.common.get((module, name)), _harmless(module, name)):
            if substitute is not None:
                return substitute
        if (substitute := self.find(module, name)) is None:
            raise Refused(f"{module}.{name}")
        return substitute

    def persistent_load(self, pid: Any) -> Any:
        """Return the object of a persistent id."""
        if self.load_persistent is None:
            raise pickle.UnpicklingError("it refers to other files")
        return self.load_persistent(pid)

    def _container(self, kind: Any) -> Callable[..., Any]:
        def make(*arguments: Any) -> Any:
            if len(arguments) > 1 or (arguments and not hasattr(arguments[0], "__len__")):
                return Inert(*arguments)
            self.budget.spend(100 * len(arguments[0]) if arguments else 0)
            return kind(*arguments)

        return make

    def _encode(self, text: Any = b"", *_: Any) -> bytes:
        """Turn text into bytes: pickle protocol 2 writes bytes as text."""
        if not isinstance(text, str | bytes):
            return b""
        self.budget.spend(len(text))
        return text.encode("latin1") if isinstance(text, str) else text


def _reconstructor(kind: Any, *_: Any) -> Any:
    """Replace the function that makes objects in the pickle protocols 0 and 1."""
    return kind() if isinstance(kind, type) and issubclass(kind, Inert | _Mapping) else Inert()


_MAPPINGS = frozenset({"OrderedDict", "defaultdict", "Counter", "ChainMap", "UserDict"})
_PATHS = frozenset({"Path", "PosixPath", "WindowsPath"})
_MULTIARRAY = frozenset({"numpy.core.multiarray", "numpy._core.multiarray"})
# Packages whose objects trainers store beside the tensors, such as settings.
_SETTINGS = frozenset(
    {"omegaconf", "addict", "easydict", "yacs", "ml_collections", "mmcv", "mmengine",
     "pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities"}
)  # fmt: skip
_VALUES = {
    "argparse": frozenset({"Namespace"}),
    "types": frozenset({"SimpleNamespace"}),
    "collections": frozenset({"deque"}),
    "datetime": frozenset({"datetime", "date", "time", "timedelta", "timezone"}),
    "decimal": frozenset({"Decimal"}),
    "fractions": frozenset({"Fraction"}),
    "uuid": frozenset({"UUID", "SafeUUID"}),
    "typing": frozenset({"Any", "Union", "Optional"}),
    "pathlib": _PATHS | {f"Pure{name}" for name in _PATHS},
    "pathlib._local": _PATHS | {f"Pure{name}" for name in _PATHS},
    "torch": frozenset({"Size", "device", "Generator"}),
    "torch.torch_version": frozenset({"TorchVersion"}),
}


def _harmless(module: str, name: str) -> Any:
    """Return the substitute for a value without behaviour or for NumPy's arrays, else None."""
    root = module.partition(".")[0]
    if (module, name) in (("numpy", "dtype"), ("numpy.dtype", "dtype")):
        return DType
    if module in _MULTIARRAY:
        return {"_reconstruct": Array, "scalar": Inert}.get(name)
    if module in ("numpy.core.numeric", "numpy._core.numeric") and name == "_frombuffer":
        return _from_buffer
    if (module, name) == ("numpy", "ndarray"):
        return Inert  # it only occurs as an argument of `_reconstruct`
    if module == "collections" and name in _MAPPINGS:
        return _Mapping
    if name in _VALUES.get(module, ()) or root in _SETTINGS:
        # A new type per name, since pickles distinguish classes by identity.
        return type("Inert", (_Mapping if "Dict" in name else Inert,), {})
    if module == "numpy.dtypes" or module.startswith("numpy.random."):
        return Inert
    if module == "numpy" and isinstance(getattr(np, name, None), type):
        return Inert
    return None


# ---- check of the instructions -----------------------------------------------------------------

_GROWING = frozenset({"TUPLE1", "TUPLE2", "TUPLE3", "TUPLE", "FROZENSET", "REDUCE", "NEWOBJ",
                      "NEWOBJ_EX", "BUILD", "OBJ", "INST"})  # fmt: skip


def check(content: io.BytesIO) -> None:
    """Check one pickle's instructions; afterwards the stream's position is behind the pickle.

    Args:
        content: stream in memory, so that no declared length can exceed the available bytes.

    Raises:
        TooMuch: if it is too long, nests too deeply, or asks for too large tables.
        UnpicklingError: if it is not a complete pickle.
    """
    depths: list[int] = []  # nesting depth of each object on the stack; -1 is a mark
    memo: dict[int, int] = {}
    longs = 0
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            name = opcode.name
            if number > MOST_OPCODES:
                raise TooMuch(f"it has more than {MOST_OPCODES:,} instructions")
            if type(argument) is int and argument.bit_length() > _LONG_BITS:
                longs += 1
                if longs > _MOST_LONGS:
                    raise TooMuch(f"it has more than {_MOST_LONGS:,} numbers beyond 64 bits")
            if "PUT" in name or name == "MEMOIZE":
                place = len(memo) if argument is None else int(argument)
                if place > number:
                    raise TooMuch("it asks for a table far larger than itself")
                memo[place] = depths[-1]
            elif "GET" in name:
                depths.append(memo[int(argument or 0)])
            else:
                _step(opcode, depths)
            if depths and depths[-1] > DEEPEST:
                raise TooMuch(f"it nests more than {DEEPEST} levels deep")
    except (IndexError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, TooMuch):
            raise
        raise pickle.UnpicklingError("its pickle is cut off or damaged") from error


def _step(opcode: pickletools.OpcodeInfo, depths: list[int]) -> None:
    """Update the depths of the objects on the stack for one instruction."""
    before, after = opcode.stack_before, opcode.stack_after
    if opcode.name == "MARK":
        depths.append(-1)
        return
    if opcode.name == "DUP":
        depths.append(depths[-1])
        return
    taken = []
    if pickletools.markobject in before:
        while (top := depths.pop()) != -1:
            taken.append(top)
        before = before[: before.index(pickletools.markobject)]
    if before:
        taken += depths[-len(before) :]
        del depths[-len(before) :]
    deepest = max(taken, default=0)
    depths += [deepest + (opcode.name in _GROWING)] * len(after)


def read(
    content: bytes, budget: Budget, find: Finder, load: Callable[[Any], Any] | None = None
) -> Any:
    """Return the content of one complete pickle; arguments as for ``Unpickler``.

    Raises:
        Refused: if it names anything that is not known to be harmless.
        TooMuch: if it asks for more than the budget.
        UnpicklingError: if it is damaged.
    """
    return read_next(io.BytesIO(content), budget, find, load)


def read_next(
    stream: io.BytesIO, budget: Budget, find: Finder, load: Callable[[Any], Any] | None = None
) -> Any:
    """Return the content of the next pickle of a stream; the stream's position moves behind it."""
    start = stream.tell()
    check(stream)
    end = stream.tell()
    stream.seek(start)
    try:
        value = Unpickler(io.BytesIO(stream.read(end - start)), budget, find, load).load()
    except (Refused, TooMuch, pickle.UnpicklingError):
        raise
    except Exception as error:  # damaged pickles fail in many ways
        raise pickle.UnpicklingError("its pickle cannot be read") from error
    stream.seek(end)
    return value
