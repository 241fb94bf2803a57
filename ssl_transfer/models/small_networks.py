"""Small networks by name, as the libraries have them or as ssl-small and SEED train them.

The published networks of WOWNICE/ssl-small and jacobswan1/SEED bear usual names but compute
something else; ``variant=ssl_small`` is theirs, for their weights.
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
        variant: ``None``: torchvision's; of ``vit_tiny`` DeiT-Tiny, which is timm's. ``ssl_small``:
            as ssl-small's ``architectures/`` have it.
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
    # As ssl-small's main_lincls.py prepares the images of all its networks.
    module.preprocessing = Preprocessing()  # type: ignore[assignment]
    return module


def _torchvision(arch: str, options: Options) -> nn.Module:
    return torchvision_backbone(arch, options=options)


def _ssl_small_mobilenet(arch: str, options: Options) -> nn.Module:
    """Return the MobileNetV3 that multiplies before it activates.

    Its expanding blocks rescale channels between BatchNorm and activation (architectures/mobilenet/
    mobilenetv3.py), torchvision's after both; its BatchNorms have torch's own epsilon and momentum.
    """
    usual = {"norm_layer": nn.BatchNorm2d}
    net = torchvision_backbone(arch, options={**usual, **options})
    for block in [m for m in net.modules() if isinstance(m, InvertedResidual)]:
        layers = block.block
        if len(layers) == 4:  # expansion, depthwise convolution, squeeze-and-excitation, projection
            layers[2] = _SqueezeThenActivate(layers[2], layers[1][2])
            layers[1][2] = nn.Identity()
    for squeeze in [m for m in net.modules() if isinstance(m, SqueezeExcitation)]:
        for layer in (squeeze.fc1, squeeze.fc2):  # linear layers there, and initialised as such
            nn.init.normal_(layer.weight, std=0.01)
    return net


class _SqueezeThenActivate(nn.Module):
    """Squeeze-and-excitation with the activation behind it.

    Its weights stand one name deeper than torchvision's, so that neither network takes the other's.
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
    """Return lukemelas' EfficientNet-B0: TensorFlow's padding, BatchNorm and drop-connect."""
    usual = {"drop_rate": 0.2, "drop_path_rate": 0.2, "bn_momentum": 0.01}
    net = timm_backbone("tf_efficientnet_b0", options={**usual, **options})
    _initialise_as_torch(net)
    return net


class _WideHeads(Attention):
    """Attention with heads of 64 whatever the width (architectures/vits/deit.py)."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "attn_head_dim": 64})


def _ssl_small_vit(options: Options) -> nn.Module:
    """Return what ssl-small calls ViT-Tiny, with 6 heads of 64 for DeiT-Tiny's 3.

    Its patches are embedded by what they were at random, as in MoCo v3; its positions and its class
    token start with the deviation 1, where timm's start with 0.02.
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
    """Give convolutions and linear layers the framework's initial weights for the library's."""
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
