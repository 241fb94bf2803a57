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
    with pytest.raises(ValueError, match=r"of torchvision, but 'resnet5' is none.*resnet50"):
        backbones.torchvision_backbone("resnet5")
    with pytest.raises(ValueError, match=r"of timm, but 'vit_base_patch17' is none.*vit_base_p"):
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


def test_the_small_stem_keeps_the_resolution() -> None:
    with torch.device("meta"):
        net = backbones.torchvision_resnet("resnet18", stem="small")
    shapes: list[torch.Size] = []
    assert isinstance(net.layer1, nn.Module)
    net.layer1.register_forward_hook(lambda _m, _x, y: shapes.append(y.shape))
    assert net(torch.zeros(2, 3, 32, 32, device="meta")).shape == (2, 512)
    assert shapes == [(2, 64, 32, 32)]


def test_the_small_stem_takes_no_pretrained_weights_and_only_resnets_have_it() -> None:
    with pytest.raises(ValueError, match=r"`model\.stem` is small"):
        backbones.torchvision_resnet("resnet18", stem="small", pretrained=True)
    with pytest.raises(ValueError, match="must be a ResNet, but is 'alexnet'"):
        backbones.torchvision_resnet("alexnet")


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


def test_the_documented_sizes_of_the_resnets_are_right() -> None:
    for name, dim, count in (("resnet18", 512, 11_176_512), ("resnet50", 2048, 23_508_032)):
        node = _composed(f"model={name}")
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
