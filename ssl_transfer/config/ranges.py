"""Which values a parameter takes: its type and its range, both read from its annotation.

A number's range stands in the annotation, as in ``k: Count``. The check of a configuration reads
it without a call (``faults``), and ``checked`` enforces it where Python code calls.
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
    """The finite numbers that a parameter takes, as metadata of ``Annotated``.

    Args:
        low: the least of them.
        high: the largest of them (infinity: there is none).
        open_low: whether ``low`` itself is excluded.
        open_high: whether ``high`` itself is excluded.
        cap: bound above which a value can only be a mistake, whatever the mathematics allow.
    """

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    cap: float = math.inf

    def violated(self, value: Any) -> str | None:
        """Return what a number must be and is not, as ``be at least 1``; None if it fits."""
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
    """A text with more than blanks, or a list with an item, as metadata of ``Annotated``."""

    def violated(self, value: Any) -> str | None:
        """Return what a value must be and is not; None if it fits."""
        return None if (value.strip() if isinstance(value, str) else value) else "not be empty"


@dataclasses.dataclass(frozen=True)
class Length:
    """The number of items that a list has, as metadata of ``Annotated``."""

    items: int

    def violated(self, value: Any) -> str | None:
        """Return what a list must be and is not; None if it fits."""
        return None if len(value) == self.items else f"have {self.items} items"


@dataclasses.dataclass(frozen=True)
class Matching:
    """A text of a certain form, as metadata of ``Annotated``.

    Args:
        pattern: what the whole text matches.
        words: the form, for messages.
    """

    pattern: str
    words: str

    def violated(self, value: Any) -> str | None:
        """Return what a text must be and is not; None if it fits."""
        return None if re.fullmatch(self.pattern, value) else f"be {self.words}"


Positive = Annotated[float, Range(0, open_low=True)]
NotNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
ProperFraction = Annotated[float, Range(0, 1, open_low=True, open_high=True)]
Decay = Annotated[float, Range(0, 1, open_high=True)]
"""A momentum of gradients: at 1 nothing would ever be forgotten."""
Finite = Annotated[float, Range(-1e300, cap=1e300)]
LearningRate = Annotated[float, Range(0, cap=1e30)]
"""Beyond the cap, a step is no number in single precision."""
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
        must: the verb and what follows it, as ``be at least 1``.
        value: what does not, the value itself or an item of it.
        of_item: whether it is an item.
        of_type: whether already the type is wrong.
    """

    must: str
    value: Any
    of_item: bool = False
    of_type: bool = False

    def sentence(self, name: str, remedy: str = "") -> str:
        """Return what is wrong with the parameter ``name``, and after it what to do."""
        if self.of_item:
            return f"every item of `{name}` must {self.must}, but one is {shown(self.value)}."
        return f"`{name}` must {self.must}, but is {shown(self.value)}{remedy}."


def shown(value: Any) -> str:
    """Return a value as messages show it, in 200 characters at most."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no number of more than 4300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= 200 else f"{text[:197]}…"


def hints(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a callable's parameters, ranges included; {} if unreadable."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}  # a user's own callable may annotate with names that only a type checker knows


def faults(target: Callable[..., Any], keys: Mapping[str, Any]) -> dict[str, Fault]:
    """Return what is wrong with the type or the range of each keyword argument.

    Args:
        target: function or class; it is not called.
        keys: the arguments; those that it does not know are passed over.
    """
    known = hints(target)
    found = {name: fault(value, known[name]) for name, value in keys.items() if name in known}
    return {name: one for name, one in found.items() if one is not None}


def checked(place: str = "") -> Callable[[Checked], Checked]:
    """Let a function or class raise a ``ValueError`` for arguments outside of their ranges.

    Types are left to the type checker, except those of annotations with a range: a boolean is no
    number, and a number no boolean.

    Args:
        place: what the sentences put before each name, e.g. ``dataset.``.
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
                given = signature.bind(*arguments, **keys).arguments
            except TypeError:
                given = {}  # the call itself says what is wrong
            found = {
                name: fault(given[name], hint) for name, hint in bounded().items() if name in given
            }
            if wrong := [f.sentence(f"{place}{n}") for n, f in found.items() if f is not None]:
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
    """Return an annotation as words."""
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
    """Return why a value does not fit an annotation, every item of it judged; None if it does."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    mistyped = Fault(f"be {wanted(hint)}", value, of_type=True)
    if origin is Annotated:
        base, *extras = parts
        if (found := fault(value, base)) is not None:
            return found
        limits = (extra.violated(value) for extra in extras if hasattr(extra, "violated"))
        return next((Fault(must, value) for must in limits if must), None)
    if origin in (typing.Union, types.UnionType):
        found_by_part = [fault(value, part) for part in parts]
        if any(found is None for found in found_by_part):
            return None
        return next((f for f in found_by_part if f is not None and not f.of_type), mistyped)
    if origin is Literal:
        fits = any(type(value) is type(part) and value == part for part in parts)
        return None if fits else mistyped
    if origin in (Sequence, list, tuple) and isinstance(value, list | tuple):
        wanted_items = [parts[0]] * len(value)
        if origin is tuple and parts[-1] is not Ellipsis:
            if len(value) != len(parts):
                return mistyped
            wanted_items = list(parts)
        return _fault_of_items(value, wanted_items, mistyped)
    if origin in (Mapping, dict) and isinstance(value, Mapping):
        items = [*value.keys(), *value.values()]
        sides = [parts[0]] * len(value) + [parts[1]] * len(value)
        return _fault_of_items(items, sides, mistyped)
    return None if _is_a(value, hint) else mistyped


def _fault_of_items(values: Sequence[Any], items: Sequence[Any], mistyped: Fault) -> Fault | None:
    for value, item in zip(values, items, strict=True):
        if (found := fault(value, item)) is not None:
            return mistyped if found.of_type else dataclasses.replace(found, of_item=True)
    return None


def _is_a(value: Any, hint: Any) -> bool:
    """Return whether a value has a type that is none of the generic ones above."""
    if hint in (int, float):  # a whole number is a float, too; True is neither
        kind = numbers.Integral if hint is int else numbers.Real
        return isinstance(value, kind) and not isinstance(value, bool)
    from beartype import BeartypeConf
    from beartype.door import is_bearable
    from beartype.roar import BeartypeException

    tower = BeartypeConf(is_pep484_tower=True)
    try:
        # YAML knows lists only; a tuple may be asked for.
        return any(is_bearable(v, hint, conf=tower) for v in (value, _as_tuple(value)))
    except BeartypeException:
        return True  # an annotation beartype cannot judge


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value


def _number(value: float) -> str:
    whole = isinstance(value, int) or (value.is_integer() and abs(value) < 1e15)
    return str(int(value)) if whole else f"{value:g}"
