"""Layouts of published checkpoints: one function each, from a file's names to the encoder's.

The names of a layout stand in the code that wrote or read such files, cited at each function. To
add one, write the function and its entry in ``LAYOUTS``: ``layout=auto`` then tries it, too.
"""

import re
from collections.abc import Callable

from ssl_transfer.models.reading import State


def below(prefix: str, state: State) -> State:
    """Return the tensors whose names start with ``prefix``, without it."""
    return {n.removeprefix(prefix): tensor for n, tensor in state.items() if n.startswith(prefix)}


def plain(state: State) -> State:
    """Return a state dict that has the encoder's own names: torchvision's, timm's or ours.

    Barlow Twins, DINO's ResNet-50 and SimCLR v1 as ``tonylins/simclr-converter`` writes it are
    published so, too.
    """
    return state


def moco(state: State) -> State:
    """Return the query encoder of MoCo v1, v2 (``main_lincls.py``) and PCL (``pcl/builder.py``)."""
    return below("module.encoder_q.", state)


def pycontrast(state: State) -> State:
    """Return the encoder of InsDis, PIRL and InfoMin (PyContrast, ``build_backbone.py``)."""
    return below("module.encoder.", state)


def swav(state: State) -> State:
    """Return the encoder of SwAV, DeepCluster-v2 and SeLa-v2 (``hubconf.py`` of SwAV's code)."""
    return below("module.", state)


def mmselfsup(state: State) -> State:
    """Return the backbone of an OpenMMLab model, with the prefixes that its tools leave or drop."""
    state = below("module.", state) or state
    return below("backbone.", state) or state


_SIMCLR_V2_STEM = re.compile(r"net\.0\.(?:0|1\.0)\.(\w+)$")
_SIMCLR_V2_BLOCK = re.compile(r"net\.(\d)\.blocks\.(\d+)\.(?:net\.(\d)|projection\.(\w+))\.(.+)$")


def simclr_v2(state: State) -> State:
    """Return the encoder of SimCLR v2 as ``Separius/SimCLRv2-Pytorch`` converts it.

    Its blocks keep convolutions at even and BatchNorms at odd places of one list, the BatchNorms
    each in a list of their own with what follows them.
    """
    return {_from_simclr_v2(name): tensor for name, tensor in state.items()}


def _from_simclr_v2(name: str) -> str:
    if stem := _SIMCLR_V2_STEM.match(name):
        return f"{'bn1' if '.1.0.' in name else 'conv1'}.{stem[1]}"
    found = _SIMCLR_V2_BLOCK.match(name)
    if found is None:
        return name
    stage, block, place, shortcut, rest = found.groups()
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

    Convolutions are turned from height, width, in, out to out, in, height, width; BatchNorm's
    arrays lose their axes of length 1. The network pads as JAX does: ``model.padding=same``.
    """
    renamed: State = {}
    for name, tensor in state.items():
        found = _HAIKU.match(name)
        if found is None:
            continue
        layer = _from_haiku(found)
        if found["array"] == "w":
            renamed[f"{layer}.weight"] = tensor.permute(3, 2, 0, 1).contiguous()
        elif found["moment"]:
            renamed[f"{layer}.running_{found['moment']}"] = tensor.reshape(-1)
        else:
            renamed[f"{layer}.{_HAIKU_ARRAYS[found['array']]}"] = tensor.reshape(-1)
    return renamed


def _from_haiku(found: re.Match[str]) -> str:
    is_norm = found["kind"] == "batchnorm"
    if found["stage"] is None:
        return "bn1" if is_norm else "conv1"
    block = f"layer{int(found['stage']) + 1}.{found['block']}"
    if found["shortcut"]:
        return f"{block}.downsample.{int(is_norm)}"
    return f"{block}.{'bn' if is_norm else 'conv'}{int(found['number']) + 1}"


LAYOUTS: dict[str, Callable[[State], State]] = {
    "ssl_transfer": plain,
    "plain": plain,
    "torchvision": plain,
    "moco": moco,
    "pycontrast": pycontrast,
    "swav": swav,
    "mmselfsup": mmselfsup,
    "simclr_v2": simclr_v2,
    "byol": byol,
}

# What names occur in the files of a layout only; the first that is found decides.
_MARKS: list[tuple[str, str, str]] = [
    (r"module\.encoder_q\.", "a MoCo or PCL checkpoint", "moco"),
    (r"module\.encoder\.", "a PyContrast checkpoint (InsDis, PIRL, InfoMin)", "pycontrast"),
    (r"module\.(projection_head|prototypes)", "a SwAV, DeepCluster-v2 or SeLa-v2 checkpoint",
     "swav"),
    (r"(module\.)?backbone\.", "an OpenMMLab (mmselfsup) checkpoint", "mmselfsup"),
    (r"net\.\d\.blocks\.\d+\.", "a SimCLR-v2 checkpoint of SimCLRv2-Pytorch", "simclr_v2"),
    (r".*online_params\.", "BYOL's Haiku checkpoint", "byol"),
    (r"module\.", "a network saved from DataParallel, as SwAV's are", "swav"),
    (r"(conv1|bn1|layer1\.0\.conv1)\.weight$", "a ResNet with torchvision's names", "torchvision"),
]  # fmt: skip


def recognised(state: State) -> tuple[str, str] | None:
    """Return what a file's names look like, in words and as a layout; None if like nothing."""
    for mark, words, layout in _MARKS:
        if any(re.match(mark, name) for name in state):
            return words, layout
    return None
