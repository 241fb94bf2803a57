"""Classification heads: built, applied as a bank, saved beside a run's record and read again."""

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_transfer import randomness
from ssl_transfer.estimators.cosine_classifier import class_vectors, unit_features, usual_scale
from ssl_transfer.models.attentive import AttentionBlock, AttentionPooling
from ssl_transfer.models.reading import State, read_state
from ssl_transfer.system.files import replace_atomically

HeadKind = Literal[
    "linear",
    "bn_linear",
    "bn_affine_linear",
    "cosine",
    "weight_norm_cosine",
    "l2_linear",
    "mlp",
    "attention",
    "attention_block",
]
HeadInit = Literal["torch"]

TOKEN_KINDS: tuple[HeadKind, ...] = ("attention", "attention_block")
"""Kinds of heads on an encoder's patch tokens ``[B, N, D]`` instead of its features."""

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


class WeightNormCosine(nn.Module):
    """The cosine classifier of Baseline++: see ``estimators.cosine_classifier``.

    Args:
        dim: number of features.
        classes: number of logits.
        scale: fixed factor of all logits (``None``: the published one for this many classes).
    """

    scale: Tensor

    def __init__(self, dim: int, classes: int, scale: float | None = None) -> None:
        super().__init__()
        # As published, the weights are those of torch's linear layer, and the lengths are theirs.
        weight = nn.Linear(dim, classes, bias=False).weight.detach()
        self.weight = nn.Parameter(weight)
        self.length = nn.Parameter(weight.norm(dim=1))
        self.register_buffer("scale", torch.tensor(scale or usual_scale(classes)))

    def forward(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """Return ``scale * length * cos(features, weight)``."""
        vectors = class_vectors(self.weight, self.length[:, None], self.scale)
        return F.linear(unit_features(features), vectors)


class L2Normalise(nn.Module):
    """Scale every feature vector to length 1."""

    def forward(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """Return ``features / |features|``."""
        return F.normalize(features)


def build_head(
    kind: HeadKind,
    dim: int,
    classes: int,
    init: HeadInit | None = None,
    *,
    scale: float | None = None,
) -> nn.Module:
    """Return a head from ``dim`` features to ``classes`` logits.

    Args:
        kind: ``linear``; ``bn_linear``: after a BatchNorm without scale and shift, as in the linear
            probes of MAE (He et al. 2022, appendix A.1); ``bn_affine_linear``: after a BatchNorm
            with scale and shift; ``mlp``: Linear 2048, BatchNorm, ReLU, Linear 128, BatchNorm,
            Linear (both of github.com/vpulab/bn_finetuning, cls_head_weighted_non_linear.py);
            ``l2_linear``: on features of length 1; ``cosine``: with one learnt scale;
            ``weight_norm_cosine``: with a learnt length per class and a fixed scale; ``attention``
            and ``attention_block``: after an ``AttentionPooling`` or ``AttentionBlock`` of tokens.
        dim: number of features.
        classes: number of logits.
        init: ``None``: linear layers start near zero, as linear probes do (W ~ N(0, 0.01), b = 0);
            ``torch``: the framework's default. Cosine heads and the pooling of tokens have a start
            of their own.
        scale: see ``WeightNormCosine``; of no other kind.
    """
    if kind == "cosine":
        return Cosine(dim, classes)
    if kind == "weight_norm_cosine":
        return WeightNormCosine(dim, classes, scale)
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
            "attention": functools.partial(AttentionPooling, dim),
            "attention_block": functools.partial(AttentionBlock, dim),
        }
        linear = nn.Linear(dim, classes)
        head = linear if kind == "linear" else nn.Sequential(before[kind](), linear)
    if init is None:
        (linear if kind in TOKEN_KINDS else head).apply(_start_near_zero)
    return head


def _start_near_zero(layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear):
        nn.init.normal_(layer.weight, std=0.01)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def apply_heads(
    heads: Sequence[nn.Module] | nn.ModuleList, features: Float[Tensor, "batch *tokens dim"]
) -> list[Float[Tensor, "batch classes"]]:
    """Return each head's logits; linear heads share one product with the features."""
    linear = [head for head in heads if isinstance(head, nn.Linear)]
    if len(linear) < len(heads):
        return [head(features) for head in heads]
    weight = torch.cat([head.weight for head in linear])
    bias = torch.cat([head.bias for head in linear])
    return list(F.linear(features, weight, bias).chunk(len(linear), dim=1))


@dataclasses.dataclass(frozen=True, eq=False)
class Head:
    """A classifier on an encoder's features, with the names of its classes.

    Args:
        layers: module from features ``[B, D]``, or tokens ``[B, N, D]`` for one of the
            ``TOKEN_KINDS``, to class scores ``[B, C]``.
        kind: kind of the layers.
        classes: names in the order of the class scores (``None``: the file does not name them).
        target: ``class``: one class per image (softmax); ``classes``: any number (sigmoid).
    """

    layers: nn.Module
    kind: HeadKind = "linear"
    classes: tuple[str, ...] | None = None
    target: str = "class"

    @property
    def outputs(self) -> int:
        """The number of class scores."""
        return _outputs(self.layers.state_dict())


def save_head(head: Head, folder: Path) -> None:
    """Save a head's tensors, by their names in ``build_head``, and its description to a folder.

    Raises:
        OSError: if the disk is full or read-only.
    """
    from safetensors.torch import save

    tensors = {
        name: tensor.detach().to("cpu", copy=True).contiguous()
        for name, tensor in head.layers.state_dict().items()
    }
    description = {"kind": head.kind, "target": head.target, "classes": head.classes}
    # A single entry: safetensors writes several in random order, and equal runs have equal files.
    content = save(tensors, metadata={"head": json.dumps(description)})
    replace_atomically(folder / HEAD_FILE, lambda file: file.write(content))


@randomness.preserved()
def load_head(folder: Path, feature_dim: int | None = None) -> Head | None:
    """Return the head that ``save_head`` wrote to a folder; None if there is none.

    Args:
        folder: the folder of a run.
        feature_dim: number of features of the encoder (``None``: what the file has); a head on
            tokens reads what the file has.

    Raises:
        ValueError: if the file is damaged or belongs to an encoder with other features.
    """
    path = folder / HEAD_FILE
    if not path.is_file():
        return None
    state = read_state(path)
    kind, classes, target = _description(path)
    if kind in TOKEN_KINDS:
        feature_dim = None
    try:
        layers = build_head(kind, feature_dim or _inputs(state), _outputs(state))
        layers.to(state[_matrices(state)[0]].dtype).load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        wanted = f" on {feature_dim} features" if feature_dim else ""
        raise ValueError(
            f"`{path}` must hold a head of kind {kind}{wanted}, but does not "
            f"({str(error).splitlines()[0]}); restore it, or compute the run again with force=true."
        ) from error
    return Head(layers.eval(), kind, classes, target)


def _description(path: Path) -> tuple[Any, tuple[str, ...] | None, Any]:
    """Return kind, class names and kind of target of a saved head, which are untrusted."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get("head", "")
    try:
        # Older code wrote the kind alone.
        description = {"kind": text} if text in get_args(HeadKind) else dict(json.loads(text))
    except (ValueError, TypeError, RecursionError):
        description = {}
    kind, classes = description.get("kind"), description.get("classes")
    target = description.get("target", "class")
    named = classes is None or (
        isinstance(classes, list) and bool(classes) and all(isinstance(c, str) for c in classes)
    )
    if kind not in get_args(HeadKind) or target not in ("class", "classes") or not named:
        raise ValueError(
            f"`{path}` must say which kind of head it holds and the names of its classes, but "
            "does not; restore it, or compute the run again with force=true."
        )
    return kind, None if classes is None else tuple(classes), target


def _inputs(state: Mapping[str, Tensor]) -> int:
    """Return the number of features that a head takes: the columns of its first matrix."""
    return int(state[_matrices(state)[0]].shape[1])


def _matrices(state: Mapping[str, Tensor]) -> list[str]:
    """Return the names of a head's matrices in the order of its layers."""
    matrices = sorted(name for name, tensor in state.items() if tensor.ndim == 2)
    if not matrices:
        raise ValueError("it has no matrix of weights")
    return matrices


def _outputs(state: Mapping[str, Tensor]) -> int:
    """Return the number of class scores of a head: the rows of its last matrix."""
    return len(state[_matrices(state)[-1]])


LINEAR_KINDS: tuple[HeadKind, ...] = ("linear", "bn_linear", "bn_affine_linear")
"""Kinds of heads that are a linear function of the features in eval mode."""


@torch.no_grad()
def folded(head: Head) -> nn.Linear:
    """Return the linear layer, in float64, with the class scores of a head in eval mode.

    A BatchNorm before the linear layer, with mean mu, variance var, scale gamma and shift beta, is
    folded into it: W' = W * (gamma / sigma), b' = b + W (beta - mu * gamma / sigma) with
    sigma = sqrt(var + eps).

    Args:
        head: a head of one of the ``LINEAR_KINDS``, which is not changed.

    Raises:
        ValueError: if it is of another kind.
    """
    if head.kind not in LINEAR_KINDS:
        raise ValueError(
            f"the head must be one of {', '.join(LINEAR_KINDS)} to be written as one linear layer, "
            f"but is {head.kind}; choose another head for the run that trains it."
        )
    if isinstance(head.layers, nn.Linear):
        return linear_head(head.layers.weight.double(), head.layers.bias.double())
    assert isinstance(head.layers, nn.Sequential)
    norm, linear = head.layers
    assert isinstance(norm, nn.BatchNorm1d)
    assert isinstance(linear, nn.Linear)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, sigma = norm.running_mean.double(), (norm.running_var.double() + norm.eps).sqrt()
    weight, bias = linear.weight.double(), linear.bias.double()
    scale = (torch.ones_like(sigma) if norm.weight is None else norm.weight.double()) / sigma
    shift = (torch.zeros_like(mean) if norm.bias is None else norm.bias.double()) - mean * scale
    return linear_head(weight * scale, bias + weight @ shift)


def averaged_head(heads: Sequence[nn.Linear]) -> nn.Linear:
    """Return the head on concatenated features whose class scores are the mean of the heads'.

    W = [W_1 | ... | W_n] / n and b = (b_1 + ... + b_n) / n; Zhang and Bottou 2023
    (https://arxiv.org/abs/2212.07346, two-stage fine-tuning; ``load_classifier`` in
    ``src/models.py`` of github.com/TjuJianyu/RRL).

    Args:
        heads: one linear layer per member, in the order of the features, with equally many outputs.
    """
    weight = torch.cat([head.weight.detach() for head in heads], dim=1) / len(heads)
    bias = torch.stack([head.bias.detach() for head in heads]).mean(dim=0)
    return linear_head(weight, bias)


@torch.no_grad()
def start_linear_layer(layers: nn.Module, start: nn.Linear) -> nn.Module:
    """Copy a linear layer into a head's linear layer, with a rounding to its number type.

    Args:
        layers: a head of one of the ``LINEAR_KINDS``, changed in place and returned.
        start: the values.
    """
    linear = layers if isinstance(layers, nn.Linear) else list(layers.children())[-1]
    assert isinstance(linear, nn.Linear)
    linear.weight.copy_(start.weight)
    linear.bias.copy_(start.bias)
    return layers


# Names of the last layer of published classifiers: torchvision and MoCo's and mix-bt's linear
# probes (fc, classifier), timm (head, head.fc, fc, classifier), torchvision's transformers
# (heads.head), OpenMMLab (head.fc_cls), Barlow Twins' evaluation (fc), VISSL (0.clf.0), RRL
# (classifier.linear).
_CLASSIFIER = re.compile(
    r"(?:^|.*\.)(?:fc|head|head\.fc|heads\.head|head\.fc_cls|classifier|classifier\.linear|linear"
    r"|last_linear|0\.clf\.0)\.weight$"
)


def released_head(state: State, feature_dim: int, excluded: Sequence[str] = ()) -> Head | None:
    """Return the linear classifier in a published file; None unless there is exactly one.

    Args:
        state: the file's tensors by their names in the file.
        feature_dim: number of features of the encoder.
        excluded: prefixes of names that belong to other parts, such as a projector.
    """
    names = [
        name
        for name, tensor in state.items()
        if _CLASSIFIER.match(name) and not name.startswith(tuple(excluded))
        if tensor.ndim == 2 and tensor.shape[1] == feature_dim and tensor.is_floating_point()
    ]
    if len(names) != 1:
        return None
    weight = state[names[0]]
    bias = state.get(f"{names[0].removesuffix('weight')}bias")
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    head = Head(linear_head(weight, bias))
    if names[0].endswith("classifier.linear.weight"):
        norm = {
            name: state.get(f"{names[0].removesuffix('linear.weight')}bn.{name}") for name in _NORM
        }
        if all(tensor is not None and len(tensor) == feature_dim for tensor in norm.values()):
            return _behind_norm(head, norm)
    return head


# RRL (`RegLog` of its `src/models.py`) optionally puts a BatchNorm `bn` before the layer `linear`.
_NORM = ("weight", "bias", "running_mean", "running_var")


@randomness.preserved()
def _behind_norm(head: Head, norm: Mapping[str, Tensor | None]) -> Head:
    """Return a linear head behind a BatchNorm with these tensors."""
    linear = head.layers.state_dict()
    layers = build_head("bn_affine_linear", linear["weight"].shape[1], head.outputs)
    tensors = {f"0.{name}": tensor for name, tensor in norm.items()}
    tensors |= {f"1.{name}": tensor for name, tensor in linear.items()}
    layers.load_state_dict({**layers.state_dict(), **tensors})
    return Head(layers.eval(), "bn_affine_linear")


@randomness.preserved()
@torch.no_grad()
def linear_head(
    weight: Float[Tensor, "classes dim"], bias: Float[Tensor, " classes"] | None
) -> nn.Linear:
    """Return a linear layer with these values, in eval mode; without a bias, it is zero."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    layer.weight.copy_(weight)
    layer.bias.copy_(torch.zeros_like(layer.bias) if bias is None else bias)
    return layer.eval()
