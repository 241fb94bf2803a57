"""Layouts of published checkpoints: one function each converts a file's names to the encoder's.

Each function cites the code that wrote or read such files, which defines the names. To add a
layout, write the function and its entry in ``LAYOUTS``: ``layout=auto`` then tries it, too.
"""

import re
from collections.abc import Callable

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


LAYOUTS: dict[str, Callable[[State], State]] = {
    "ssl_transfer": plain,
    "plain": plain,
    "torchvision": plain,
    "moco": moco,
    "seed": seed,
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
    ((r"(module\.)?backbone\.",), "an OpenMMLab (mmselfsup) checkpoint", "mmselfsup"),
    ((r"net\.\d\.blocks\.\d+\.",), "a SimCLR-v2 checkpoint of SimCLRv2-Pytorch", "simclr_v2"),
    ((r".*online_params\.",), "BYOL's Haiku checkpoint", "byol"),
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
