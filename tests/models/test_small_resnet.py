import copy
import warnings

import pytest
import torch
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock as Judge

from ssl_transfer import models
from ssl_transfer.models.small_resnet import BasicBlock, small_resnet


def _config(**keys: object) -> dict[str, object]:
    return {
        "_target_": "ssl_transfer.models.small_resnet.small_resnet",
        "preprocessing": {"size": 32, "resize": None},
        **keys,
    }


def test_the_default_has_the_documented_size() -> None:
    encoder = models.build(_config())
    # The figures of conf/model/small_resnet.yaml.
    assert sum(p.numel() for p in encoder.parameters()) == 77_392
    assert encoder.feature_dim == 64


@pytest.mark.parametrize("stride", [1, 2])
def test_the_block_computes_what_torchvision_s_does(stride: int) -> None:
    torch.manual_seed(0)
    ours = BasicBlock(4, 4 * stride, stride).double()
    shortcut = ours.downsample
    judge = Judge(4, 4 * stride, stride, None if shortcut is None else torch.nn.Sequential(
        torch.nn.Conv2d(4, 4 * stride, 1, stride, bias=False), torch.nn.BatchNorm2d(4 * stride)
    )).double()  # fmt: skip
    judge.load_state_dict(ours.state_dict())  # strictly: the names are torchvision's
    x = torch.randn(3, 4, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(ours(x), judge(x), rtol=0, atol=1e-12)
    ours(x).square().sum().backward()
    judge(x).square().sum().backward()
    for mine, other in zip(ours.parameters(), judge.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=1e-9)


def test_gradients_have_the_memory_layout_of_their_weights() -> None:
    # Otherwise DistributedDataParallel warns, copies, and is slower.
    net = small_resnet(width=4)
    net(torch.randn(2, 3, 16, 16)).sum().backward()
    for parameter in net.parameters():
        assert parameter.grad is not None
        assert parameter.grad.stride() == parameter.stride()


def test_width_blocks_and_stride_do_what_they_say() -> None:
    net = small_resnet(width=4, blocks=2, stem_stride=1)
    maps: list[torch.Size] = []
    for stage in (net.layer1, net.layer2, net.layer3):
        stage.register_forward_hook(lambda _m, _x, y: maps.append(y.shape))
    assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 16)
    assert maps == [(1, 4, 32, 32), (1, 8, 16, 16), (1, 16, 8, 8)]
    assert [len(stage) for stage in (net.layer1, net.layer2, net.layer3)] == [2, 2, 2]


def test_features_are_the_mean_of_the_last_map() -> None:
    net = small_resnet(width=4).eval()
    kept: list[torch.Tensor] = []
    net.layer3.register_forward_hook(lambda _m, _x, y: kept.append(y))
    features = net(torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(features, F.adaptive_avg_pool2d(kept[0], 1).flatten(1))


def test_a_width_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`model\.width` must be at least 1, but is 0"):
        small_resnet(width=0)


def test_building_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small_resnet(width=2)


@pytest.mark.parametrize("width", [2, 3, 4, 7])
def test_narrow_networks_have_the_gradients_of_double_precision(width: int) -> None:
    # Strided 1x1 convolutions of few channels wrote beyond their memory on some processors.
    torch.manual_seed(0)
    network = small_resnet(width)
    exact = copy.deepcopy(network).double()
    images = torch.randn(16, 3, 16, 16)
    for _ in range(3):
        network.zero_grad()
        network(images).square().sum().backward()
    exact(images.double()).square().sum().backward()
    for ours, theirs in zip(network.parameters(), exact.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        error = (ours.grad - theirs.grad).norm() / theirs.grad.norm()
        assert error < 1e-3
