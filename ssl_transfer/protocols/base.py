"""The contract between a protocol and the run that carries it out."""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar, Protocol, runtime_checkable

from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.models import Encoder


@dataclasses.dataclass(frozen=True)
class Score:
    """One number that a protocol measured.

    Args:
        metric: the metric's name in the literature, e.g. ``top1``.
        value: bounded scores are fractions in ``[0, 1]``.
        split: where it was measured.
        unit: ``fraction`` for bounded scores, else the unit's name.
        higher_is_better: direction of the metric.
        primary: the score that tables show when none is asked for; one per run.
    """

    metric: str
    value: float
    split: str = "test"
    unit: str = "fraction"
    higher_is_better: bool = True
    primary: bool = False


@runtime_checkable
class EvaluationProtocol(Protocol):
    """What is measured: hyper-parameters in the constructor, the work in ``run``.

    A method ``check(dataset)``, if there is one, raises a ``ValueError`` for a dataset that the
    hyper-parameters do not fit; it is called before anything is computed.
    """

    targets: ClassVar[frozenset[str]]
    """Kinds of target it accepts, e.g. ``{"class"}``."""

    def run(self, encoder: Encoder, dataset: Dataset, context: Context) -> Iterator[Score]:
        """Yield the scores of ``encoder`` on ``dataset``."""
        ...


def require(protocol: EvaluationProtocol, dataset: Dataset, name: str = "the protocol") -> None:
    """Refuse a dataset that a protocol cannot be measured on, before any work.

    Args:
        protocol: with its hyper-parameters.
        dataset: to be judged on.
        name: of the protocol, for the message.

    Raises:
        ValueError: in one sentence.
    """
    if dataset.target not in protocol.targets:
        raise ValueError(
            f"{name} must be given a dataset whose target is one of {sorted(protocol.targets)}, "
            f"but `{dataset.name}` has `{dataset.target}`"
            f"{' (it is for pre-training alone)' * (dataset.target == 'none')}."
        )
    if len(dataset["val"]) == 0:
        raise ValueError(
            f"{name} must be given a dataset with validation images, but `{dataset.name}` has none "
            "(that is for pre-training alone); set `dataset.val_fraction` above 0."
        )
    check = getattr(protocol, "check", None)
    if check is not None:
        check(dataset)
