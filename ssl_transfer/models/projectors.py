"""Projectors on top of an encoder during its training, for distillation of its embeddings.

The names of projectors in published files depend on the layout; this package saves them in a file
beside the encoder. Evaluations do not use them.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from ssl_transfer import randomness
from ssl_transfer.models.layouts import below, in_order
from ssl_transfer.models.reading import State, read_state

PROJECTOR_FILE = "projector.safetensors"

PROJECTORS = {
    "moco": "module.encoder_q.fc.",
    "seed": "module.student.fc.",
    "swav": "module.projection_head.",
    "barlow_twins": "module.projector.",
    "mix_bt_cifar": "g.",
    "mix_bt_tiny": "g.",
}
"""Layout -> prefix of the projector's names: ``moco/builder.py`` of MoCo, ``seed/builder.py`` of
SEED, ``src/resnet50.py`` of SwAV, ``main.py`` of Barlow Twins, ``model.py`` of mix-bt. All are
numbered lists of linear layers, BatchNorms and ReLUs; MoCo v1's is a single layer."""

_WITHOUT_TENSORS = (nn.ReLU, nn.Dropout)


@randomness.preserved()
def load_projector(path: str | Path, layout: str = "auto") -> nn.Sequential | None:
    """Return the projector in an encoder's weights; None if there is no supported projector.

    Args:
        path: as in ``load_weights``: a file, or a folder that ``save_encoder`` wrote.
        layout: as in ``load_weights``.

    Raises:
        ValueError: if the file cannot be read.
    """
    place = Path(path).expanduser()
    own = place / PROJECTOR_FILE if place.is_dir() else place.with_name(PROJECTOR_FILE)
    if own.is_file() and layout in ("auto", "ssl_transfer"):
        return rebuilt(read_state(own))
    if place.is_dir():
        return None
    state = read_state(place)
    for name in [layout] if layout != "auto" else in_order(state):
        if name in PROJECTORS and (tensors := below(PROJECTORS[name], state)):
            return rebuilt(tensors)
    return None


def projector_state(projector: nn.Module) -> State | None:
    """Return a projector's tensors by their places in one list of layers; None if it is not a list.

    Args:
        projector: the projector; nested lists are flattened.
    """
    layers = list(_layers(projector))
    known = (nn.Linear, nn.BatchNorm1d, *_WITHOUT_TENSORS)
    if not all(isinstance(layer, known) for layer in layers):
        return None
    return {
        f"{place}.{name}": tensor
        for place, layer in enumerate(layers)
        for name, tensor in layer.state_dict().items()
    }


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    if not isinstance(module, nn.Sequential):
        yield module
        return
    for child in module:
        yield from _layers(child)


@torch.no_grad()
def rebuilt(state: State) -> nn.Sequential | None:
    """Return the list of layers that has these tensors; None if it contains unsupported layers.

    Places without tensors become ReLUs. (If such a place was dropout after a ReLU, the result is
    the same, because teachers run in eval mode.)

    Args:
        state: ``place.name`` -> tensor; without a place: a single layer.
    """
    parts: dict[int, State] = {}
    for name, tensor in state.items():
        place, _, leaf = name.rpartition(".")
        if place and not place.isdecimal():
            return None
        parts.setdefault(int(place or 0), {})[leaf] = tensor
    layers: list[nn.Module] = []
    expected = 0
    for number, tensors in sorted(parts.items(), key=lambda part: part[0]):
        layer = _layer(tensors)
        if layer is None:
            return None
        layers += [nn.ReLU(), layer] if number > expected else [layer]
        expected = number + 1
    return nn.Sequential(*layers)


def _layer(tensors: State) -> nn.Module | None:
    weight, mean = tensors.get("weight"), tensors.get("running_mean")
    layer: nn.Module
    if mean is not None:
        layer = nn.BatchNorm1d(len(mean), affine=weight is not None)
    elif weight is not None and weight.ndim == 2:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in tensors)
    else:
        return None
    left = layer.load_state_dict(tensors, strict=False)
    complete = not left.unexpected_keys and set(left.missing_keys) <= {"num_batches_tracked"}
    return layer if complete else None
