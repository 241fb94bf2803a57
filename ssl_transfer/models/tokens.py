"""``model.features``: which features of a transformer's tokens an encoder ends in.

A vision transformer turns an image into patch tokens and, mostly, a class token and register
tokens. Publications judge different functions of them: DINO the class token, DINOv2 the class token
beside the mean of the patch tokens, I-JEPA the mean alone, DINO's linear evaluation of small
networks the class tokens of the last four blocks side by side.
"""

import copy
import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssl_transfer.models.encoder import Encoder, measure_feature_dim

Features = Literal["pooled", "cls", "mean", "cls_mean", "last4"]
"""``pooled``: as the network pools its tokens. ``cls``: the class token. ``mean``: the mean of the
patch tokens. ``cls_mean``: both, side by side (Oquab et al. 2023, appendix B.3,
https://arxiv.org/abs/2304.07193). ``last4``: the class tokens of the last four blocks, the last one
last (Caron et al. 2021, appendix F.2, https://arxiv.org/abs/2104.14294). Tokens are taken after the
network's final norm; class and register tokens are no patch tokens."""

EVERY = "every"
"""All tokens that any choice needs, side by side: the mean of the patch tokens, then the class
tokens of the last four blocks (of fewer, if there are no more); the mean alone without a class
token."""

_LAST = 4
"""Number of blocks of ``last4``."""


class Tokens(NamedTuple):
    """The tokens of a batch after the network's final norm."""

    prefix: Float[Tensor, "batch prefix dim"]
    """Class token, if the network has one, then register tokens."""
    patches: Float[Tensor, "batch patches dim"]


def has_tokens(network: nn.Module) -> bool:
    """Return whether a network is a transformer of timm or transformers that gives its tokens."""
    return (
        hasattr(network, "forward_intermediates")
        and isinstance(getattr(network, "num_prefix_tokens", None), int)
        and isinstance(getattr(network, "blocks", None), nn.Sequential | nn.ModuleList)
    )


def has_class_token(network: nn.Module) -> bool:
    """Return whether a network that gives its tokens has a class token, which is its first one."""
    return isinstance(getattr(network, "cls_token", None), Tensor)


def tokens_of(network: nn.Module, images: Float[Tensor, "batch 3 height width"]) -> Tokens:
    """Return the tokens of the last block after the network's final norm.

    Raises:
        ValueError: if the network gives no tokens.
    """
    (last,) = _last_blocks(network, images, 1)
    return last


def _last_blocks(network: Any, images: Tensor, blocks: int) -> list[Tokens]:
    """Return the tokens of the last blocks, each after the network's final norm."""
    if not has_tokens(network):
        raise ValueError(
            "an encoder must be a vision transformer of timm to give its tokens, but is a "
            f"{type(network).__name__}."
        )
    pairs: Sequence[Any] = network.forward_intermediates(
        images,
        indices=blocks,
        return_prefix_tokens=True,
        norm=True,
        output_fmt="NLC",
        intermediates_only=True,
    )
    # Without prefix tokens, timm returns the patch tokens alone.
    pairs = [pair if isinstance(pair, tuple) else (pair, pair[:, :0]) for pair in pairs]
    return [Tokens(prefix, patches) for patches, prefix in pairs]


def features_of(
    network: nn.Module, images: Float[Tensor, "batch 3 height width"], choice: str
) -> Float[Tensor, "batch dim"]:
    """Return the chosen features of images.

    Args:
        network: a transformer that gives its tokens.
        images: normalised images.
        choice: one of ``Features`` but ``pooled``, or ``EVERY``.
    """
    with_class = has_class_token(network)
    last = _number_of_last(network) if choice in ("last4", EVERY) else 1
    blocks = _last_blocks(network, images, last)
    # Networks that pool before their final norm have it in `fc_norm`; for others this is nothing.
    final = getattr(network, "fc_norm", None) or nn.Identity()
    classes = [final(tokens.prefix[:, 0]) for tokens in blocks] if with_class else []
    mean = final(blocks[-1].patches.mean(dim=1)) if choice in ("mean", "cls_mean", EVERY) else None
    parts = {
        "cls": classes[-1:],
        "mean": [mean],
        "cls_mean": [*classes[-1:], mean],
        "last4": classes,
        EVERY: [mean, *classes],
    }
    return torch.cat([part for part in parts[choice] if part is not None], dim=1)


def _number_of_last(network: Any) -> int:
    return min(_LAST, len(network.blocks))


def columns_of_every(network: nn.Module, dim: int) -> list[slice]:
    """Return the columns of ``EVERY`` that a network's choice consists of, in its order.

    Args:
        network: a network whose choice is not ``pooled``.
        dim: number of its features.
    """
    choice, parts = choice_of(network), {"cls_mean": 2, "last4": _LAST}
    width = dim // parts.get(choice, 1)
    end = width * (1 + _number_of_last(network))
    mean, last = slice(0, width), slice(end - width, end)
    return {
        "cls": [last],
        "mean": [mean],
        "cls_mean": [last, mean],
        "last4": [slice(width, end)],
    }[choice]


class _Choosing(nn.Module):
    """What a network that ends in chosen features inherits from before its own class."""

    token_features: str

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """Return the chosen features."""
        return features_of(self, images, self.token_features)


@functools.cache
def _choosing(kind: type[nn.Module]) -> type[nn.Module]:
    """Return the class of a network that ends in chosen features; layers keep their names."""
    return type(kind.__name__, (_Choosing, kind), {"__module__": __name__})


def choose_features(encoder: Encoder, choice: str) -> None:
    """Make an encoder end in chosen features of its tokens, in place.

    Args:
        encoder: the encoder.
        choice: one of ``Features``; ``pooled`` changes nothing.

    Raises:
        ValueError: if the choice is unknown, or the network lacks what it is made of.
    """
    if choice not in get_args(Features):
        known = ", ".join(get_args(Features))
        raise ValueError(f"`model.features` must be one of {known}, but is {choice!r}.")
    network = encoder.backbone
    if choice == "pooled":
        return
    kind = type(network).__name__
    if not has_tokens(network):
        raise ValueError(
            f"`model.features={choice}` must be used with a vision transformer of timm, but "
            f"`{encoder.name}` is a {kind}; use `model.features=pooled`."
        )
    if choice != "mean" and not has_class_token(network):
        raise ValueError(
            f"`model.features={choice}` must be used with a class token, but `{encoder.name}` has "
            "none; use `model.features=mean` or `pooled`."
        )
    if choice == "last4" and _number_of_last(network) < _LAST:
        raise ValueError(
            f"`model.features=last4` must be used with {_LAST} blocks or more, but "
            f"`{encoder.name}` has {_number_of_last(network)}; use `model.features=cls`."
        )
    network.__class__ = _choosing(type(network))  # type: ignore[arg-type]
    network.token_features = choice  # type: ignore[assignment]
    encoder.feature_dim = measure_feature_dim(network, encoder.preprocessing.size, encoder.name)


def choice_of(network: nn.Module) -> str:
    """Return which of ``Features`` a network ends in."""
    return str(getattr(network, "token_features", "pooled"))


def with_every_token(encoder: Encoder) -> Encoder:
    """Return an encoder of the same weights that ends in ``EVERY``; the weights are shared.

    Args:
        encoder: an encoder whose choice is not ``pooled``.
    """
    network = copy.copy(encoder.backbone)
    network.token_features = EVERY  # type: ignore[assignment]
    every = copy.copy(encoder)
    every._modules = {**encoder._modules, "backbone": network}
    every.feature_dim = measure_feature_dim(network, encoder.preprocessing.size, encoder.name)
    return every
