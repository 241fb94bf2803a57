"""Layouts of published checkpoints: one function each converts a file's names to the encoder's.

Each function cites the code that wrote or read such files, which defines the names. To add a
layout, write the function and its entry in ``LAYOUTS``: ``layout=auto`` then tries it, too.
"""

import re
from collections.abc import Callable

import torch
from torch import Tensor

from ssl_transfer.models.reading import State
from ssl_transfer.models.small_network_names import usual_names


def below(prefix: str, state: State) -> State:
    """Return the tensors whose names start with ``prefix``, and remove it from their names."""
    return {n.removeprefix(prefix): tensor for n, tensor in state.items() if n.startswith(prefix)}


def plain(state: State) -> State:
    """Return a state dict that has the encoder's own names: torchvision's, timm's or ours.

    Barlow Twins, DINO's ResNet-50 and SimCLR v1 (converted by ``tonylins/simclr-converter``) are
    also published in this layout.
    """
    return state


def moco(state: State) -> State:
    """Return the query encoder of MoCo v1, v2 (``main_lincls.py``) and PCL (``pcl/builder.py``).

    linusericsson/ssl-invariances and WOWNICE/ssl-small (``util.py``) use the same names. The
    networks of the latter have layer names of its own; files converted from SEED's hold both.
    """
    return usual_names(below("module.encoder_q.", state))


def seed(state: State) -> State:
    """Return the student of SEED (``seed/builder.py`` of jacobswan1/SEED)."""
    return usual_names(below("module.student.", state))


def efficientnet_pytorch(state: State) -> State:
    """Return timm's tensors of an EfficientNet of lukemelas/EfficientNet-PyTorch (``model.py``).

    ml-illustrated/EfficientNet-Lite-PyTorch uses the same names.
    """
    return usual_names(state) if "_conv_stem.weight" in state else {}


def pycontrast(state: State) -> State:
    """Return the encoder of InsDis, PIRL and InfoMin (PyContrast, ``build_backbone.py``)."""
    return below("module.encoder.", state)


def swav(state: State) -> State:
    """Return the encoder of SwAV, DeepCluster-v2 and SeLa-v2 (``hubconf.py`` of SwAV's code)."""
    return below("module.", state)


def mmselfsup(state: State) -> State:
    """Return the backbone of an OpenMMLab model, whose tools may add up to two prefixes."""
    state = below("module.", state) or state
    return below("backbone.", state) or state


def barlow_twins(state: State) -> State:
    """Return the backbone of Barlow Twins' training checkpoints (``main.py``).

    Checkpoints of Mixed Barlow Twins on ImageNet (``main_imagenet.py``) have the same names.
    """
    return below("module.backbone.", state)


def mix_bt_cifar(state: State) -> State:
    """Return the encoder of Mixed Barlow Twins on CIFAR (``model.py`` of wgcban/mix-bt).

    The file is a list of a ResNet's children without max-pooling, as in yaohungt/Barlow-Twins-HSIC.
    The package thop added the entries ``total_ops`` and ``total_params``.
    """
    return _from_children(below("f.", state), first_stage=3)


def mix_bt_tiny(state: State) -> State:
    """Return the encoder of Mixed Barlow Twins on Tiny ImageNet or STL-10, with max-pooling."""
    return _from_children(below("f.", state), first_stage=4)


def _from_children(state: State, first_stage: int) -> State:
    """Return a ResNet that was saved as a list of its children."""
    names = {"0": "conv1", "1": "bn1"}
    names |= {str(first_stage + i): f"layer{i + 1}" for i in range(4)}
    renamed: State = {}
    for name, tensor in state.items():
        place, _, rest = name.partition(".")
        if not name.endswith(("total_ops", "total_params")):
            renamed[f"{names.get(place, place)}.{rest}"] = tensor
    return renamed


def ssl_sota(state: State) -> State:
    """Return the encoder of W-MSE, BYOL or SimCLR of htdt/self-supervised (``methods/base.py``).

    The copy in the folder ``ssl-sota`` of wgcban/mix-bt is the same.
    """
    return below("model.module.", state)


def solo_learn(state: State) -> State:
    """Return the backbone of solo-learn (``solo/methods/base.py``), formerly ``encoder.``."""
    return below("backbone.", state) or below("encoder.", state)


def lightly(state: State) -> State:
    """Return the backbone of lightly's benchmark on ImageNet (``benchmarks/imagenet/resnet50``).

    Its examples (``examples/pytorch_lightning``) save a list of torchvision's children.
    """
    backbone = below("backbone.", state)
    return _from_children(backbone, first_stage=4) if "0.weight" in backbone else backbone


_SIMCLR_V2_STEM = re.compile(r"net\.0\.(?:0|1\.0)\.(\w+)$")
_SIMCLR_V2_BLOCK = re.compile(r"net\.(\d)\.blocks\.(\d+)\.(?:net\.(\d)|projection\.(\w+))\.(.+)$")


def simclr_v2(state: State) -> State:
    """Return the encoder of SimCLR v2 as ``Separius/SimCLRv2-Pytorch`` converts it.

    Each of its blocks is one list with convolutions at even and BatchNorms at odd places; each
    BatchNorm is in a further list with the layers that follow it.
    """
    return {_from_simclr_v2(name): tensor for name, tensor in state.items()}


def _from_simclr_v2(name: str) -> str:
    if stem := _SIMCLR_V2_STEM.match(name):
        return f"{'bn1' if '.1.0.' in name else 'conv1'}.{stem[1]}"
    match = _SIMCLR_V2_BLOCK.match(name)
    if match is None:
        return name
    stage, block, place, shortcut, rest = match.groups()
    if shortcut:
        layer = {"shortcut": "downsample.0", "bn": "downsample.1"}.get(shortcut, shortcut)
        is_norm = shortcut == "bn"
    else:
        is_norm = int(place) % 2 == 1
        layer = f"{'bn' if is_norm else 'conv'}{int(place) // 2 + 1}"
    return f"layer{stage}.{block}.{layer}.{rest.removeprefix('0.') if is_norm else rest}"


_HAIKU = re.compile(
    r".*online_(?:params|state)\.(?:\w+/~/)?"
    r"(?:initial_|block_group_(?P<stage>\d)/~/block_(?P<block>\d+)/~/(?P<shortcut>shortcut_)?)"
    r"(?P<kind>conv|batchnorm)(?:_(?P<number>\d))?(?:/~/(?P<moment>mean|var)_ema)?\."
    r"(?P<array>w|scale|offset|average)$"
)
_HAIKU_ARRAYS = {"w": "weight", "scale": "weight", "offset": "bias"}


def byol(state: State) -> State:
    """Return the online encoder of BYOL's Haiku arrays (``byol/utils/networks.py``).

    The axes of convolutions are permuted from height, width, in, out to out, in, height, width;
    BatchNorm's arrays lose their axes of length 1. The network needs ``model.padding=same``.
    """
    renamed: State = {}
    for name, tensor in state.items():
        match = _HAIKU.match(name)
        if match is None:
            continue
        layer = _from_haiku(match)
        if match["array"] == "w":
            renamed[f"{layer}.weight"] = tensor.permute(3, 2, 0, 1).contiguous()
        elif match["moment"]:
            renamed[f"{layer}.running_{match['moment']}"] = tensor.reshape(-1)
        else:
            renamed[f"{layer}.{_HAIKU_ARRAYS[match['array']]}"] = tensor.reshape(-1)
    return renamed


def _from_haiku(match: re.Match[str]) -> str:
    is_norm = match["kind"] == "batchnorm"
    if match["stage"] is None:
        return "bn1" if is_norm else "conv1"
    block = f"layer{int(match['stage']) + 1}.{match['block']}"
    if match["shortcut"]:
        return f"{block}.downsample.{int(is_norm)}"
    return f"{block}.{'bn' if is_norm else 'conv'}{int(match['number']) + 1}"


def vit_jax(state: State) -> State:
    """Return timm's tensors of a vision transformer of google-research/vision_transformer.

    The file is a numpy archive; names and axes as in ``vit_jax/models_vit.py`` there. A head that
    follows ``pre_logits`` is left out, because the encoder's features lack that layer.
    """
    if "embedding/kernel" not in state:
        return {}
    converted: State = {"cls_token": state["cls"]} if "cls" in state else {}
    has_pre_logits = "pre_logits/kernel" in state
    for name, tensor in state.items():
        if match := _VIT_BLOCK.fullmatch(name):
            converted |= _vit_block(match, name, tensor, state)
        elif name in _VIT_NAMES and not (has_pre_logits and name.startswith("head/")):
            converted[_VIT_NAMES[name]] = _torch_axes(tensor)
        elif name != "cls" and not name.startswith(("pre_logits/", "head/")):
            converted[name] = tensor
    return converted


_VIT_NAMES = {
    "embedding/kernel": "patch_embed.proj.weight",
    "embedding/bias": "patch_embed.proj.bias",
    "Transformer/posembed_input/pos_embedding": "pos_embed",
    "Transformer/encoder_norm/scale": "norm.weight",
    "Transformer/encoder_norm/bias": "norm.bias",
    "head/kernel": "head.weight",
    "head/bias": "head.bias",
}
_VIT_BLOCK = re.compile(r"Transformer/encoderblock_(\d+)/(.+)/(kernel|bias|scale)")
_VIT_LAYERS = {
    "LayerNorm_0": "norm1",
    "LayerNorm_2": "norm2",
    "MlpBlock_3/Dense_0": "mlp.fc1",
    "MlpBlock_3/Dense_1": "mlp.fc2",
}
_ATTENTION = "MultiHeadDotProductAttention_1"


def _torch_axes(tensor: Tensor) -> Tensor:
    """Return a kernel with torch's order of axes: outputs first; other tensors are unchanged."""
    axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(tensor.ndim)
    return tensor if axes is None else tensor.permute(axes).contiguous()


def _vit_block(match: re.Match[str], name: str, tensor: Tensor, state: State) -> State:
    """Return timm's tensors for one tensor of a block; query, key and value are one in timm."""
    number, layer, kind = match.groups()
    block, leaf = f"blocks.{number}", "bias" if kind == "bias" else "weight"
    if layer in _VIT_LAYERS:
        return {f"{block}.{_VIT_LAYERS[layer]}.{leaf}": _torch_axes(tensor)}
    if layer == f"{_ATTENTION}/out":  # the kernel has the axes head, channel, output
        flat = tensor if kind == "bias" else tensor.flatten(0, 1).T.contiguous()
        return {f"{block}.attn.proj.{leaf}": flat}
    if layer == f"{_ATTENTION}/query":  # the kernels have the axes input, head, channel
        names = [name.replace("/query/", f"/{part}/") for part in ("query", "key", "value")]
        parts = [state[part] for part in names if part in state]
        rows = [part.flatten() if kind == "bias" else part.flatten(1).T for part in parts]
        return {f"{block}.attn.qkv.{leaf}": torch.cat(rows)}
    return {} if layer in (f"{_ATTENTION}/key", f"{_ATTENTION}/value") else {name: tensor}


_VISSL = "classy_state_dict.base_model.model."
_REGNET_BLOCK = re.compile(r"_feature_blocks\.res\d\.block(\d)-(\d+)\.(.+)\.(\w+)")
_REGNET_LAYERS = {
    "f.a.0": "conv1.conv",
    "f.a.1": "conv1.bn",
    "f.b.0": "conv2.conv",
    "f.b.1": "conv2.bn",
    "f.se.excitation.0": "se.fc1",
    "f.se.excitation.2": "se.fc2",
    "f.c": "conv3.conv",
    "f.final_bn": "conv3.bn",
    "proj": "downsample.conv",
    "bn": "downsample.bn",
}


def seer(state: State) -> State:
    """Return timm's tensors of a RegNet of SEER, trained by VISSL (facebookresearch/vissl).

    Names as in ``classy_vision/models/regnet.py`` of Classy Vision; fine-tuned files have a head.
    """
    converted: State = {}
    for name, tensor in below(f"{_VISSL}trunk.", state).items():
        if match := _REGNET_BLOCK.fullmatch(name):
            stage, block, layer, leaf = match.groups()
            renamed = f"s{stage}.b{int(block) + 1}.{_REGNET_LAYERS.get(layer, layer)}.{leaf}"
        else:
            renamed = name.replace("_feature_blocks.conv1.stem.0.", "stem.conv.")
            renamed = renamed.replace("_feature_blocks.conv1.stem.1.", "stem.bn.")
        converted[renamed] = tensor
    for name, tensor in below(f"{_VISSL}heads.", state).items():
        if name.startswith("0.clf.0."):  # others are the projector and prototypes of SwAV
            converted[name.replace("0.clf.0.", "head.fc.")] = tensor
    return converted


def vissl(state: State) -> State:
    """Return a ResNet that VISSL trained, or converted (``vissl/models/trunks/resnext.py``).

    The names below ``_feature_blocks.`` are torchvision's; heads have names of their own.
    """
    trunk = below(f"{_VISSL}trunk.", state) or state
    return below("_feature_blocks.", trunk)


def moco_v3(state: State) -> State:
    """Return the base encoder of MoCo v3, as ``main_lincls.py`` of its code does.

    Its projector stands in the place of the network's classifier.
    """
    encoder = below("module.base_encoder.", state)
    return {n: t for n, t in encoder.items() if not n.startswith(("fc.", "head."))}


def ijepa(state: State) -> State:
    """Return the target encoder of I-JEPA (``save_checkpoint`` in ``src/train.py``)."""
    return below("target_encoder.module.", state)


_MMPRETRAIN_NAMES = [
    (r"^layers\.", "blocks."),
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^ln1\.", "norm."),
    (r"\.ln([12])\.", r".norm\1."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
]


def mmpretrain_vit(state: State) -> State:
    """Return timm's tensors of a vision transformer that OpenMMLab trained.

    Names as in ``mmpretrain/models/backbones/vision_transformer.py``; the token of masked patches
    is left out.
    """
    converted: State = {}
    for name, tensor in below("backbone.", state).items():
        for pattern, replacement in _MMPRETRAIN_NAMES:
            name = re.sub(pattern, replacement, name)
        if name != "mask_token":
            converted[name] = tensor
    return converted


def beit_v2(state: State) -> State:
    """Return timm's tensors of BEiT v2 before any labels (``modeling_pretrain.py`` of beit2).

    All blocks share one table of relative positions there; timm has one in each. The head of visual
    tokens and the layers that only pre-training uses are left out.
    """
    table = state.get("rel_pos_bias.relative_position_bias_table")
    if table is None:
        return {}
    left_out = ("rel_pos_bias.", "lm_head.", "cls_pt_layers.", "mask_token")
    converted = {n: t for n, t in state.items() if not n.startswith(left_out)}
    blocks = {match[1] for name in state if (match := re.match(r"blocks\.(\d+)\.", name))}
    tables = {f"blocks.{number}.attn.relative_position_bias_table": table for number in blocks}
    return converted | tables


_RRL_MEMBER = re.compile(r"module\.model(\d+)\.(?:model(\d+)\.)?(.+)")


def rrl(state: State) -> State:
    """Return the network of a fine-tuning checkpoint of TjuJianyu/RRL (``supervised.py``).

    Its ``Kmodel`` (``src/models.py``) names member i ``model{i}``; a network of several that were
    trained jointly is one member whose own members are named likewise. Several networks become
    those of ``ssl_transfer.models.joint.Joint``, whichever way they were trained. Other networks of
    its authors lack the member's prefix. The keys inside of a member are torchvision's.
    """
    members = {name: match for name in state if (match := _RRL_MEMBER.match(name))}
    if not members:
        return below("module.", state) or state
    several = len({match[1] for match in members.values()}) > 1
    converted: State = {}
    for name, tensor in state.items():
        if match := members.get(name):
            outer = f"networks.{match[1]}." if several else ""
            inner = "" if match[2] is None else f"networks.{match[2]}."
            converted[f"{outer}{inner}{match[3]}"] = tensor
        else:  # the classifier
            converted[name.removeprefix("module.")] = tensor
    return converted


def wilds(state: State) -> State:
    """Return the network of a WILDS checkpoint (``examples/utils.py`` of p-lambda/wilds).

    Its algorithms hold torchvision's network as ``model``; those that need features hold a list of
    the network and its classifier (``examples/models/initializer.py``).
    """
    network = below("algorithm.model.", state) or below("model.", state)
    classifier = {f"classifier.{n}": tensor for n, tensor in below("1.", network).items()}
    return below("0.", network) | classifier or network


LAYOUTS: dict[str, Callable[[State], State]] = {
    "ssl_transfer": plain,
    "plain": plain,
    "torchvision": plain,
    "moco": moco,
    "seed": seed,
    "efficientnet_pytorch": efficientnet_pytorch,
    "pycontrast": pycontrast,
    "swav": swav,
    "mmselfsup": mmselfsup,
    "barlow_twins": barlow_twins,
    "mix_bt_cifar": mix_bt_cifar,
    "mix_bt_tiny": mix_bt_tiny,
    "ssl_sota": ssl_sota,
    "solo_learn": solo_learn,
    "lightly": lightly,
    "simclr_v2": simclr_v2,
    "byol": byol,
    "vit_jax": vit_jax,
    "seer": seer,
    "vissl": vissl,
    "moco_v3": moco_v3,
    "ijepa": ijepa,
    "mmpretrain_vit": mmpretrain_vit,
    "beit_v2": beit_v2,
    "rrl": rrl,
    "wilds": wilds,
}

STEMS: dict[str, tuple[str, ...]] = {
    "mix_bt_cifar": ("cifar", "small"),
    "mix_bt_tiny": ("tiny",),
    "ssl_sota": ("cifar", "small", "tiny", "imagenet"),
    "solo_learn": ("cifar_pad2", "imagenet"),
}
"""The ``model.stem`` of a ResNet that a layout's files were trained with.

Max-pooling and padding have no weights: the weights also fit a network with another stem, which
computes different features.
"""

# Patterns of names that only occur together in the files of one layout; the first match decides.
_MARKS: list[tuple[tuple[str, ...], str, str]] = [
    ((r"f\.7\.\d+\.",), "a checkpoint of mix-bt or Barlow-Twins-HSIC with max-pooling, as on "
     "Tiny ImageNet and STL-10", "mix_bt_tiny"),
    ((r"f\.3\.\d+\.",), "a checkpoint of mix-bt or Barlow-Twins-HSIC without max-pooling, as on "
     "CIFAR", "mix_bt_cifar"),
    ((r"module\.encoder_q\.",), "a MoCo or PCL checkpoint", "moco"),
    ((r"module\.student\.", r"module\.queue"), "a SEED checkpoint", "seed"),
    ((r"_conv_stem\.weight", r"_blocks\.0\."), "an EfficientNet of EfficientNet-PyTorch",
     "efficientnet_pytorch"),
    ((r"module\.encoder\.",), "a PyContrast checkpoint (InsDis, PIRL, InfoMin)", "pycontrast"),
    ((r"module\.(projection_head|prototypes)",), "a SwAV, DeepCluster-v2 or SeLa-v2 checkpoint",
     "swav"),
    ((r"module\.backbone\.", r"module\.projector\."),
     "a checkpoint of Barlow Twins' training on ImageNet, mixed or not", "barlow_twins"),
    ((r"model\.module\.", r"head\."), "a checkpoint of htdt's self-supervised or of ssl-sota "
     "(W-MSE, BYOL, SimCLR)", "ssl_sota"),
    ((r"backbone\.2\.0\.conv1\.",), "a checkpoint of lightly's benchmark on CIFAR-10, whose ResNet "
     "lacks the ReLU behind the first BatchNorm and is not offered", "lightly"),
    ((r"backbone\.", r"(projection_head|online_classifier)\."), "a checkpoint of lightly",
     "lightly"),
    ((r"(backbone|encoder)\.(conv1|layer1)\.", r"(classifier|projector)\."),
     "a checkpoint of solo-learn", "solo_learn"),
    ((r"backbone\.layers\.\d+\.ffn\.",), "a vision transformer of OpenMMLab", "mmpretrain_vit"),
    ((r"(module\.)?backbone\.",), "an OpenMMLab (mmselfsup) checkpoint", "mmselfsup"),
    ((r"net\.\d\.blocks\.\d+\.",), "a SimCLR-v2 checkpoint of SimCLRv2-Pytorch", "simclr_v2"),
    ((r".*online_params\.",), "BYOL's Haiku checkpoint", "byol"),
    ((r"Transformer/encoderblock_\d+/",), "a vision transformer of google-research", "vit_jax"),
    ((r"(classy_state_dict\.base_model\.model\.trunk\.)?_feature_blocks\.conv1\.weight",),
     "a ResNet of VISSL", "vissl"),
    ((r"classy_state_dict\.base_model\.model\.trunk\.",), "a SEER checkpoint of VISSL", "seer"),
    ((r"module\.base_encoder\.",), "a MoCo-v3 checkpoint", "moco_v3"),
    ((r"target_encoder\.module\.",), "an I-JEPA checkpoint", "ijepa"),
    ((r"rel_pos_bias\.relative_position_bias_table",), "a BEiT-v2 checkpoint", "beit_v2"),
    ((r"module\.model\d+\.",), "a checkpoint of RRL (TjuJianyu/RRL)", "rrl"),
    ((r"algorithm\.model\.",), "a WILDS checkpoint", "wilds"),
    ((r"module\.",), "a network saved from DataParallel, as SwAV's are", "swav"),
    ((r"(conv1|bn1|layer1\.0\.conv1)\.weight$",), "a ResNet with torchvision's names",
     "torchvision"),
]  # fmt: skip


def recognised(state: State) -> tuple[str, str] | None:
    """Return the description and the layout that a file's names suggest; None if none matches."""
    for marks, words, layout in _MARKS:
        if all(any(re.match(mark, name) for name in state) for mark in marks):
            return words, layout
    return None


def in_order(state: State) -> list[str]:
    """Return all layouts in the order to try them: our own, the recognised one, the rest."""
    looks = recognised(state)
    first = ["ssl_transfer", looks[1]] if looks else ["ssl_transfer"]
    return list(dict.fromkeys([*first, *LAYOUTS]))
