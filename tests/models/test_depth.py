"""Layer-wise learning rates and drop paths, as MAE and timm have them."""

from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from ssl_transfer.models.depth import layer_factors
from ssl_transfer.models.drop_path import DropPath, DropPaths, set_drop_path
from ssl_transfer.models.encoder import Encoder
from ssl_transfer.models.fusion import FusedEncoder
from ssl_transfer.models.small_resnet import small_resnet
from ssl_transfer.preprocessing import Preprocessing


def encoder(network: nn.Module) -> Encoder:
    return Encoder(network, 8, Preprocessing(), "judged")


def timm_network(arch: str, **options: Any) -> Any:
    with torch.device("meta"):
        return timm.create_model(arch, num_classes=0, **options)


def layer_of_mae(name: str, num_layers: int) -> int:
    """``get_layer_id_for_vit`` of MAE's util/lr_decay.py, literally."""
    if name in ["cls_token", "pos_embed"] or name.startswith("patch_embed"):
        return 0
    if name.startswith("blocks"):
        return int(name.split(".")[1]) + 1
    return num_layers


@pytest.mark.parametrize("decay", [0.65, 0.75])
def test_the_learning_rates_of_a_transformer_are_those_of_mae(decay: float) -> None:
    network = timm_network("vit_base_patch16_224", global_pool="avg")
    num_layers = len(network.blocks) + 1
    scales = [decay ** (num_layers - i) for i in range(num_layers + 1)]
    expected = {
        name: scales[layer_of_mae(name, num_layers)] for name, _ in network.named_parameters()
    }
    assert layer_factors(encoder(network), decay) == pytest.approx(expected)
    assert expected["cls_token"] == decay**13
    assert expected["fc_norm.weight"] == scales[layer_of_mae("head.weight", num_layers)] == 1


def test_the_layers_of_a_resnet_are_its_stages() -> None:
    factors = layer_factors(encoder(timm_network("resnet18")), 0.5)
    expected = {"conv1.weight": 1 / 32, "layer1.0.bn1.bias": 1 / 16, "layer4.1.conv2.weight": 1 / 2}
    assert {name: factors[name] for name in expected} == expected


def test_each_of_several_encoders_has_its_own_layers() -> None:
    members = [encoder(small_resnet(2)), encoder(timm_network("resnet18"))]
    factors = layer_factors(FusedEncoder(members, "concatenate"), 0.5)
    assert factors["members.0.conv1.weight"] == 1 / 16
    assert factors["members.1.conv1.weight"] == 1 / 32


def test_unknown_layers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`layer_decay` must be null .* 0\.5 for `judged`, a Lin"):
        layer_factors(encoder(nn.Linear(2, 2)), 0.5)


def rates(network: nn.Module) -> dict[str, float]:
    """Return the rate of every drop path of timm's or ours."""
    kinds = (DropPath, timm.layers.DropPath)
    found = {n: getattr(m, "rate", getattr(m, "drop_prob", 0.0))
             for n, m in network.named_modules() if isinstance(m, kinds)}  # fmt: skip
    return {name: rate for name, rate in found.items() if rate}


ARCHS = ["vit_tiny_patch16_224", "convnext_atto", "resnet18", "swin_tiny_patch4_window7_224",
         "beitv2_base_patch16_224", "eva02_tiny_patch14_224"]  # fmt: skip


@pytest.mark.parametrize("arch", ARCHS)
def test_rates_rise_as_in_timm(arch: str) -> None:
    network = timm_network(arch)
    layers = set_drop_path(encoder(network), 0.2)
    expected = rates(timm_network(arch, drop_path_rate=0.2))
    assert rates(network) == pytest.approx(expected)
    assert len(layers) == len(expected) > 0
    set_drop_path(encoder(network), 0.0)  # replaces what stands there
    assert rates(network) == {}


def test_a_network_without_places_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`drop_path` must be null .* 0\.1 for `judged`; use a"):
        set_drop_path(encoder(small_resnet(2)), 0.1)


def test_what_is_dropped_follows_from_seed_step_and_position() -> None:
    layers = [DropPath(0.25), DropPath(0.5)]
    paths = DropPaths(layers, seed=3)
    branch = torch.ones(4000, 2, 3)
    paths.draw(0, range(4000), torch.device("cpu"))
    outputs = [layer(branch) for layer in layers]
    for layer, output in zip(layers, outputs, strict=True):
        values = output.flatten(1)
        assert torch.equal(values, values[:, :1].expand_as(values))  # whole images
        assert set(np.round(values.unique().tolist(), 6)) == {0.0, round(1 / (1 - layer.rate), 6)}
        assert float((values[:, 0] == 0).float().mean()) == pytest.approx(layer.rate, abs=0.03)
    assert not torch.equal(layers[0].kept, layers[1].kept)
    paths.draw(0, range(1000, 1500), torch.device("cpu"))
    assert torch.equal(layers[1](branch[:500]), outputs[1][1000:1500])
    paths.draw(1, range(4000), torch.device("cpu"))
    assert not torch.equal(layers[1](branch), outputs[1])
    assert torch.equal(layers[1].eval()(branch), branch)
