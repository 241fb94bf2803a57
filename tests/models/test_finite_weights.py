"""Weights with NaN are refused where they are read, by the name of the tensor and its share."""

from pathlib import Path

import jaxtyping
import pytest
import torch
from torch import nn

from ssl_transfer import models
from ssl_transfer.models.small_resnet import small_resnet
from ssl_transfer.models.weights import load_weights
from ssl_transfer.preprocessing import Preprocessing

SMALL = Preprocessing(size=16, resize=None)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_bad_value_in_a_file_is_named_when_it_is_loaded(tmp_path: Path, value: float) -> None:
    state = small_resnet(4).state_dict()
    state["layer3.0.conv2.weight"][3, 2, 1, 0] = value
    torch.save(state, tmp_path / "weights.pth")
    encoder = models.wrap(small_resnet(4), SMALL, name="mine")
    before = encoder.backbone.layer3[0].conv2.weight.clone()
    size = before.numel()
    with pytest.raises(ValueError, match=rf"1 of {size} values .* of `layer3.0.conv2.weight` in"):
        load_weights(encoder, tmp_path / "weights.pth")
    assert torch.equal(encoder.backbone.layer3[0].conv2.weight, before)


def test_an_encoder_with_bad_weights_is_refused_in_a_script_too() -> None:
    network = small_resnet(4)
    with torch.no_grad():
        network.bn1.bias[:] = float("nan")
    with pytest.raises(ValueError, match=r"4 of 4 values \(100 %\) of `bn1.bias` in `mine`"):
        models.wrap(network, SMALL, name="mine")


def test_a_mask_of_infinity_is_no_weight() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.full((3,), -torch.inf))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)

    assert models.wrap(Masked(), SMALL).feature_dim == 3 * 16 * 16


def test_a_preprocessing_of_the_wrong_kind_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    # Users run without the type checker of the tests, which refuses the argument first.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match="`preprocessing` must be a Preprocessing or a mapping"):
        models.wrap(nn.Flatten(), 7)
