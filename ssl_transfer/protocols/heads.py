"""Classification heads, and a bank of heads trained in parallel on one encoder's features."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_transfer.system.files import replace_atomically

HeadKind = Literal["linear", "bn_linear", "bn_affine_linear", "cosine", "l2_linear", "mlp"]
HeadInit = Literal["torch"]

HEAD_FILE = "head.safetensors"

# Initial value of the learnt scale of the cosines before the softmax (Gidaris and Komodakis 2018,
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


def build_head(kind: HeadKind, dim: int, classes: int, init: HeadInit | None = None) -> nn.Module:
    """Return a head from ``dim`` features to ``classes`` logits.

    Args:
        kind: ``linear``; ``bn_linear``: after a BatchNorm without scale and shift, as in the linear
            probes of MAE (He et al. 2022, appendix A.1); ``bn_affine_linear``: after a BatchNorm
            with scale and shift; ``mlp``: Linear 2048, BatchNorm, ReLU, Linear 128, BatchNorm,
            Linear (both of github.com/vpulab/bn_finetuning, cls_head_weighted_non_linear.py);
            ``l2_linear``: on features of length 1; ``cosine``.
        dim: number of features.
        classes: number of logits.
        init: ``None``: linear layers start near zero, as linear probes do (W ~ N(0, 0.01), b = 0);
            ``torch``: the framework's default. Cosine weights always start near zero.
    """
    if kind == "cosine":
        return Cosine(dim, classes)
    if kind == "mlp":
        head: nn.Module = nn.Sequential(
            nn.Linear(dim, 2048, bias=False),
            nn.BatchNorm1d(2048),
            nn.ReLU(),
            nn.Linear(2048, 128),
            nn.BatchNorm1d(128),
            nn.Linear(128, classes),
        )
    else:
        before: dict[str, Callable[[], nn.Module]] = {
            "bn_linear": functools.partial(nn.BatchNorm1d, dim, affine=False),
            "bn_affine_linear": functools.partial(nn.BatchNorm1d, dim),
            "l2_linear": L2Normalise,
        }
        linear = nn.Linear(dim, classes)
        head = linear if kind == "linear" else nn.Sequential(before[kind](), linear)
    if init is None:
        head.apply(_start_near_zero)
    return head


def _start_near_zero(layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear):
        nn.init.normal_(layer.weight, std=0.01)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


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


def save_head(head: nn.Module, kind: HeadKind, folder: Path) -> None:
    """Save a head's tensors, by their names in ``build_head``, and its kind to a folder.

    Raises:
        OSError: if the disk is full or read-only.
    """
    from safetensors.torch import save

    tensors = {
        name: tensor.detach().to("cpu", copy=True).contiguous()
        for name, tensor in head.state_dict().items()
    }
    content = save(tensors, metadata={"head": kind})
    replace_atomically(folder / HEAD_FILE, lambda file: file.write(content))
