"""Small networks by name, as in the libraries or as in ssl-small and SEED.

The networks of WOWNICE/ssl-small and jacobswan1/SEED have usual names but differ from the usual
networks; ``variant=ssl_small`` builds them for their published weights.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, get_args

from jaxtyping import Float
from timm.layers.attention import Attention
from torch import Tensor, nn
from torchvision.models.mobilenetv3 import InvertedResidual
from torchvision.ops import SqueezeExcitation

from ssl_transfer.models.backbones import timm_backbone, torchvision_backbone
from ssl_transfer.preprocessing import Preprocessing

Variant = Literal["ssl_small"]
Options = Mapping[str, Any]


def small_network(
    arch: str, variant: Variant | None = None, options: Options | None = None
) -> nn.Module:
    """Return a small network without its classifier.

    Args:
        arch: ``mobilenet_v3_small``, ``mobilenet_v3_large``, ``efficientnet_b0`` or ``vit_tiny``.
        variant: ``None``: torchvision's network; for ``vit_tiny``, DeiT-Tiny of timm.
            ``ssl_small``: the network in ssl-small's ``architectures/``.
        options: further keyword arguments of the library's builder, e.g. its dropout.

    Raises:
        ValueError: for an unknown name, variant or option.
    """
    if arch not in _NETWORKS:
        raise ValueError(f"`model.arch` must be one of {list(_NETWORKS)}, but is {arch!r}.")
    if variant not in (None, *get_args(Variant)):
        raise ValueError(f"`model.variant` must be null or 'ssl_small', but is {variant!r}.")
    if variant is None:
        return _NETWORKS[arch][0](options or {})
    module = _NETWORKS[arch][1](options or {})
    # The preprocessing of ssl-small's main_lincls.py for all its networks.
    module.preprocessing = Preprocessing()  # type: ignore[assignment]
    return module


def _torchvision(arch: str, options: Options) -> nn.Module:
    return torchvision_backbone(arch, options=options)


def _ssl_small_mobilenet(arch: str, options: Options) -> nn.Module:
    """Return the MobileNetV3 with squeeze-and-excitation before the activation.

    Its expanding blocks rescale channels between BatchNorm and activation (architectures/mobilenet/
    mobilenetv3.py), torchvision's after both; its BatchNorms use torch's default epsilon and
    momentum.
    """
    usual = {"norm_layer": nn.BatchNorm2d}
    net = torchvision_backbone(arch, options={**usual, **options})
    for block in [m for m in net.modules() if isinstance(m, InvertedResidual)]:
        layers = block.block
        if len(layers) == 4:  # expansion, depthwise convolution, squeeze-and-excitation, projection
            layers[2] = _SqueezeThenActivate(layers[2], layers[1][2])
            layers[1][2] = nn.Identity()
    for squeeze in [m for m in net.modules() if isinstance(m, SqueezeExcitation)]:
        for layer in (squeeze.fc1, squeeze.fc2):  # initialised as the linear layers of ssl-small
            nn.init.normal_(layer.weight, std=0.01)
    return net


class _SqueezeThenActivate(nn.Module):
    """Squeeze-and-excitation followed by the activation.

    Its weights' names have one more level than torchvision's, so that neither network accepts the
    other's weights.
    """

    def __init__(self, squeeze: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.squeeze, self.activation = squeeze, activation

    def forward(
        self, maps: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        activated: Tensor = self.activation(self.squeeze(maps))
        return activated


def _ssl_small_efficientnet(options: Options) -> nn.Module:
    """Return lukemelas' EfficientNet-B0 with TensorFlow's padding, BatchNorm and drop-connect."""
    usual = {"drop_rate": 0.2, "drop_path_rate": 0.2, "bn_momentum": 0.01}
    net = timm_backbone("tf_efficientnet_b0", options={**usual, **options})
    _initialise_as_torch(net)
    return net


class _WideHeads(Attention):
    """Attention with heads of 64 dimensions for every width (architectures/vits/deit.py)."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "attn_head_dim": 64})


def _ssl_small_vit(options: Options) -> nn.Module:
    """Return the ViT-Tiny of ssl-small, with 6 heads of 64 dimensions (DeiT-Tiny has 3).

    The patch embedding keeps its random initial weights, as in MoCo v3; positions and class token
    are initialised with standard deviation 1 (timm: 0.02).
    """
    theirs = {
        "num_heads": 6, "attn_layer": _WideHeads, "qkv_bias": False,
        "norm_layer": partial(nn.LayerNorm, eps=1e-5), "pos_drop_rate": 0.1, "proj_drop_rate": 0.1,
    }  # fmt: skip
    net = timm_backbone("deit_tiny_patch16_224", options={**theirs, **options})
    net.get_submodule("patch_embed").requires_grad_(False)
    _initialise_as_torch(net)
    for name in ("pos_embed", "cls_token"):
        nn.init.normal_(net.get_parameter(name))
    return net


def _initialise_as_torch(net: nn.Module) -> None:
    """Reset the initial weights of convolutions and linear layers to torch's default."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.reset_parameters()


_Builder = Callable[[Options], nn.Module]
_NETWORKS: dict[str, tuple[_Builder, _Builder]] = {
    **{
        arch: (partial(_torchvision, arch), partial(_ssl_small_mobilenet, arch))
        for arch in ("mobilenet_v3_small", "mobilenet_v3_large")
    },
    "efficientnet_b0": (partial(_torchvision, "efficientnet_b0"), _ssl_small_efficientnet),
    "vit_tiny": (
        lambda options: timm_backbone("deit_tiny_patch16_224", options=options),
        _ssl_small_vit,
    ),
}
