"""Convert the names in the small networks of ssl-small and SEED to torchvision's and timm's.

Their EfficientNet is that of lukemelas, whose names other published files have, too.
"""

import re
from collections.abc import Callable

from torch import Tensor

from ssl_transfer.models.reading import State

Renamed = tuple[str, Tensor]


def usual_names(state: State) -> State:
    """Return an encoder under the names of ``small_network(…, variant="ssl_small")``, or timm's.

    Networks of other kinds, the ResNets among them, keep their names.
    """
    for mark, rename in (
        ("features.1.conv.0.weight", _mobilenet(state)),
        ("_conv_stem.weight", _efficientnet(state)),
        ("to_patch_embedding.1.weight", _vit),
    ):
        if mark in state:
            return dict(rename(name, tensor) for name, tensor in state.items())
    return state


# ---- MobileNetV3 (architectures/mobilenet/mobilenetv3.py) ---------------------------------------

_MOBILE = re.compile(
    r"features\.(?P<block>\d+)\.conv\.(?P<layer>\d+(?:\.fc\.\d+)?)\.(?P<kind>\w+)$"
)
# Places of a block's layers: place in their list -> place in torchvision's list, for a block with
# squeeze-and-excitation.
_EXPANDING = {
    "0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "7": "3.0", "8": "3.1",
    "5.fc.0": "2.squeeze.fc1", "5.fc.2": "2.squeeze.fc2",
}  # fmt: skip
_PLAIN = {"0": "0.0", "1": "0.1", "4": "2.0", "5": "2.1", "3.fc.0": "1.fc1", "3.fc.2": "1.fc2"}
# Change of torchvision's places in a block without squeeze-and-excitation.
_UNSQUEEZED = {"3.0": "2.0", "3.1": "2.1"}, {"2.0": "1.0", "2.1": "1.1"}


def _mobilenet(state: State) -> Callable[[str, Tensor], Renamed]:
    """Return the renaming of one state dict; a layer's name depends on the others in its block."""
    matches = [match for name in state if (match := _MOBILE.match(name))]
    blocks = {match["block"] for match in matches}
    expanding = {match["block"] for match in matches if match["layer"] in ("7", "8")}
    squeezed = {match["block"] for match in matches if ".fc." in match["layer"]}

    def rename(name: str, tensor: Tensor) -> Renamed:
        if name.startswith("conv."):  # the convolution before pooling
            return f"features.{len(blocks) + 1}.{name.removeprefix('conv.')}", tensor
        match = _MOBILE.match(name)
        if match is None:
            return name, tensor
        expands = match["block"] in expanding
        layer = (_EXPANDING if expands else _PLAIN).get(match["layer"], match["layer"])
        if match["block"] not in squeezed:
            layer = _UNSQUEEZED[0 if expands else 1].get(layer, layer)
        if ".fc." in match["layer"] and tensor.ndim == 2:  # a linear layer is a 1x1 convolution
            tensor = tensor[:, :, None, None]
        return f"features.{match['block']}.block.{layer}.{match['kind']}", tensor

    return rename


# ---- EfficientNet (efficientnet_pytorch/model.py of lukemelas/EfficientNet-PyTorch) -------------

_EFFICIENT = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
              "_fc": "classifier"}  # fmt: skip
_SEPARABLE = {
    "_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2",
    "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand",
}  # fmt: skip
_INVERTED = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
    "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand",
}  # fmt: skip


def _efficientnet(state: State) -> Callable[[str, Tensor], Renamed]:
    """Return the renaming of one state dict, in which all blocks are one list.

    A stage of the network, which is a list of its own in timm, starts where the number of channels
    changes.
    """
    places: dict[str, tuple[int, int]] = {}
    stage, block, channels = -1, 0, 0
    while (tensor := state.get(f"_blocks.{len(places)}._project_conv.weight")) is not None:
        if len(tensor) != channels:
            stage, block, channels = stage + 1, 0, len(tensor)
        places[str(len(places))] = stage, block
        block += 1

    def rename(name: str, tensor: Tensor) -> Renamed:
        layer, _, rest = name.partition(".")
        if layer != "_blocks":
            return f"{_EFFICIENT.get(layer, layer)}.{rest}", tensor
        number, _, rest = rest.partition(".")
        if number not in places:
            return name, tensor
        stage, block = places[number]
        layer, _, rest = rest.partition(".")
        expands = f"_blocks.{number}._expand_conv.weight" in state
        layers = _INVERTED if expands else _SEPARABLE
        return f"blocks.{stage}.{block}.{layers.get(layer, layer)}.{rest}", tensor

    return rename


# ---- ViT-Tiny (architectures/vits/deit.py) ------------------------------------------------------

_VIT = {"pos_embedding": "pos_embed", "cls_token": "cls_token",
        "to_patch_embedding.1.bias": "patch_embed.proj.bias"}  # fmt: skip
_VIT_LAYERS = {
    "0.norm": "norm1", "0.fn.to_qkv": "attn.qkv", "0.fn.to_out.0": "attn.proj",
    "1.norm": "norm2", "1.fn.net.0": "mlp.fc1", "1.fn.net.3": "mlp.fc2",
}  # fmt: skip


def _vit(name: str, tensor: Tensor) -> Renamed:
    if name == "to_patch_embedding.1.weight" and tensor.shape[1:] == (16 * 16 * 3,):
        # Convert the linear layer on a patch's height, width and channels to a convolution.
        kernel = tensor.reshape(-1, 16, 16, 3).permute(0, 3, 1, 2).contiguous()
        return "patch_embed.proj.weight", kernel
    if name in _VIT:
        return _VIT[name], tensor
    parts = name.split(".")
    if name.startswith("transformer.layers."):
        layer, kind = ".".join(parts[3:-1]), parts[-1]
        return f"blocks.{parts[2]}.{_VIT_LAYERS.get(layer, layer)}.{kind}", tensor
    if name.startswith("mlp_head.0."):
        return f"norm.{parts[-1]}", tensor
    return name, tensor
