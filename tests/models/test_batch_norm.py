import pytest
import timm
import torch
import torchvision
from torch import nn

from ssl_transfer.errors import NotApplicable
from ssl_transfer.models.batch_norm import batch_norm_layers, counts
from ssl_transfer.models.encoder import Encoder
from ssl_transfer.models.small_resnet import small_resnet
from ssl_transfer.preprocessing import Preprocessing


def _resnet(name: str) -> nn.Module:
    with torch.device("meta"):
        net = torchvision.models.get_model(name)
    net.fc = nn.Identity()
    return net


def test_resnet50_has_the_published_layers_and_shares() -> None:
    # 0.16 % in the abstract of https://doi.org/10.1007/s10489-024-05758-7.
    net = _resnet("resnet50")
    published = batch_norm_layers(net, "published")
    every = batch_norm_layers(net, "all")
    assert (len(published), len(every)) == (33, 53)
    narrow, wide = counts(net, published.values()), counts(net, every.values())
    assert (narrow.trainable, wide.trainable) == (37_888, 53_120)
    assert narrow.total == wide.total == 23_508_032
    assert round(100 * narrow.share, 4) == 0.1612
    assert round(100 * wide.share, 4) == 0.2260
    assert "bn1" in published
    assert "layer1.0.bn2" in published
    assert "layer4.2.bn3" in published
    assert "layer1.0.bn1" not in published
    assert "layer1.0.downsample.1" not in published


def test_basic_blocks_keep_their_second_layer() -> None:
    published = batch_norm_layers(_resnet("resnet18"), "published")
    assert len(published) == 1 + 8
    assert len(batch_norm_layers(_resnet("resnet18"))) == 1 + 16 + 3
    assert set(batch_norm_layers(small_resnet(2), "published")) == {
        "bn1", "layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn2"
    }  # fmt: skip


@pytest.mark.parametrize(("name", "stem"), [("resnet18", 1), ("resnet18d", 3)])
def test_timm_resnets_count_as_resnets(name: str, stem: int) -> None:
    # The deep stem of the d variant holds three BatchNorm layers.
    with torch.device("meta"):
        net = timm.create_model(name, num_classes=0)
    assert len(batch_norm_layers(net, "published")) == stem + 8


def test_names_and_layers_are_those_of_the_backbone() -> None:
    net = small_resnet(2)
    layers = batch_norm_layers(Encoder(net, 8, Preprocessing()), "all")
    modules = dict(net.named_modules())
    assert all(modules[name] is layer for name, layer in layers.items())
    assert len(layers) == 9


def test_a_resnet_inside_a_user_s_module_is_found() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_resnet(2)

    assert "net.layer1.0.bn2" in batch_norm_layers(Wrapper(), "published")
    assert "net.layer1.0.bn1" not in batch_norm_layers(Wrapper(), "published")


def test_every_kind_of_batch_norm_counts() -> None:
    from timm.layers import BatchNormAct2d

    net = nn.Sequential(
        nn.BatchNorm1d(2), nn.BatchNorm2d(2), nn.BatchNorm3d(2), nn.SyncBatchNorm(2),
        BatchNormAct2d(2), nn.LayerNorm(2), nn.InstanceNorm2d(2), nn.GroupNorm(1, 2),
    )  # fmt: skip
    assert list(batch_norm_layers(net)) == ["0", "1", "2", "3", "4"]


def test_an_encoder_without_batch_norm_is_not_applicable() -> None:
    encoder = Encoder(nn.Flatten(), 3, Preprocessing(), name="vit_base")
    for scope in ("all", "published"):
        with pytest.raises(NotApplicable, match=r"not applicable to `vit_base`.*; norm_tune"):
            batch_norm_layers(encoder, scope)  # type: ignore[arg-type]


def test_the_published_scope_is_refused_outside_resnets() -> None:
    with torch.device("meta"):
        densenet = torchvision.models.densenet121()
        hrnet = timm.create_model("hrnet_w18_small", num_classes=0)
    for net in (densenet, hrnet, nn.BatchNorm2d(3)):
        with pytest.raises(ValueError, match=r"use `bn_scope=all`") as caught:
            batch_norm_layers(net, "published")
        assert not isinstance(caught.value, NotApplicable)


def test_shared_parameters_count_once() -> None:
    layer = nn.BatchNorm2d(4)
    net = nn.Sequential(layer, nn.Conv2d(4, 4, 1, bias=False))
    found = counts(net, [layer, layer])
    assert (found.trainable, found.total, found.share) == (8, 24, 8 / 24)
