"""Which parameters each tuning protocol trains, counted by hand."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from ssl_transfer.errors import NotApplicable
from ssl_transfer.models.batch_norm import batch_norm_layers
from ssl_transfer.models.depth import depth_of
from ssl_transfer.models.encoder import Encoder
from ssl_transfer.models.fusion import FusedEncoder
from ssl_transfer.models.heads import build_head
from ssl_transfer.models.small_resnet import small_resnet
from ssl_transfer.models.trainable import Trained, biases, last_block, norms, trained_part
from ssl_transfer.preprocessing import Preprocessing


def timm_network(arch: str, **options: Any) -> Any:
    with torch.device("meta"):
        return timm.create_model(arch, num_classes=0, **options)


def torchvision_network(arch: str, classifier: str) -> Any:
    with torch.device("meta"):
        network = torchvision.models.get_model(arch)
    parent, _, name = classifier.rpartition(".")
    setattr(network.get_submodule(parent), name, nn.Identity())
    return network


def encoder(network: nn.Module, name: str = "judged") -> Encoder:
    return Encoder(network, 8, Preprocessing(), name)


def names(judged: Encoder, trained: Trained) -> set[str]:
    """Return the names of trained parameters in the backbone."""
    chosen = {id(parameter) for parameter in trained.parameters}
    return {name for name, p in judged.backbone.named_parameters() if id(p) in chosen}


def size(trained: Trained) -> int:
    return sum(parameter.numel() for parameter in trained.parameters)


VIT, DEPTH, DIM = "vit_small_patch16_224", 12, 384


def test_norms_of_a_transformer_are_its_layer_norms() -> None:
    judged = encoder(timm_network(VIT))
    expected = {f"blocks.{i}.norm{n}.{t}" for i in range(DEPTH) for n in (1, 2)
                for t in ("weight", "bias")} | {"norm.weight", "norm.bias"}  # fmt: skip
    assert names(judged, norms(judged)) == expected
    assert size(norms(judged)) == (2 * DEPTH + 1) * 2 * DIM


def test_norms_of_a_network_with_batch_norm_alone_are_those_of_bn_tuning() -> None:
    for network in (torchvision_network("resnet50", "fc"), timm_network("efficientnet_b0")):
        judged = encoder(network)
        tuned = trained_part(judged, "batch_norm")
        assert [id(p) for p in norms(judged).parameters] == [id(p) for p in tuned.parameters]
        assert [id(m) for m in norms(judged).layers] == [id(m) for m in tuned.layers]
        assert list(tuned.layers) == list(batch_norm_layers(judged).values())


class ScaleNorm(nn.Module):
    """A norm that neither torch nor timm has."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))


class NormedLinear(nn.Module):
    """A layer that is no norm."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 3))


def test_every_kind_of_norm_counts_and_nothing_else() -> None:
    layers = timm.layers
    every = [
        nn.BatchNorm2d(4), nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.RMSNorm(4),
        nn.InstanceNorm2d(4, affine=True), layers.LayerNorm2d(4), layers.BatchNormAct2d(4),
        layers.GroupNormAct(4, 2), layers.LayerNormAct2d(4), layers.RmsNorm(4),
        layers.RmsNormAct(4), ScaleNorm(),
    ]  # fmt: skip
    others = [nn.Conv2d(4, 4, 1), nn.Linear(4, 4), layers.LayerScale(4), layers.ConvNormAct(4, 4),
              nn.LayerNorm(4, elementwise_affine=False), NormedLinear()]  # fmt: skip
    judged = encoder(nn.Sequential(*every, *others))
    with_inner = {f"{len(every) + 3}.bn.weight", f"{len(every) + 3}.bn.bias"}  # of ConvNormAct
    found = names(judged, norms(judged))
    assert {name.partition(".")[0] for name in found - with_inner} == {
        str(number) for number in range(len(every))
    }
    assert with_inner < found


def test_biases_are_those_of_bitfit() -> None:
    """BitFit trains each parameter with "bias" in its name (github.com/benzakenelad/BitFit)."""
    archs = (VIT, "convnext_atto", "resnet18", "beitv2_base_patch16_224", "eva02_tiny_patch14_224")
    for arch in archs:
        judged = encoder(timm_network(arch))
        expected = {
            name
            for name, _ in judged.backbone.named_parameters()
            if "bias" in name and not name.endswith("relative_position_bias_table")
        }
        assert names(judged, biases(judged)) == expected
        assert biases(judged).layers == ()  # nothing is in train mode


def test_biases_of_a_small_transformer_are_counted_by_hand() -> None:
    judged = encoder(timm_network(VIT))
    block = 3 * DIM + DIM + 4 * DIM + DIM + 2 * DIM  # qkv, projection, both of the MLP, norms
    assert size(biases(judged)) == DEPTH * block + DIM + DIM  # patch embedding, final norm


LAST = {
    "small_resnet": (lambda: small_resnet(2), {"layer3"}),
    "resnet50": (lambda: torchvision_network("resnet50", "fc"), {"layer4"}),
    "timm resnet": (lambda: timm_network("resnet18"), {"layer4"}),
    "vit": (lambda: timm_network(VIT), {"blocks.11", "norm"}),
    "mean-pooled": (lambda: timm_network(VIT, global_pool="avg"), {"blocks.11", "fc_norm"}),
    "eva": (lambda: timm_network("eva02_tiny_patch14_224"), {"blocks.11", "fc_norm"}),
    "swin": (lambda: timm_network("swin_tiny_patch4_window7_224"), {"layers.3", "norm"}),
    "convnext": (lambda: timm_network("convnext_atto"), {"stages.3", "head.norm"}),
    "efficientnet": (lambda: timm_network("efficientnet_b0"), {"blocks.6", "conv_head", "bn2"}),
    "mobilenet": (lambda: timm_network("mobilenetv3_small_050"), {"blocks.5", "conv_head"}),
    "torchvision vit": (
        lambda: torchvision_network("vit_b_16", "heads.head"),
        {"encoder.layers.encoder_layer_11", "encoder.ln"},
    ),
    "torchvision convnext": (
        lambda: torchvision_network("convnext_tiny", "classifier.2"),
        {"features.6", "features.7", "classifier.0"},
    ),
    "torchvision efficientnet": (
        lambda: torchvision_network("efficientnet_b0", "classifier.1"),
        {"features.7", "features.8"},
    ),
    "torchvision mobilenet": (
        lambda: torchvision_network("mobilenet_v2", "classifier.1"),
        {"features.17", "features.18"},
    ),
}


@pytest.mark.parametrize("name", LAST)
def test_the_last_block_is_that_of_the_architecture(name: str) -> None:
    build, modules = LAST[name]
    network = build()
    judged = encoder(network)
    expected = {
        parameter
        for parameter, _ in network.named_parameters()
        if any(parameter.startswith(f"{module}.") for module in modules)
    }
    assert names(judged, last_block(judged)) == expected
    layers = {id(layer) for layer in last_block(judged).layers}
    assert layers <= {id(layer) for layer in network.modules()}


def test_the_last_block_of_several_encoders_is_that_of_each() -> None:
    members = [encoder(small_resnet(2)), encoder(small_resnet(2, blocks=2))]
    judged = FusedEncoder(members, "concatenate")
    found = names(judged, last_block(judged))
    assert {".".join(name.split(".")[:3]) for name in found} == {
        "members.0.layer3", "members.1.layer3"
    }  # fmt: skip


def test_an_unknown_architecture_is_told_which_key_states_its_last_block() -> None:
    judged = encoder(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten()), "mine")
    with pytest.raises(ValueError, match=r"`mine`.*Sequential.*protocol\.trainable_modules=\[0\]"):
        last_block(judged)
    stated = trained_part(judged, "last_block", modules=["0"])
    assert names(judged, stated) == {"0.weight", "0.bias"}
    for wrong in ("layer4", "1"):
        with pytest.raises(ValueError, match=f"`{wrong}` is none; it has 0, and"):
            trained_part(judged, "last_block", modules=[wrong])


def test_an_encoder_without_such_a_part_is_not_applicable() -> None:
    bare = encoder(nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Flatten()), "bare")
    for kind, said in (
        ("batch_norm", "not applicable to `bare`, which has no BatchNorm; norm_tune"),
        ("norm", "`norm_tune` needs normalisation layers with weights, but `bare` has none"),
        ("bias", "`bias_tune` needs biases, but `bare` has none"),
    ):
        with pytest.raises(NotApplicable, match=said):
            trained_part(bare, kind)  # type: ignore[arg-type]


def test_a_layer_s_number_counts_blocks_from_the_stem() -> None:
    depth = depth_of(timm_network(VIT))
    assert depth is not None
    numbers = {name: depth.layer(name) for name in ("cls_token", "blocks.0.a", "blocks.11.a")}
    assert numbers == {"cls_token": 0, "blocks.0.a": 1, "blocks.11.a": 12}
    assert depth.layer("norm.weight") == 13


def test_shared_parameters_are_trained_once() -> None:
    layer = nn.LayerNorm(4)
    judged = encoder(nn.Sequential(layer, layer))
    assert size(norms(judged)) == size(Trained.of([layer, layer])) == 8


PAGE = Path(__file__).parents[2] / "docs" / "tuning.md"
COUNTED = {
    "linear_probe": "head", "bn_tune": "batch_norm", "norm_tune": "norm", "bias_tune": "bias",
    "last_block": "last_block", "finetune": "all",
}  # fmt: skip


def test_the_documentation_states_the_counts_and_shares() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = {line.split("|")[1].split("`")[1]: [cell.strip() for cell in line.split("|")]
            for line in lines if line.startswith("| `")}  # fmt: skip
    judged = [encoder(torchvision_network("resnet50", "fc")), encoder(timm_network(VIT))]
    for protocol, kind in COUNTED.items():
        for one, cell in zip(judged, rows[protocol][3:5], strict=True):
            try:
                count = size(trained_part(one, kind))  # type: ignore[arg-type]
            except NotApplicable:
                assert cell == "not applicable"
                continue
            share = f"{count:,} ({100 * count / one.parameter_count:.3f} %)" if count else "0"
            assert cell == share
    for head in ("attention", "attention_block"):
        for dim, cell in zip((2048, DIM), rows[head][3:5], strict=True):
            with torch.device("meta"):
                pooling = build_head(head, dim, 10)[0]  # type: ignore[arg-type, index]
            assert cell == f"{sum(p.numel() for p in pooling.parameters()):,}"
