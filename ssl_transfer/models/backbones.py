"""Backbones of torchvision and timm by name, without their classifiers."""

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ssl_transfer.models.transformers_backbone import transformers_backbone
from ssl_transfer.models.widened_resnet import widened_resnet
from ssl_transfer.preprocessing import Interpolation, Preprocessing
from ssl_transfer.system import hub

Stem = Literal["imagenet", "cifar", "tiny", "cifar_pad2", "small"]
StemInit = Literal["torch"]
Padding = Literal["torchvision", "same"]

STEMS: dict[str, tuple[int, bool]] = {
    "imagenet": (3, True),
    "cifar": (1, False),
    "tiny": (1, True),
    "cifar_pad2": (2, False),
    "small": (1, False),
}
"""Padding of a ResNet's first convolution, and whether max-pooling follows.

``imagenet``: 7x7 with stride 2 (He et al. 2016, table 1). All others are 3x3 with stride 1.
``cifar``: without pooling, as SimCLR uses it on CIFAR (Chen et al. 2020, appendix B.9,
https://arxiv.org/abs/2002.05709); ``small`` is an older name of it, which occurs in the ids of
runs. ``tiny``: with 3x3 pooling of stride 2, on the 64 px of Tiny ImageNet and STL-10 (model.py of
htdt/self-supervised and wgcban/mix-bt). ``cifar_pad2``: as ``cifar``, but padded by 2, which makes
maps of 34 x 34 pixels from images of 32 (solo/methods/base.py of vturrisi/solo-learn).
"""


def torchvision_backbone(
    arch: str, pretrained: bool | str = False, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """Return a classification model of torchvision without its last layer.

    Only the layer that computes the logits is removed: VGG keeps its two hidden layers of 4,096,
    and MobileNet-v3 its hidden layer. The attribute ``preprocessing`` is that of torchvision's
    default weights for the model.

    Args:
        arch: e.g. ``efficientnet_b0``.
        pretrained: whether to download weights; or their name, e.g. ``IMAGENET1K_V1``.
        options: further keyword arguments of torchvision's builder.

    Raises:
        ValueError: for an unknown name or option, and if the download fails.
    """
    from torchvision import models

    # Remove their auxiliary classifiers, too. Setting the slow published initialisation explicitly
    # silences a warning.
    auxiliary = arch in ("googlenet", "inception_v3")
    known = models.list_models(module=models)
    if arch not in known:
        raise ValueError(_unknown_arch("torchvision", arch, known))
    weights = None if not pretrained else "DEFAULT" if pretrained is True else pretrained
    keys = {"init_weights": True} if auxiliary and weights is None else {}
    with _explained(arch, pretrained):
        module: nn.Module = models.get_model(arch, weights=weights, **{**keys, **(options or {})})
    if auxiliary:
        for name in {"aux1", "aux2", "AuxLogits"} & dict(module.named_children()).keys():
            setattr(module, name, None)
        module.aux_logits = False  # type: ignore[assignment]
    _remove_classifier(module, arch)
    preprocessing = _torchvision_preprocessing(arch, weights or "DEFAULT")
    _attach(module, preprocessing.at_size((options or {}).get("image_size")))
    return module


def torchvision_resnet(
    arch: str,
    stem: Stem = "imagenet",
    pretrained: bool | str = False,
    padding: Padding = "torchvision",
    zero_init_residual: bool = False,
    stem_init: StemInit | None = None,
) -> nn.Module:
    """Return a ResNet of torchvision without its classifier.

    Args:
        arch: e.g. ``resnet50``; widened as a whole ``resnet50w2``, ``resnet18w3``, ….
        stem: a key of ``STEMS``.
        pretrained: as in ``torchvision_backbone``; only for the ``imagenet`` stem.
        padding: padding of layers with stride 2. ``torchvision``: equal on both sides. ``same``:
            the ``SAME`` padding of JAX and TensorFlow, the smallest that gives ``ceil(size / 2)``,
            with an odd pixel at the right and at the bottom; BYOL's published network uses it.
        zero_init_residual: whether the last BatchNorm of every block starts at zero, so that the
            block starts as the identity (Goyal et al. 2017, section 5.1,
            https://arxiv.org/abs/1706.02677).
        stem_init: initialisation of a 3x3 stem. ``None``: the one of torchvision's other
            convolutions, normal with the variance of the fan-out. ``torch``: the framework's
            default, uniform with the variance of the fan-in, which published code uses for a
            replaced convolution.

    Raises:
        ValueError: for an unknown name, or for a stem without pre-trained weights.
    """
    if stem not in STEMS:
        raise ValueError(f"`model.stem` must be one of {list(STEMS)}, but is {stem!r}.")
    if stem != "imagenet" and pretrained:
        raise ValueError(
            f"`model.pretrained` weights have a 7x7 stem, but `model.stem` is {stem}; set "
            "`model.stem=imagenet`, or `model.pretrained=false`."
        )
    if stem_init not in (None, "torch"):
        raise ValueError(f"`model.stem_init` must be null or 'torch', but is {stem_init!r}.")
    module = _any_resnet(arch, pretrained, zero_init_residual)
    if stem != "imagenet":
        _shrink_stem(module, stem, stem_init)
    module.stem = stem  # type: ignore[assignment]  # `load_weights` refuses those of another stem
    if padding == "same":
        pad_same(module)
    elif padding != "torchvision":
        raise ValueError(
            f"`model.padding` must be one of {list(get_args(Padding))}, but is {padding!r}."
        )
    return module


def _any_resnet(arch: str, pretrained: bool | str, zero_init_residual: bool) -> nn.Module:
    module: nn.Module | None = widened_resnet(arch, zero_init_residual)
    if module is None:
        options = {"zero_init_residual": True} if zero_init_residual else None
        module = torchvision_backbone(arch, pretrained, options)
    elif pretrained:
        raise ValueError(
            f"`model.pretrained` weights exist for torchvision's own widths, but `model.arch` is "
            f"{arch!r}; set `model.pretrained=false`, and give a file by `model.weights.path`."
        )
    else:
        _remove_classifier(module, arch)
    if not isinstance(getattr(module, "conv1", None), nn.Conv2d) or not hasattr(module, "maxpool"):
        raise ValueError(
            f"`model.arch` must be a ResNet, but is {arch!r}; use `model=torchvision` for others."
        )
    return module


def _shrink_stem(module: nn.Module, stem: str, init: str | None) -> None:
    """Replace a ResNet's first convolution by one of 3x3, and its max-pooling as ``stem`` says."""
    padding, pools = STEMS[stem]
    width = module.get_parameter("conv1.weight").shape[0]
    conv1 = nn.Conv2d(3, width, kernel_size=3, stride=1, padding=padding, bias=False)
    if init is None:
        nn.init.kaiming_normal_(conv1.weight, mode="fan_out", nonlinearity="relu")
    module.conv1 = conv1
    if not pools:
        module.maxpool = nn.Identity()


class SameConv2d(nn.Conv2d):
    """A strided convolution with the ``SAME`` padding of JAX and TensorFlow."""

    def forward(self, input: Tensor) -> Tensor:
        """Return ``ceil(size / stride)`` pixels per axis."""
        return super().forward(_padded(input, self.kernel_size, self.stride, 0.0))


class SameMaxPool2d(nn.Module):
    """Max-pooling with ``SAME`` padding, by values that are never the maximum."""

    def __init__(self, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, input: Tensor) -> Tensor:
        """Return ``ceil(size / stride)`` pixels per axis."""
        sizes, strides = (self.kernel_size,) * 2, (self.stride,) * 2
        padded = _padded(input, sizes, strides, -math.inf)
        return nn.functional.max_pool2d(padded, self.kernel_size, self.stride)


def _padded(
    input: Tensor, kernel_size: Sequence[int], stride: Sequence[int], value: float
) -> Tensor:
    # The rule of `SAME`: https://www.tensorflow.org/api_docs/python/tf/nn#same_padding
    sides: list[int] = []
    for size, kernel, step in zip(input.shape[:1:-1], kernel_size[::-1], stride[::-1], strict=True):
        total = max((math.ceil(size / step) - 1) * step + kernel - size, 0)
        sides += [total // 2, total - total // 2]
    return nn.functional.pad(input, sides, value=value)


def pad_same(module: nn.Module) -> None:
    """Give a ResNet's strided layers ``SAME`` padding, in place; the weights do not change.

    Layers without stride stay the same: for odd kernels both rules give equal padding.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.MaxPool2d):
            setattr(module, name, SameMaxPool2d(_one(child.kernel_size), _one(child.stride)))
        elif isinstance(child, nn.Conv2d) and _one(child.stride) > 1:
            same = SameConv2d(
                child.in_channels, child.out_channels, _one(child.kernel_size), _one(child.stride),
                groups=child.groups, bias=child.bias is not None, device="meta",
            )  # fmt: skip
            same.weight, same.bias = child.weight, child.bias
            setattr(module, name, same)
        else:
            pad_same(child)


def _one(lengths: int | Sequence[int]) -> int:
    """Return the common length of both axes."""
    return lengths if isinstance(lengths, int) else int(lengths[0])


def timm_backbone(
    arch: str, pretrained: bool = False, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """Return a model of timm that ends in its pooled features (``num_classes=0``).

    The attribute ``preprocessing`` comes from timm's configuration of the weights.

    Args:
        arch: e.g. ``vit_base_patch16_224.dino``; or ``local-dir:FOLDER``, a folder of the Hugging
            Face hub that timm or transformers wrote. ``models.build`` loads the weights in it, and
            fetches the folder of ``hf-hub:OWNER/NAME``.
        pretrained: whether to download the weights.
        options: further keyword arguments of ``timm.create_model``, e.g. ``img_size``.

    Raises:
        ValueError: for an unknown name or option, and if the download fails.
    """
    import timm

    if arch.startswith(hub.LOCAL):
        config = hub.config_in(Path(arch.removeprefix(hub.LOCAL)).expanduser())
        if "architecture" not in config:
            _refuse_options(arch, options)
            return transformers_backbone(config)
        arch = f"{hub.LOCAL}{Path(arch.removeprefix(hub.LOCAL)).expanduser()}"
    elif not timm.is_model(arch):
        raise ValueError(_unknown_arch("timm", arch, timm.list_models()))
    widths = _WidthsOnCPU() if arch.startswith("regnet") else nullcontext()
    with _explained(arch, pretrained), widths:
        module: nn.Module = timm.create_model(
            arch, pretrained=pretrained, **{"num_classes": 0, **(options or {})}
        )
    preprocessing = timm_preprocessing(module)
    _attach(module, preprocessing.at_size((options or {}).get("img_size")))
    return module


class _WidthsOnCPU(TorchFunctionMode):
    """Makes ranges and tensors from lists on the CPU, also where the default device is ``meta``.

    timm before 1.0.30 computes the widths and depths of a RegNet's stages by such tensors, but
    those on ``meta`` have no values.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call a function of torch."""
        kwargs = dict(kwargs or {})
        if function is torch.arange or (function is torch.tensor and isinstance(args[0], list)):
            kwargs.setdefault("device", "cpu")
        return function(*args, **kwargs)


def _refuse_options(arch: str, options: Mapping[str, Any] | None) -> None:
    if options:
        raise ValueError(
            f"`model.options` must be null for `{arch}`, whose config.json describes the whole "
            f"network, but is {dict(options)}; remove it."
        )


def timm_preprocessing(module: nn.Module) -> Preprocessing:
    """Return the preprocessing in the configuration of a timm model.

    The crop is always taken from the centre; timm's rare ``squash`` and ``border`` crops are not
    supported.

    Raises:
        ValueError: if the model's images are not square, or interpolated in an unknown way.
    """
    from timm.data.config import resolve_data_config

    resolve: Any = resolve_data_config
    config = resolve({}, model=module)
    _, height, width = config["input_size"]
    if height != width:
        raise ValueError(
            f"Images must be square, but timm's model expects {height} x {width} pixels; give "
            "`model.preprocessing` with a size that it accepts."
        )
    # timm's rule for the length of the shorter side.
    resize = math.floor(height / config["crop_pct"])
    mean, std = tuple(config["mean"]), tuple(config["std"])  # lists from a file of the hub
    return Preprocessing(height, resize, config["interpolation"], mean, std)


def _torchvision_preprocessing(arch: str, weights: str) -> Preprocessing:
    from torchvision.models import get_model_weights

    transform = get_model_weights(arch)[weights].transforms()
    interpolation: Interpolation = transform.interpolation.value
    size, resize = _side(transform.crop_size), _side(transform.resize_size)
    return Preprocessing(size, resize, interpolation, tuple(transform.mean), tuple(transform.std))


def _attach(module: nn.Module, preprocessing: Preprocessing) -> None:
    """Store the preprocessing in the attribute that ``wrap`` reads."""
    module.preprocessing = preprocessing  # type: ignore[assignment]


def _side(lengths: Sequence[int]) -> int:
    return int(lengths[0])


def _remove_classifier(module: nn.Module, arch: str) -> None:
    """Replace the layer that computes the logits by the identity.

    This is the last linear layer (SqueezeNet: convolution) of the child module with one of
    torchvision's names for a classifier.
    """
    for name in ("fc", "classifier", "heads", "head"):
        child = getattr(module, name, None)
        if not isinstance(child, nn.Module):
            continue
        paths = [p for p, m in child.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        if paths:
            path = f"{name}.{paths[-1]}".rstrip(".")
            parent, _, last = path.rpartition(".")
            setattr(module.get_submodule(parent), last, nn.Identity())
            return
    raise ValueError(
        f"A classifier must be found in torchvision's `{arch}` to be removed, but none of fc, "
        "classifier, heads, head has a linear layer; wrap the model by `model=custom`."
    )


def _unknown_arch(library: str, arch: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(arch.split(".")[0], known, n=8, cutoff=0.5)
    names = close or known
    words = "close ones are" if close else "known are" if len(known) < 100 else "examples are"
    shown = ", ".join(names[:100] if len(names) < 100 else names[:: len(names) // 20])
    return (
        f"`model.arch` must be a classification model of {library}, but is {arch!r}; "
        f"{words} {shown}."
    )


@contextmanager
def _explained(arch: str, pretrained: bool | str) -> Iterator[None]:
    """Turn every exception that a library's builder raises into a ``ValueError`` with a remedy."""
    try:
        yield
    except Exception as error:  # downloads fail with unrelated exceptions of several libraries
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        if pretrained:
            raise ValueError(
                f"The pre-trained weights of `{arch}` must be downloadable or cached, but "
                f"{type(error).__name__} says {reason!r}; fetch the file elsewhere and give it by "
                "`model.weights.path` with `model.pretrained=false`."
            ) from error
        raise ValueError(
            f"`{arch}` must be built with `model.options`, but its builder refuses them "
            f"({reason}); correct or remove them."
        ) from error
