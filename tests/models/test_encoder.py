import random
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor, nn

from ssl_transfer import models
from ssl_transfer.models.encoder import Encoder, wrap
from ssl_transfer.preprocessing import Preprocessing

SMALL = Preprocessing(size=8, resize=None)


class Net(nn.Module):
    def __init__(self, dim: int = 5) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(3, dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.dropout(self.norm(images)).mean((2, 3)))


class Returns(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Any:
        return self.function(images)


def test_wrapping_measures_the_dimension_and_changes_nothing_of_the_module() -> None:
    net = Net(dim=5)
    net.norm.eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    generator = torch.get_rng_state()
    encoder = wrap(net, SMALL)
    assert encoder.feature_dim == 5
    assert encoder.backbone is net
    assert encoder.name == "Net"
    assert net.training
    assert net.dropout.training
    assert not net.norm.training
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert encoder(torch.randn(4, 3, 8, 8)).shape == (4, 5)


def test_a_double_precision_module_is_measured_in_its_own_type() -> None:
    assert wrap(Net().double(), SMALL).feature_dim == 5


def test_a_lazy_layer_gets_its_shape_from_the_measurement() -> None:
    net = nn.Sequential(nn.Flatten(), nn.LazyLinear(7))
    assert wrap(net, SMALL).feature_dim == 7
    assert net[1].weight.shape == (7, 3 * 8 * 8)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x, r"returned a tensor \['B', 3, 8, 8\].*pool or flatten it"),
        (lambda x: (x, x), "returned a tuple; return one tensor"),
        (lambda x: x.flatten(), r"shape \[384\].*return one row per image"),
        (lambda x: x.flatten(1).mean(1), r"\['B'\].*return one row per image"),
        (lambda x: x.flatten(1).long(), "torch.int64"),
        (lambda x: x @ torch.zeros(5, 5), "failed on two of them .*preprocessing.size"),
    ],
)
def test_a_module_without_features_per_image_is_refused(function: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        wrap(Returns(function), SMALL)
    assert "\n" not in str(caught.value)


def test_something_else_than_a_module_is_refused(package: types.ModuleType) -> None:
    package.make_encoder = lambda: print  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="is a builtin_function_or_method; return the module"):
        models.build({"_target_": "my_package.make_encoder"})


def test_preprocessing_comes_from_the_argument_then_the_module_and_cannot_be_forgotten() -> None:
    net = Net()
    with pytest.raises(ValueError, match=r"give `model\.preprocessing`"):
        wrap(net)
    net.preprocessing = {"size": 16, "resize": 20, "mean": [0, 0, 0], "std": [1, 1, 1]}  # type: ignore[assignment]
    own = Preprocessing(16, 20, mean=(0, 0, 0), std=(1, 1, 1))
    assert wrap(net).preprocessing == own
    assert wrap(net, SMALL).preprocessing == SMALL
    assert wrap(net, {"interpolation": "bicubic"}).preprocessing == Preprocessing(
        16, 20, "bicubic", (0, 0, 0), (1, 1, 1)
    )
    assert wrap(net, {"size": 8}).preprocessing == own.at_size(8)


def test_wrapping_an_encoder_replaces_its_preprocessing_only() -> None:
    encoder = wrap(Net(), SMALL, name="mine")
    again = wrap(encoder, {"size": 4})
    assert isinstance(again, Encoder)
    assert again.backbone is encoder.backbone
    assert again.name == "mine"
    assert again.preprocessing == Preprocessing(size=4, resize=None)
    assert wrap(encoder).preprocessing == SMALL


def test_an_unknown_key_of_preprocessing_is_answered_with_the_known() -> None:
    with pytest.raises(ValueError, match=r"among \['size', .*\['sice'\]"):
        SMALL.replaced(values={"sice": 3})


def test_images_without_three_channels_violate_the_contract() -> None:
    encoder = wrap(Net(), SMALL)
    with pytest.raises(TypeCheckError):
        encoder(torch.zeros(2, 1, 8, 8))


# ---- build --------------------------------------------------------------------------------------


@pytest.fixture
def package() -> Iterator[types.ModuleType]:
    """A user's own package, as ``model._target_=my_package.make_encoder`` names it."""
    module = types.ModuleType("my_package")
    sys.modules["my_package"] = module
    yield module
    del sys.modules["my_package"]


def test_an_own_encoder_is_built_from_its_target(package: types.ModuleType) -> None:
    package.make_encoder = lambda dim: Net(dim)  # type: ignore[attr-defined]
    config = {
        "_target_": "my_package.make_encoder",
        "name": "mine",
        "dim": 9,
        "weights": {"path": None, "layout": "auto", "sha256": None},
        "preprocessing": {"size": 8, "resize": None},
    }
    encoder = models.build(config)
    assert encoder.feature_dim == 9
    assert encoder.name == "mine"
    assert encoder.preprocessing == SMALL


def test_initial_weights_depend_on_the_seed_alone(package: types.ModuleType) -> None:
    package.make_encoder = Net  # type: ignore[attr-defined]
    config = {"_target_": "my_package.make_encoder", "preprocessing": {"size": 8, "resize": None}}
    first = models.fingerprint(models.build(config, seed=0))
    torch.manual_seed(random.randrange(1000))
    before = torch.get_rng_state()
    assert models.fingerprint(models.build(config, seed=0)) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert models.fingerprint(models.build(config, seed=1)) != first


@pytest.mark.parametrize(
    ("target", "message"),
    [(None, "`model._target_` must name"), ("my_packidge.make", "my_packidge.make. cannot")],
)
def test_a_missing_or_misspelt_target_is_one_sentence(target: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.build({"_target_": target})


def test_what_the_target_returns_must_be_an_encoder(package: types.ModuleType) -> None:
    package.make_encoder = lambda: Returns(lambda x: x)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="`mine` must map images"):
        models.build(
            {"_target_": "my_package.make_encoder", "name": "mine", "preprocessing": {"size": 8}}
        )
