"""Classification heads, and a bank of them trained side by side on one encoder's features."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

HeadKind = Literal["linear", "bn_linear", "cosine", "l2_linear"]

# Scale of the cosines before the softmax, learnt from here (Gidaris and Komodakis 2018,
# https://arxiv.org/abs/1804.09458, section 3.2).
_COSINE_SCALE = 10.0


class Cosine(nn.Module):
    """Scaled cosine similarity between features and one weight vector per class."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, dim))
        self.scale = nn.Parameter(torch.tensor(_COSINE_SCALE))
        nn.init.normal_(self.weight, std=0.01)

    def forward(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """Return ``scale * cos(features, weight)``."""
        return self.scale * F.linear(F.normalize(features), F.normalize(self.weight))


class L2Normalise(nn.Module):
    """Scale every feature vector to length 1."""

    def forward(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """Return ``features / |features|``."""
        return F.normalize(features)


def _linear(dim: int, classes: int) -> nn.Linear:
    """Return a linear layer that starts near zero, as linear probes do (W ~ N(0, 0.01), b = 0)."""
    layer = nn.Linear(dim, classes)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer


def build_head(kind: HeadKind, dim: int, classes: int) -> nn.Module:
    """Return a head from ``dim`` features to ``classes`` logits.

    ``bn_linear`` standardises features by a BatchNorm without scale and shift, as the linear
    probes of MAE do (He et al. 2022, appendix A.1).
    """
    if kind == "cosine":
        return Cosine(dim, classes)
    if kind == "bn_linear":
        return nn.Sequential(nn.BatchNorm1d(dim, affine=False), _linear(dim, classes))
    if kind == "l2_linear":
        return nn.Sequential(L2Normalise(), _linear(dim, classes))
    return _linear(dim, classes)


def apply_heads(
    heads: Sequence[nn.Module] | nn.ModuleList, features: Float[Tensor, "batch dim"]
) -> list[Float[Tensor, "batch classes"]]:
    """Return each head's logits; linear heads share one product with the features."""
    linear = [head for head in heads if isinstance(head, nn.Linear)]
    if len(linear) < len(heads):
        return [head(features) for head in heads]
    weight = torch.cat([head.weight for head in linear])
    bias = torch.cat([head.bias for head in linear])
    return list(F.linear(features, weight, bias).chunk(len(linear), dim=1))
