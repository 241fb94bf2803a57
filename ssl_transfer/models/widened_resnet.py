"""ResNets whose every width is a multiple of the usual one: ``resnet50w2``, ``resnet18w3``, ….

torchvision's own wide ResNets only widen the inner convolution of each block and end in the usual
2,048 features; the self-supervised literature widens the stem and all stages, so that the features
widen, too.
"""

import re
from typing import Any

import torch
from torch import nn
from torchvision.models import resnet as torchvision_resnets
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

_NAME = re.compile(r"(?P<arch>resnet\d+)w(?P<widen>[1-9]\d*)$")


class WidenedResNet(ResNet):  # type: ignore[misc]  # torchvision has no types
    """torchvision's ResNet, widened as SwAV widens it (its ``src/resnet50.py``, ``widen``).

    pretraining/resnet.py of linusericsson/ssl-invariances widens likewise. Names of layers and
    initialisation are torchvision's.

    Args:
        block: class of the blocks.
        layers: number of blocks per stage.
        widen: factor of the usual width, at least 1.
        zero_init_residual: as in torchvision's ResNet.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        layers: list[int],
        widen: int,
        zero_init_residual: bool = False,
    ) -> None:
        self._widen = widen
        super().__init__(block, layers, zero_init_residual=zero_init_residual)
        self.conv1 = nn.Conv2d(3, 64 * widen, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = nn.BatchNorm2d(64 * widen)
        self.fc = nn.Linear(self.inplanes, 1000)

    def _make_layer(self, block: Any, planes: int, *rest: Any, **options: Any) -> nn.Sequential:
        if planes == 64:  # the first stage, whose input has the stem's width
            self.inplanes *= self._widen
        stage: nn.Sequential = super()._make_layer(block, planes * self._widen, *rest, **options)
        return stage


def is_resnet(arch: str) -> bool:
    """Return whether a name is that of a ResNet with 7x7 stem, as it is or widened as a whole."""
    match = _NAME.match(arch)
    return hasattr(torchvision_resnets, match["arch"] if match else arch) and "resnet" in arch


def widened_resnet(arch: str, zero_init_residual: bool = False) -> WidenedResNet | None:
    """Return a widened ResNet with random weights, or None if ``arch`` is not its name.

    Args:
        arch: a ResNet of torchvision with its factor, e.g. ``resnet50w2``.
        zero_init_residual: whether the last BatchNorm of every block starts at zero.
    """
    match = _NAME.match(arch)
    builder = getattr(torchvision_resnets, match["arch"], None) if match else None
    if match is None or builder is None:
        return None
    with torch.device("meta"):
        usual = builder()
    stages = [usual.layer1, usual.layer2, usual.layer3, usual.layer4]
    layers, block = [len(stage) for stage in stages], type(usual.layer1[0])
    return WidenedResNet(block, layers, int(match["widen"]), zero_init_residual)
