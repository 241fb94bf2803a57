"""The interface of an encoder, and ``wrap``, which makes an encoder from any module."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssl_transfer import randomness
from ssl_transfer.models.heads import Head
from ssl_transfer.preprocessing import Preprocessing


class Encoder(nn.Module):
    """A backbone with its feature dimension, preprocessing and name.

    Args:
        backbone: a module from images to features ``[batch, feature_dim]``.
        feature_dim: number of features per image.
        preprocessing: preprocessing of images that the weights expect.
        name: name in messages and tables.
        projector: the projector trained on top of it, if available; not applied to features.
    """

    def __init__(
        self,
        backbone: nn.Module,
        feature_dim: int,
        preprocessing: Preprocessing,
        name: str = "encoder",
        projector: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.feature_dim = feature_dim
        self.preprocessing = preprocessing
        self.name = name
        self.projector = projector
        self.maker: Callable[..., Any] | None = None  # the callable that `models.build` called
        self.config: Mapping[str, Any] | None = None  # the node `model` that it was built from
        self.head: Head | None = None  # the classifier in the file of the weights, not applied

    @property
    def parameter_count(self) -> int:
        """The number of the backbone's parameters, trained or not."""
        return sum(parameter.numel() for parameter in self.backbone.parameters())

    def preprocessing_identity(self) -> dict[str, Any]:
        """Return the preprocessing as plain values."""
        return self.preprocessing.identity()

    def prepare(self, size: int | None, values: Mapping[str, Any] | None) -> None:
        """Replace values of the preprocessing (see ``Preprocessing.replaced``)."""
        self.preprocessing = self.preprocessing.replaced(size, values)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """Return the features of normalised images."""
        features: Tensor = self.backbone(images)
        return features


def require_finite(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights with NaN or infinity.

    Infinity is allowed in buffers, some of which are masks.

    Args:
        module: the module that has or gets these weights.
        state: its tensors by name.
        source: origin of the weights, for the message.

    Raises:
        ValueError: naming the first such tensor and its share of such values.
    """
    parameters = {name for name, _ in module.named_parameters()}
    for name, tensor in state.items():
        if nn.parameter.is_lazy(tensor):
            continue  # a lazy tensor, which gets its values from the first batch
        bad = ~tensor.isfinite() if name in parameters else tensor.isnan()
        if bad.any():
            count, size = int(bad.sum()), tensor.numel()
            share = f"{count} of {size} values ({100 * count / size:.3g} %)"
            raise ValueError(
                f"all weights must be finite, but {share} of `{name}` in {source} are NaN or "
                "infinite; use another checkpoint, since scores of these would be meaningless."
            )


def wrap(
    module: nn.Module,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
) -> Encoder:
    """Return an encoder around ``module``; a forward pass measures its feature dimension.

    Args:
        module: from images ``[B, 3, H, W]`` to features ``[B, D]``; not copied. An ``Encoder``
            is accepted, too.
        preprocessing: preprocessing that its weights expect; a mapping replaces single values of
            the module's own (or else of ``Preprocessing``'s defaults). ``None``: the module's
            attribute ``preprocessing`` (a ``Preprocessing`` or a mapping), or timm's configuration.
        name: name in messages and tables (``None``: the encoder's, or that of the class).

    Raises:
        ValueError: if nothing says how images must be prepared, or if the
            module's output is not ``[B, D]``.
    """
    require_module(module)
    backbone = module.backbone if isinstance(module, Encoder) else module
    name = name or (module.name if isinstance(module, Encoder) else type(module).__name__)
    require_finite(backbone, backbone.state_dict(), f"`{name}`")
    prepared = _preprocessing(module, preprocessing, name)
    return Encoder(backbone, measure_feature_dim(backbone, prepared.size, name), prepared, name)


def require_module(module: object) -> None:
    """Raise a ``ValueError`` if a user's code returned something other than a module."""
    if not isinstance(module, nn.Module):
        raise ValueError(
            "An encoder must be a torch.nn.Module from images to features, but is a "
            f"{type(module).__name__}; return the module itself."
        )


def _preprocessing(
    module: nn.Module, values: Preprocessing | Mapping[str, Any] | None, name: str
) -> Preprocessing:
    if isinstance(values, Preprocessing):
        return values
    if not isinstance(values, Mapping | None):
        raise ValueError(
            "`preprocessing` must be a Preprocessing or a mapping of its fields, but is a "
            f"{type(values).__name__}."
        )
    own = _own_preprocessing(module)
    if own is None and values is None:
        raise ValueError(
            f"`{name}` must say how its images are prepared, but has no attribute `preprocessing` "
            "and none was given; give `model.preprocessing` (in a script `preprocessing=`) with "
            "size, resize, interpolation, mean and std."
        )
    return (own or Preprocessing()).replaced(values=values)


def _own_preprocessing(module: nn.Module) -> Preprocessing | None:
    own = getattr(module, "preprocessing", None)
    if isinstance(own, Mapping):
        return Preprocessing().replaced(values=own)
    if isinstance(own, Preprocessing):
        return own
    if hasattr(module, "pretrained_cfg"):
        from ssl_transfer.models.backbones import timm_preprocessing

        return timm_preprocessing(module)
    return None


def measure_feature_dim(module: nn.Module, size: int, name: str) -> int:
    """Return D of the module's output ``[B, D]``, by a forward pass of two black images.

    The pass runs in eval mode, so that no running statistics change; training modes and the
    random generators are restored.

    Raises:
        ValueError: if the pass fails, or the output is not one floating-point ``[B, D]``.
    """
    reference = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    images = torch.zeros(2, 3, size, size, device=reference.device, dtype=reference.dtype)
    try:
        with evaluating(module), torch.no_grad(), randomness.preserved():
            output = module(images)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(
            f"`{name}` must map images [B, 3, {size}, {size}] to features [B, D], but failed on "
            f"two of them ({reason}); check `model.preprocessing.size` and the network."
        ) from error
    if not isinstance(output, Tensor):
        description, remedy = f"a {type(output).__name__}", "return one tensor"
    elif output.ndim != 2 or len(output) != 2 or not output.is_floating_point():
        description = f"a tensor {['B', *output.shape[1:]]} of {output.dtype} for B = {len(images)}"
        if output.ndim == 0 or len(output) != 2:
            description = f"a tensor of shape {list(output.shape)} for B = {len(images)}"
        remedy = "pool or flatten it" if output.ndim > 2 else "return one row per image"
    else:
        return int(output.shape[1])
    raise ValueError(
        f"`{name}` must map images [B, 3, H, W] to floating-point features [B, D], but returned "
        f"{description}; {remedy}."
    )


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Put every layer in eval mode, then back into the mode it had."""
    modes = [(layer, layer.training) for module in modules for layer in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training
