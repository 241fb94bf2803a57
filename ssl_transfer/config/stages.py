"""The keys of a protocol's node that hold another protocol's node, whose evaluations come first.

A protocol of several stages mounts the node of an earlier one in its ``defaults``. The earlier
evaluations are ordinary runs, which have the ids of the same evaluations asked for directly.
"""

import enum
from collections.abc import Iterator, Mapping
from typing import Any


class Subject(enum.Enum):
    """What an earlier stage evaluates, on the same data set with the same seed."""

    ENCODER = "the run's own encoder"
    EACH_MEMBER = "each member of the run's encoder, for itself"


STAGES = {"first_stage": Subject.EACH_MEMBER, "head_from": Subject.ENCODER}
"""The keys that hold the node of an earlier stage."""


def stages_of(protocol: Mapping[str, Any]) -> Iterator[tuple[str, Subject, dict[str, Any]]]:
    """Yield the key, the subject and the node of each earlier stage of a protocol."""
    for key, subject in STAGES.items():
        if isinstance(node := protocol.get(key), Mapping):
            yield key, subject, dict(node)
