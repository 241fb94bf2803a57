"""Trainings that start from what earlier runs on the same data set left.

``two_stage_finetune`` concatenates members that are already fine-tuned and starts its head from
theirs. ``linear_probe_then_finetune`` starts its head from a linear probe of the same encoder.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn

from ssl_transfer.config.ranges import checked
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.errors import NotApplicable
from ssl_transfer.models import Encoder, fingerprint
from ssl_transfer.models.fusion import FusedEncoder
from ssl_transfer.models.heads import (
    LINEAR_KINDS,
    averaged_head,
    build_head,
    folded,
    start_linear_layer,
)
from ssl_transfer.protocols.base import Score
from ssl_transfer.protocols.required import Evaluated, head_of, require_initial, required_by
from ssl_transfer.protocols.tuning import Tuning


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoStageFinetune(Tuning):
    """Train a joint head on members that were fine-tuned one by one, perhaps with the members.

    Zhang and Bottou 2023, https://arxiv.org/abs/2212.07346, in the form of
    ``two-stage_fine-tuning/rich_finetune.sh`` and ``load_classifier`` of github.com/TjuJianyu/RRL.
    With ``head_start=average`` and without BatchNorm before the head, the class scores before the
    first step are exactly the averages of the members' class scores.

    ``Tuning`` describes the other keys.

    Args:
        first_stage: node of the protocol that fine-tunes each member; its runs are required.
        head_start: the joint head starts from the ``average`` of the members' heads, with their
            BatchNorm layers folded in, or is drawn at ``random`` (see ``head_init``).

    Raises:
        ValueError: if options contradict each other or a value is out of its range.
    """

    first_stage: dict[str, Any]
    head_start: Literal["average", "random"] = "average"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_start == "random":
            return
        for key, kind in (("head", self.head), ("first_stage.head", self.first_stage.get("head"))):
            if kind is not None and kind not in LINEAR_KINDS:
                raise ValueError(
                    f"`{key}` must be one of {', '.join(LINEAR_KINDS)} for `head_start=average`, "
                    f"but is {kind}; choose one of them, or `head_start=random`."
                )
        if self.head_init is not None:
            raise ValueError(
                f"`head_init` must be null for `head_start=average`, but is {self.head_init}; "
                "it belongs to `head_start=random`."
            )

    @property
    def encoder_is_initial(self) -> bool:
        """Whether the final encoder is the one that the run starts from: the first stage is not."""
        return False

    def run(self, encoder: Encoder, dataset: Dataset, context: Context) -> Iterator[Score]:
        """Yield the test scores of the joint classifier.

        Raises:
            NotApplicable: if the encoder has no members.
            ValueError: if the members are not concatenated, or the first stage does not fit.
        """
        if not isinstance(encoder, FusedEncoder):
            raise NotApplicable(
                f"`two_stage_finetune` needs the members of method=cat, but `{encoder.name}` is a "
                "single encoder."
            )
        if encoder.fuse != "concatenate":
            raise ValueError(
                "`method.fuse` must be concatenate for `two_stage_finetune`, whose head has a part "
                f"for each member, but is {encoder.fuse}."
            )
        members = required_by(context, "first_stage")
        _take_members(encoder, members)
        context.note(
            first_stage=[member.run_id for member in members],
            first_stage_sha256=[
                fingerprint(encoder),
                *(fingerprint(member) for member in encoder.encoders),
            ],
        )
        yield from super().run(encoder, dataset, context)

    def initial_head(self, encoder: Encoder, dataset: Dataset, context: Context) -> nn.Module:
        """Return a new head with the weights that every training starts from."""
        if self.head_start == "random":
            return super().initial_head(encoder, dataset, context)
        members = required_by(context, "first_stage")
        start = averaged_head([folded(head_of(member, dataset)) for member in members])
        layers = build_head(self.head, encoder.feature_dim, len(dataset.classes))
        return start_linear_layer(layers.to(context.dtype), start)


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearProbeThenFinetune(Tuning):
    """Fine-tune an encoder with a head that starts from its linear probe.

    The probe's BatchNorm, if it has one, is folded into the linear layer, as in the fine-tuning of
    distilled representations by Zhang and Bottou 2023 (https://arxiv.org/abs/2212.07346,
    ``finetune_synt.sh`` in the history of github.com/TjuJianyu/RRL). Kumar et al. 2022
    (https://arxiv.org/abs/2202.10054) propose the procedure.

    ``Tuning`` describes the other keys.

    Args:
        head_from: node of the protocol that trains the head on the frozen encoder, such as
            ``linear_probe`` or ``logistic_regression``; its run is required.

    Raises:
        ValueError: if options contradict each other or a value is out of its range.
    """

    head_from: dict[str, Any]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head != "linear" or self.head_init is not None:
            raise ValueError(
                "`head` must be linear and `head_init` null where the head starts from "
                f"`head_from`, but they are {self.head} and {self.head_init}."
            )
        if (kind := self.head_from.get("head", "linear")) not in LINEAR_KINDS:
            raise ValueError(
                f"`head_from.head` must be one of {', '.join(LINEAR_KINDS)}, but is {kind}."
            )

    def run(self, encoder: Encoder, dataset: Dataset, context: Context) -> Iterator[Score]:
        """Yield the test scores of the fine-tuned classifier.

        Raises:
            ValueError: if the head was trained on another encoder.
        """
        (probe,) = required_by(context, "head_from")
        require_initial(probe, fingerprint(encoder))
        if not _is_same(probe.encoder, encoder):
            raise ValueError(
                "`head_from` must leave the encoder as it is, because its head belongs to that "
                f"encoder, but {probe.description} changed it; use linear_probe with "
                "encoder_mode=eval, or logistic_regression."
            )
        yield from super().run(encoder, dataset, context)

    def initial_head(self, encoder: Encoder, dataset: Dataset, context: Context) -> nn.Module:
        """Return a new head with the weights that every training starts from."""
        (probe,) = required_by(context, "head_from")
        return folded(head_of(probe, dataset)).to(context.dtype).train()


def _is_same(final: Encoder | None, initial: Encoder) -> bool:
    """Return whether an encoder, which may be saved in another number type, has equal weights."""
    assert final is not None
    states = final.backbone.state_dict(), initial.backbone.state_dict()
    same_names = states[0].keys() == states[1].keys()
    return same_names and all(
        torch.equal(states[0][name].to(tensor.dtype), tensor)
        for name, tensor in states[1].items()
        if not name.endswith("num_batches_tracked")
    )


def _take_members(encoder: FusedEncoder, members: list[Evaluated]) -> None:
    """Give the members of a fused encoder the weights and preprocessing of the first stage.

    Raises:
        ValueError: if the first stage of a member started from other weights.
    """
    tuned = []
    for member, evaluated in zip(encoder.encoders, members, strict=True):
        require_initial(evaluated, fingerprint(member))
        assert evaluated.encoder is not None
        tuned.append(evaluated.encoder)
    encoder.take(tuned)
