import json
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from ssl_transfer import models
from ssl_transfer.config import compose, plain, resolve
from ssl_transfer.models import backbones
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.runs import Run
from ssl_transfer.runs.signature import problems

# Feature dimensions: the inputs of the last layers as the papers (and torchvision's code) have
# them, smallest model of each family.
FAMILIES = {
    "alexnet": 4096,
    "convnext_tiny": 768,
    "densenet121": 1024,
    "efficientnet_b0": 1280,
    "efficientnet_v2_s": 1280,
    "googlenet": 1024,
    "inception_v3": 2048,
    "maxvit_t": 512,
    "mnasnet0_5": 1280,
    "mobilenet_v2": 1280,
    "mobilenet_v3_small": 1024,
    "resnet18": 512,
    "resnext50_32x4d": 2048,
    "shufflenet_v2_x0_5": 1024,
    "squeezenet1_1": 512,
    "swin_t": 768,
    "swin_v2_t": 768,
    "vgg11": 4096,
    "vit_b_16": 768,
    "wide_resnet50_2": 2048,
}


@pytest.mark.parametrize(("arch", "dim"), FAMILIES.items())
def test_every_family_of_torchvision_ends_in_features(arch: str, dim: int) -> None:
    with torch.device("meta"):  # shapes without arithmetic
        net = backbones.torchvision_backbone(arch)
    assert isinstance(net.preprocessing, Preprocessing)
    size = net.preprocessing.size
    net.train()  # the auxiliary classifiers of two models would speak up
    assert net(torch.zeros(2, 3, size, size, device="meta")).shape == (2, dim)


def test_a_model_that_cannot_be_built_without_arithmetic_ends_in_features() -> None:
    encoder = models.build(
        {
            "_target_": "ssl_transfer.models.backbones.torchvision_backbone",
            "arch": "regnet_y_400mf",
            "preprocessing": {"size": 32, "resize": None},
        }
    )
    assert encoder.feature_dim == 440


def test_preprocessing_is_that_of_torchvision_s_default_weights() -> None:
    with torch.device("meta"):
        net = backbones.torchvision_backbone("efficientnet_b1")
        vit = backbones.torchvision_backbone("vit_b_16", options={"image_size": 112})
    # EfficientNet_B1_Weights.IMAGENET1K_V2, https://docs.pytorch.org/vision/stable/models/
    # generated/torchvision.models.efficientnet_b1.html
    assert net.preprocessing == Preprocessing(240, 255, "bilinear")
    assert vit.preprocessing == Preprocessing(112, 128, "bilinear")


def test_an_unknown_model_is_answered_with_close_names() -> None:
    with pytest.raises(ValueError, match=r"of torchvision, but is 'resnet5'.*resnet50"):
        backbones.torchvision_backbone("resnet5")
    with pytest.raises(ValueError, match=r"of timm, but is 'vit_base_patch17'.*vit_base_p"):
        backbones.timm_backbone("vit_base_patch17")
    with pytest.raises(ValueError, match="known are alexnet, "):
        backbones.torchvision_backbone("qqqq")


def test_an_option_that_the_builder_does_not_know_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"builder refuses them \(.*depht") as caught:
        backbones.torchvision_backbone("resnet18", options={"depht": 3})
    assert "\n" not in str(caught.value)


def test_a_download_that_fails_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no route to host\nand a long explanation")

    monkeypatch.setattr(torchvision.models.resnet.ResNet18_Weights, "get_state_dict", unreachable)
    with pytest.raises(ValueError, match=r"'no route to host'.*model.weights.path") as caught:
        backbones.torchvision_backbone("resnet18", pretrained=True)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(timm.models._builder, "load_pretrained", unreachable)
    with pytest.raises(ValueError, match="'no route to host'"):
        backbones.timm_backbone("test_resnet.r160_in1k", pretrained=True)


# The maps behind the stem of images of 32 and 64 px; all but solo-learn's end in 4 x 4 positions
# (model.py of htdt/self-supervised and wgcban/mix-bt; solo/methods/base.py of vturrisi/solo-learn).
@pytest.mark.parametrize(
    ("stem", "size", "first", "last"),
    [("imagenet", 224, 56, 7), ("cifar", 32, 32, 4), ("small", 32, 32, 4), ("tiny", 64, 32, 4),
     ("cifar_pad2", 32, 34, 5)],
)  # fmt: skip
def test_a_stem_keeps_the_resolution_it_says(
    stem: backbones.Stem, size: int, first: int, last: int
) -> None:
    with torch.device("meta"):
        net = backbones.torchvision_resnet("resnet18", stem=stem)
    shapes: list[torch.Size] = []
    for stage in (net.layer1, net.layer4):
        assert isinstance(stage, nn.Module)
        stage.register_forward_hook(lambda _m, _x, y: shapes.append(y.shape))
    assert net(torch.zeros(2, 3, size, size, device="meta")).shape == (2, 512)
    assert shapes == [(2, 64, first, first), (2, 512, last, last)]


# Counted on the published code, model.py of wgcban/mix-bt.
@pytest.mark.parametrize(
    ("arch", "stem", "dim", "count"),
    [("resnet18", "cifar", 512, 11_168_832), ("resnet50", "tiny", 2048, 23_500_352)],
)  # fmt: skip
def test_stems_have_the_published_sizes(
    arch: str, stem: backbones.Stem, dim: int, count: int
) -> None:
    with torch.device("meta"):
        net = backbones.torchvision_resnet(arch, stem)
        assert net(torch.zeros(1, 3, 64, 64)).shape == (1, dim)
    assert sum(p.numel() for p in net.parameters()) == count


def test_a_factor_of_one_is_torchvision_s_network() -> None:
    torch.manual_seed(0)
    for arch in ("resnet18", "resnet50"):
        with torch.device("meta"):
            usual = backbones.torchvision_resnet(arch)
            widened = backbones.torchvision_resnet(f"{arch}w1")
        assert {n: t.shape for n, t in usual.state_dict().items()} == {
            n: t.shape for n, t in widened.state_dict().items()
        }
    usual, widened = (backbones.torchvision_resnet(a).eval() for a in ("resnet18", "resnet18w1"))
    widened.load_state_dict(usual.state_dict())
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(usual(images), widened(images))


def test_widened_convolutions_start_with_the_variance_of_their_fan_out() -> None:
    torch.manual_seed(0)
    net = backbones.torchvision_resnet("resnet18w2")
    for name in ("conv1", "layer2.0.conv1", "layer4.1.conv2"):
        weight = net.get_parameter(f"{name}.weight").detach()
        fan_out = weight.shape[0] * weight.shape[2] * weight.shape[3]
        assert float(weight.std() * (fan_out / 2) ** 0.5) == pytest.approx(1, rel=0.05)


def test_a_3x3_stem_starts_as_asked() -> None:
    torch.manual_seed(0)
    usual = backbones.torchvision_resnet("resnet18", "cifar").get_parameter("conv1.weight")
    torchs = backbones.torchvision_resnet("resnet18", "cifar", stem_init="torch")
    assert float(usual.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)
    # Kaiming-uniform with a = sqrt(5): within 1 / sqrt(fan in), whose variance is a third of it.
    weight = torchs.get_parameter("conv1.weight").detach()
    assert float(weight.abs().max()) <= 27**-0.5
    assert float(weight.std()) == pytest.approx((1 / (3 * 27)) ** 0.5, rel=0.1)


@pytest.mark.parametrize(("arch", "last"), [("resnet18", "bn2"), ("resnet50", "bn3"),
                                            ("resnet18w2", "bn2")])  # fmt: skip
def test_blocks_start_as_the_identity_if_asked(arch: str, last: str) -> None:
    net = backbones.torchvision_resnet(arch, "cifar", zero_init_residual=True)
    weights = {n: p for n, p in net.named_parameters() if "bn" in n and n.endswith(".weight")}
    zero = {name for name, weight in weights.items() if not weight.any()}
    assert zero == {name for name in weights if name.endswith(f".{last}.weight")}
    assert len(zero) == (16 if arch == "resnet50" else 8)
    usual = backbones.torchvision_resnet(arch, "cifar")
    assert all(p.all() for n, p in usual.named_parameters() if n in weights)


def test_only_the_usual_resnets_have_pretrained_weights_and_only_resnets_have_stems() -> None:
    for stem in ("small", "tiny"):
        with pytest.raises(ValueError, match=rf"`model\.stem` is {stem}"):
            backbones.torchvision_resnet("resnet18", stem=stem, pretrained=True)
    with pytest.raises(
        ValueError, match=r"torchvision's own widths, but `model.arch` is 'resnet18w2'"
    ):
        backbones.torchvision_resnet("resnet18w2", pretrained=True)
    with pytest.raises(ValueError, match="must be a ResNet, but is 'alexnet'"):
        backbones.torchvision_resnet("alexnet")
    with pytest.raises(ValueError, match="of torchvision, but is 'resnet19w2'"):
        backbones.torchvision_resnet("resnet19w2")
    (found,) = problems(plain(compose(["model=resnet18", "model.stem=stl10"])))
    assert "`model.stem` must be one of ['imagenet', 'cifar', 'tiny', " in found


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"])
def test_timm_s_models_end_in_the_features_timm_announces(arch: str) -> None:
    config = {"_target_": "ssl_transfer.models.backbones.timm_backbone", "arch": arch}
    encoder = models.build({**config, "name": arch})
    assert encoder.feature_dim == timm.create_model(arch).head_hidden_size
    assert (encoder.preprocessing.size, encoder.preprocessing.resize) == (160, 168)  # 0.95 crop


def test_timm_s_size_follows_the_option_and_yields_to_the_configuration() -> None:
    config = {
        "_target_": "ssl_transfer.models.backbones.timm_backbone",
        "arch": "test_vit",
        "options": {"img_size": 80},
    }
    assert models.build(config).preprocessing.size == 80
    override = {"resize": None, "mean": [0, 0, 0], "std": [1, 1, 1]}
    found = models.build({**config, "preprocessing": override}).preprocessing
    assert (found.shorter_side, found.mean, found.std) == (80, (0, 0, 0), (1, 1, 1))


def test_a_timm_model_of_a_user_s_script_brings_its_preprocessing() -> None:
    assert models.wrap(timm.create_model("test_resnet", num_classes=0)).preprocessing.size == 160


# ---- the configuration --------------------------------------------------------------------------


def _composed(*overrides: str) -> dict[str, Any]:
    node: dict[str, Any] = resolve(plain(compose(overrides)))["model"]
    return node


@pytest.mark.parametrize("name", ["small_resnet", "resnet18"])
def test_an_option_s_name_is_its_file_s_and_it_builds(name: str) -> None:
    node = _composed(f"model={name}")
    assert node["name"] == name
    encoder = models.build(node)
    assert encoder.name == name
    assert json.loads(json.dumps(node)) == node


def test_the_documented_and_published_sizes_of_the_resnets_are_right() -> None:
    # The wide ones in millions: table of the README of facebookresearch/swav (93.91, 211.2, 375.38
    # and 586.45), and pretraining/resnet.py of linusericsson/ssl-invariances (100.47).
    for name, dim, count in (
        ("resnet18", 512, 11_176_512), ("resnet34", 512, 21_284_672),
        ("resnet50", 2048, 23_508_032),
        ("resnet50w2", 4096, 93_907_072), ("resnet50w3", 6144, 211_197_120),
        ("resnet50w4", 8192, 375_378_176), ("resnet50w5", 10240, 586_450_240),
        ("resnet18w3", 1536, 100_474_560),
    ):  # fmt: skip
        node = _composed(f"model={name}")
        assert (node["name"], node["arch"]) == (name, name)
        with torch.device("meta"):
            net = backbones.torchvision_resnet(node["arch"], node["stem"], node["pretrained"])
        assert sum(p.numel() for p in net.parameters()) == count
        assert net(torch.zeros(1, 3, 64, 64, device="meta")).shape == (1, dim)


def test_a_model_by_name_is_labelled_by_library_and_name() -> None:
    node = _composed(
        "model=timm", "model.arch=test_vit", "model.options={img_size: 80}",
        "model.preprocessing={std: [1, 1, 1]}",
    )  # fmt: skip
    assert node["name"] == "timm_test_vit"
    encoder = models.build(node)
    assert encoder.name == "timm_test_vit"
    assert encoder.preprocessing.size == 80
    assert encoder.preprocessing.std == (1, 1, 1)
    assert _composed("model=torchvision", "model.arch=vgg11")["name"] == "torchvision_vgg11"


def test_the_keys_that_came_later_leave_ids_as_they_were() -> None:
    config = plain(compose(["model=resnet50"]))
    older = {**config, "model": {**config["model"]}}
    for key in ("stem_init", "zero_init_residual"):
        del older["model"][key]
    assert Run(older).id == Run(config).id
    for override in ("stem=tiny", "stem_init=torch", "zero_init_residual=true"):
        assert Run(plain(compose(["model=resnet50", f"model.{override}"]))).id != Run(config).id
