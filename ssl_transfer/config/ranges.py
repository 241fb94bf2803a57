"""Types and ranges of parameters, both read from their annotations.

The range of a number is part of the annotation, as in ``k: Count``. ``faults`` checks the values of
a configuration without a call, and ``checked`` checks the arguments of calls from Python code.
"""

import dataclasses
import functools
import inspect
import math
import numbers
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

Checked = TypeVar("Checked", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class Range:
    """The finite numbers that a parameter accepts, as metadata of ``Annotated``.

    Args:
        low: the smallest number.
        high: the largest number (infinity: no limit).
        open_low: whether ``low`` itself is excluded.
        open_high: whether ``high`` itself is excluded.
        cap: bound above which a value is surely a mistake, although it is valid mathematically.
    """

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    cap: float = math.inf

    def violated(self, value: Any) -> str | None:
        """Return the violated requirement, such as ``be at least 1``; None if the number fits."""
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        if above and below and value <= self.cap and value != math.inf:
            return None
        if self.high < math.inf:
            left, right = "(" if self.open_low else "[", ")" if self.open_high else "]"
            return f"lie in {left}{_number(self.low)}, {_number(self.high)}{right}"
        if above:
            return f"be at most {_number(self.cap)}" if self.cap < math.inf else "be finite"
        if self.open_low:
            return "be positive" if self.low == 0 else f"be above {_number(self.low)}"
        return f"be at least {_number(self.low)}"


@dataclasses.dataclass(frozen=True)
class NotEmpty:
    """A text that is not blank, or a list that is not empty, as metadata of ``Annotated``."""

    def violated(self, value: Any) -> str | None:
        """Return the violated requirement; None if the value fits."""
        return None if (value.strip() if isinstance(value, str) else value) else "not be empty"


@dataclasses.dataclass(frozen=True)
class Length:
    """The required number of items of a list, as metadata of ``Annotated``."""

    items: int

    def violated(self, value: Any) -> str | None:
        """Return the violated requirement; None if the list fits."""
        return None if len(value) == self.items else f"have {self.items} items"


@dataclasses.dataclass(frozen=True)
class Matching:
    """A text that matches a pattern, as metadata of ``Annotated``.

    Args:
        pattern: regular expression that the whole text must match.
        words: description of the pattern for messages.
    """

    pattern: str
    words: str

    def violated(self, value: Any) -> str | None:
        """Return the violated requirement; None if the text fits."""
        return None if re.fullmatch(self.pattern, value) else f"be {self.words}"


Positive = Annotated[float, Range(0, open_low=True)]
NotNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
ProperFraction = Annotated[float, Range(0, 1, open_low=True, open_high=True)]
Decay = Annotated[float, Range(0, 1, open_high=True)]
"""A momentum of gradients; with 1, old gradients would never decay."""
Finite = Annotated[float, Range(-1e300, cap=1e300)]
LearningRate = Annotated[float, Range(0, cap=1e30)]
"""Above the cap, a step overflows in single precision."""
PositiveRate = Annotated[float, Range(0, open_low=True, cap=1e30)]
Epochs = Annotated[float, Range(0, open_low=True, cap=1e6)]
Count = Annotated[int, Range(1, cap=10**9)]
Batch = Annotated[int, Range(1, cap=2**20)]
Width = Annotated[int, Range(1, cap=10**6)]
Side = Annotated[int, Range(1, cap=8192)]
Seed = Annotated[int, Range(0, cap=2**63 - 1)]
Text = Annotated[str, NotEmpty()]


@dataclasses.dataclass(frozen=True)
class Fault:
    """Why a value does not fit its annotation.

    Args:
        must: the requirement as a verb phrase, such as ``be at least 1``.
        value: the wrong value, or the wrong item of a list.
        of_item: whether ``value`` is an item.
        of_type: whether the type is wrong rather than the range.
    """

    must: str
    value: Any
    of_item: bool = False
    of_type: bool = False

    def sentence(self, name: str, remedy: str = "") -> str:
        """Return what is wrong with the parameter ``name``, followed by the remedy."""
        if self.of_item:
            return f"every item of `{name}` must {self.must}, but one is {shown(self.value)}."
        return f"`{name}` must {self.must}, but is {shown(self.value)}{remedy}."


def shown(value: Any) -> str:
    """Return a value's ``repr`` for messages, at most 200 characters long."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print integers of more than 4300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= 200 else f"{text[:197]}…"


def hints(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a callable's parameters, ranges included; {} if unreadable."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}  # a user's callable may have annotations that only a type checker can resolve


def faults(target: Callable[..., Any], keys: Mapping[str, Any]) -> dict[str, Fault]:
    """Return what is wrong with the type or the range of each keyword argument.

    Args:
        target: function or class; it is not called.
        keys: the arguments; unknown ones are ignored.
    """
    known = hints(target)
    results = {name: fault(value, known[name]) for name, value in keys.items() if name in known}
    return {name: result for name, result in results.items() if result is not None}


def checked(place: str = "") -> Callable[[Checked], Checked]:
    """Return a decorator with which a function or class raises ValueError for wrong arguments.

    It checks only parameters whose annotations have a range, and their types: a boolean is not a
    number, and a number is not a boolean.

    Args:
        place: prefix of each name in messages, e.g. ``dataset.``.
    """

    def decorate(target: Checked) -> Checked:
        is_class = inspect.isclass(target)
        function = target.__init__ if is_class else target
        signature = inspect.signature(function)

        @functools.cache
        def bounded() -> dict[str, Any]:
            known = hints(function)
            return {name: hint for name, hint in known.items() if any(_bounds(hint))}

        @functools.wraps(function)
        def call(*arguments: Any, **keys: Any) -> Any:
            try:
                values = signature.bind(*arguments, **keys).arguments
            except TypeError:
                values = {}  # the call below raises the same error
            results = {
                name: fault(values[name], hint)
                for name, hint in bounded().items()
                if name in values
            }
            if wrong := [f.sentence(f"{place}{n}") for n, f in results.items() if f is not None]:
                raise ValueError(" ".join(wrong))
            return function(*arguments, **keys)

        if not is_class:
            return typing.cast("Checked", call)
        target.__init__ = call  # type: ignore[method-assign]
        return target

    return decorate


def _bounds(hint: Any) -> Iterator[Any]:
    """Yield every range in an annotation."""
    yield from (extra for extra in getattr(hint, "__metadata__", ()) if hasattr(extra, "violated"))
    if typing.get_origin(hint) is not Literal:
        for part in typing.get_args(hint):
            yield from _bounds(part)


def wanted(hint: Any) -> str:
    """Return an annotation as text for messages."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return wanted(parts[0])
    if origin is Literal:
        return f"one of {list(parts)}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(wanted(part) for part in parts)
    if hint is type(None):
        return "null"
    if origin in (Sequence, list):
        item = wanted(parts[0])
        return f"a list of {'numbers' if item == 'float' else item}"
    if origin is tuple and parts[-1] is not Ellipsis:
        item = wanted(parts[0])
        return f"a list of {len(parts)} {'numbers' if item == 'float' else item}"
    if origin in (Mapping, dict):
        return "a mapping" if parts[1] is Any else f"a mapping to {wanted(parts[1])}"
    return hint.__name__ if isinstance(hint, type) and not parts else str(hint)


def fault(value: Any, hint: Any) -> Fault | None:
    """Return why a value, or an item of it, does not fit an annotation; None if it fits."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    mistyped = Fault(f"be {wanted(hint)}", value, of_type=True)
    if origin is Annotated:
        base, *extras = parts
        if (base_fault := fault(value, base)) is not None:
            return base_fault
        limits = (extra.violated(value) for extra in extras if hasattr(extra, "violated"))
        return next((Fault(must, value) for must in limits if must), None)
    if origin in (typing.Union, types.UnionType):
        faults_by_part = [fault(value, part) for part in parts]
        if any(part_fault is None for part_fault in faults_by_part):
            return None
        return next((f for f in faults_by_part if f is not None and not f.of_type), mistyped)
    if origin is Literal:
        fits = any(type(value) is type(part) and value == part for part in parts)
        return None if fits else mistyped
    if origin in (Sequence, list, tuple) and isinstance(value, list | tuple):
        item_hints = [parts[0]] * len(value)
        if origin is tuple and parts[-1] is not Ellipsis:
            if len(value) != len(parts):
                return mistyped
            item_hints = list(parts)
        return _fault_of_items(value, item_hints, mistyped)
    if origin in (Mapping, dict) and isinstance(value, Mapping):
        items = [*value.keys(), *value.values()]
        sides = [parts[0]] * len(value) + [parts[1]] * len(value)
        return _fault_of_items(items, sides, mistyped)
    return None if _is_a(value, hint) else mistyped


def _fault_of_items(values: Sequence[Any], items: Sequence[Any], mistyped: Fault) -> Fault | None:
    for value, item in zip(values, items, strict=True):
        if (item_fault := fault(value, item)) is not None:
            return mistyped if item_fault.of_type else dataclasses.replace(item_fault, of_item=True)
    return None


def _is_a(value: Any, hint: Any) -> bool:
    """Return whether a value has a type that is not one of the generic types above."""
    if hint in (int, float):  # an integer is accepted as a float; a boolean is neither
        kind = numbers.Integral if hint is int else numbers.Real
        return isinstance(value, kind) and not isinstance(value, bool)
    from beartype import BeartypeConf
    from beartype.door import is_bearable
    from beartype.roar import BeartypeException

    tower = BeartypeConf(is_pep484_tower=True)
    try:
        # YAML has lists only, but the annotation may be a tuple.
        return any(is_bearable(v, hint, conf=tower) for v in (value, _as_tuple(value)))
    except BeartypeException:
        return True  # beartype cannot check this annotation


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value


def _number(value: float) -> str:
    whole = isinstance(value, int) or (value.is_integer() and abs(value) < 1e15)
    return str(int(value)) if whole else f"{value:g}"
