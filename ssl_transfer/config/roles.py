"""The keys of a method's node that refer to other encoders, and their parts on a command line."""

import enum
import re
from collections.abc import Sequence
from typing import NamedTuple


class Role(enum.Enum):
    """How a method uses the encoder that a reference names."""

    INITIAL_WEIGHTS = "the trained encoder starts from its weights"
    ARGUMENT = "the method's constructor receives it under the key's name"
    MEMBER = "its features are a part of the run's encoder"


class Reference(NamedTuple):
    """The role of a key that holds references."""

    role: Role
    several: bool = False
    """Whether the key holds a list of references."""


REFERENCES = {
    "start_from": Reference(Role.INITIAL_WEIGHTS),
    "teacher": Reference(Role.ARGUMENT),
    "teachers": Reference(Role.ARGUMENT, several=True),
    "members": Reference(Role.MEMBER, several=True),
}
"""The keys of a method's node that hold references."""

_WHOLE = re.compile(rf"method\.({'|'.join(REFERENCES)})=(?!\{{).*", re.DOTALL)
_MAPPING = re.compile(rf"method\.({'|'.join(REFERENCES)})=\{{(.*)\}}", re.DOTALL)
_PART = re.compile(rf"method\.({'|'.join(REFERENCES)})\.(\w+)=(.+)", re.DOTALL)


def gathered(overrides: Sequence[str]) -> list[str]:
    """Return overrides with the keys of each reference as one mapping.

    Hydra adds no key to a value that is missing or null, but accepts a mapping in its place. Keys
    of a reference that another override sets as a whole stay, and Hydra refuses them.

    Example:
        >>> gathered(["method.members.method=supervised", "method.members.seeds=[0,1]"])
        ['method.members={method:supervised,seeds:[0,1]}']

    Args:
        overrides: those of one configuration, each with a single value.
    """
    wholes = {whole[1] for override in overrides if (whole := _WHOLE.fullmatch(override))}
    entries: dict[str, list[str]] = {}
    for override in overrides:
        if mapping := _MAPPING.fullmatch(override):
            entries[mapping[1]] = [mapping[2]] * bool(mapping[2].strip())
        elif part := _PART.fullmatch(override):
            entries.setdefault(part[1], []).append(f"{part[2]}:{part[3]}")
    lines: dict[str, None] = {}
    for override in overrides:
        match = _MAPPING.fullmatch(override) or _PART.fullmatch(override)
        if match is None or match[1] in wholes:
            lines[override] = None
        else:
            lines[f"method.{match[1]}={{{','.join(entries[match[1]])}}}"] = None
    return list(lines)
