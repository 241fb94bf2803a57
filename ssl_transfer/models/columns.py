"""``model.columns``: an encoder that keeps a range of its network's features.

The slices of a wide network are the sub-networks of Zhang and Bottou 2023
(https://arxiv.org/abs/2212.07346), e.g. ``[0, 2048]`` and ``[2048, 4096]`` of a ``resnet50w2``.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssl_transfer.models.encoder import Encoder

COLUMNS = "feature_columns"
"""Name of the buffer that holds the first column, and the one after the last."""


def keep_columns(encoder: Encoder, columns: Sequence[int]) -> None:
    """Make an encoder return a range of its features, in place.

    The network keeps its class and the names of its layers. The range is a buffer, and so a part of
    the fingerprint and of saved encoders.

    Args:
        encoder: the encoder.
        columns: the first column, and the one after the last.

    Raises:
        ValueError: if the range is empty or exceeds the features.
    """
    first, last = columns
    if not 0 <= first < last <= encoder.feature_dim:
        raise ValueError(
            f"`model.columns` must be [first, last) with 0 <= first < last <= "
            f"{encoder.feature_dim}, the number of features of `{encoder.name}`, but is "
            f"[{first}, {last}]."
        )
    network = encoder.backbone
    network.register_buffer(COLUMNS, torch.tensor([first, last]))
    network.register_forward_hook(_Slice(first, last))
    network.register_load_state_dict_pre_hook(_require_same)  # type: ignore[no-untyped-call]
    encoder.feature_dim = last - first


@dataclasses.dataclass(frozen=True)
class _Slice:
    """The forward hook that keeps the columns from ``first`` to before ``last``."""

    first: int
    last: int

    def __call__(
        self, network: nn.Module, images: Any, features: Float[Tensor, "batch features"]
    ) -> Float[Tensor, "batch columns"]:
        return features[:, self.first : self.last]


def _require_same(network: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Refuse the weights of an encoder with other columns."""
    own, saved = network.get_buffer(COLUMNS).tolist(), state.get(f"{prefix}{COLUMNS}")
    if saved is not None and saved.tolist() != own:
        raise ValueError(
            f"`model.columns` must be that of the encoder that the weights belong to, "
            f"{saved.tolist()}, but is {own}."
        )
