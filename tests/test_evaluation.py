"""``evaluate`` from one's own script."""

import copy
import dataclasses
import functools
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import DATA, TUNING, run_all, tiny
from torch import nn

import ssl_transfer
from ssl_transfer import datasets, models
from ssl_transfer.datasets import Dataset, Options, reader
from ssl_transfer.datasets.embedded import digits
from ssl_transfer.models.small_resnet import small_resnet
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.preview import preview
from ssl_transfer.protocols.knn import KNN
from ssl_transfer.runs.execution import execute

PREPROCESSING = Preprocessing(size=16, resize=None)  # that of tiny_runs
HERE = ["trainer.device=cpu", "trainer.progress_bar=false"]


@pytest.fixture
def network() -> nn.Module:
    """A backbone in train mode, part of it in eval mode, one layer frozen, with a gradient."""
    encoder = small_resnet(width=4)
    module = encoder.backbone if isinstance(encoder, models.Encoder) else encoder
    torch.manual_seed(0)
    for tensor in module.parameters():
        nn.init.normal_(tensor, std=0.2)
    module.train()
    next(layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)).eval()
    first = next(module.parameters())
    first.requires_grad_(False)
    list(module.parameters())[1].grad = torch.ones_like(list(module.parameters())[1])
    return module


@pytest.mark.parametrize("protocol", ["linear_probe", "finetune", "knn"])
def test_the_score_is_that_of_the_command_line_with_the_same_weights(
    tmp_path: Path, network: nn.Module, protocol: str
) -> None:
    path = tmp_path / "network.pt"
    torch.save(network.state_dict(), path)
    tuned = protocol != "knn"
    run = tiny(
        tmp_path, f"protocol={protocol}", f"model.weights.path={path}", "seed=2", tuned=tuned
    )
    assert run_all(run).failures == {}
    overrides = [*DATA, *HERE, *(TUNING if tuned else [])]
    scores = ssl_transfer.evaluate(
        network, "digits", protocol, overrides=overrides, preprocessing=PREPROCESSING, seed=2
    )
    recorded = {s["metric"]: s["value"] for s in run.record()["scores"]}
    assert scores == recorded


def test_the_module_stays_bit_identical_in_weights_mode_and_gradients(network: nn.Module) -> None:
    before = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]
    flags = [tensor.requires_grad for tensor in network.parameters()]
    ssl_transfer.evaluate(
        network, protocol="finetune", overrides=[*DATA, *HERE, *TUNING],
        preprocessing=PREPROCESSING,
    )  # fmt: skip
    assert [module.training for module in network.modules()] == modes
    assert [tensor.requires_grad for tensor in network.parameters()] == flags
    assert torch.equal(list(network.parameters())[1].grad, torch.ones_like(
        list(network.parameters())[1]))  # fmt: skip
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_datasets_and_protocols_may_be_objects(network: nn.Module) -> None:
    small = digits(name="digits", labels_per_class=4, test_per_class=2)
    assert isinstance(small, Dataset)
    given = ssl_transfer.evaluate(
        network, small, KNN(k=5, temperature=0.07), overrides=HERE, preprocessing=PREPROCESSING
    )
    named = ssl_transfer.evaluate(
        network, "digits", "knn", overrides=[*DATA, *HERE, "protocol.k=5"],
        preprocessing=PREPROCESSING,
    )  # fmt: skip
    assert given == named
    assert 0 <= given["top1"] <= 1


def test_a_folder_keeps_what_an_interrupted_call_needs(tmp_path: Path, network: nn.Module) -> None:
    ssl_transfer.evaluate(
        network, protocol="finetune", overrides=[*DATA, *HERE, *TUNING],
        preprocessing=PREPROCESSING, folder=tmp_path / "mine",
    )  # fmt: skip
    with np.load(tmp_path / "mine" / "test_predictions.npz") as kept:
        assert len(kept["scores"]) == 20


class Flat(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"dataset": "digit"}, "`dataset` must be one of .*digits.*, but is `digit`"),
        ({"protocol": "linear_prob"}, "did you mean `linear_probe`"),
        ({"overrides": ["protocol.epoch=3"]}, "did you mean `epochs`"),
        ({"overrides": ["protocol.epochs=many"]}, "`protocol.epochs` must be"),
        ({"overrides": ["+protocol.epohcs=2"]}, "did you mean `epochs`"),
        ({"encoder": Flat(), "overrides": [*DATA, *HERE, *TUNING]}, "features"),
        ({"preprocessing": None}, "preprocessing"),
        ({"dataset": "image_folder"}, "`dataset.root` must be given"),
    ],
)
def test_misuse_is_answered_with_a_sentence(
    network: nn.Module, arguments: dict[str, object], said: str
) -> None:
    given = {"encoder": network, "preprocessing": PREPROCESSING, **arguments}
    with pytest.raises(ValueError, match=said):
        ssl_transfer.evaluate(**given)


def draw_everywhere() -> list[float]:
    """Return one number of every global generator."""
    return [random.random(), np.random.random(), float(torch.rand(()))]  # noqa: NPY002


def seed_everywhere(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


class Unruly(nn.Module):
    """It seeds and uses every global generator with every batch."""

    preprocessing = PREPROCESSING

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 16 * 16, width)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        seed_everywhere(0)
        noise = draw_everywhere()[-1]
        return self.layer(images.flatten(1)) + noise


@reader
def unruly_set(options: Options) -> Dataset:
    """Return digits, read by code that seeds every global generator."""
    seed_everywhere(0)
    return digits(**dataclasses.asdict(options))


def unruly_encoder() -> nn.Module:
    seed_everywhere(0)
    return Unruly()


UNRULY = {"_target_": f"{__name__}.unruly_encoder", "name": "unruly"}


def evaluation(protocol: str, *overrides: str) -> Callable[[Path], Callable[[], object]]:
    """Return what prepares an evaluation of an unruly encoder."""
    keys = {"protocol": protocol, "overrides": [*DATA, *HERE, *overrides]}
    return lambda _: functools.partial(ssl_transfer.evaluate, Unruly(), **keys)


# Each takes a folder and returns what is to be called.
PUBLIC: dict[str, Callable[[Path], Callable[[], object]]] = {
    "models.build": lambda _: functools.partial(models.build, UNRULY),
    "models.wrap": lambda _: functools.partial(models.wrap, Unruly()),
    "datasets.build": lambda _: functools.partial(
        datasets.build, {"_target_": f"{__name__}.unruly_set", "name": "digits"}
    ),
    "preview": lambda _: functools.partial(
        preview, ["method=simclr", "dataset@method.pretrain_on=digits"], images=2, epoch=0
    ),
    "execute": lambda folder: functools.partial(execute, tiny(folder, "protocol=finetune")),
    "linear_probe": evaluation("linear_probe", *TUNING),
    "finetune": evaluation("finetune", *TUNING),
    "knn": evaluation("knn"),
    "logistic_regression": evaluation("logistic_regression"),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_callers_generators_go_on_as_if_nothing_had_been_called(
    tmp_path: Path, name: str
) -> None:
    call = PUBLIC[name](tmp_path)
    seed_everywhere(7)
    expected = draw_everywhere()
    seed_everywhere(7)
    call()
    assert draw_everywhere() == expected


def test_a_callers_generators_go_on_after_a_refusal(network: nn.Module) -> None:
    seed_everywhere(7)
    expected = draw_everywhere()
    seed_everywhere(7)
    with pytest.raises(ValueError, match="finite"):
        ssl_transfer.evaluate(
            network, protocol="finetune", preprocessing=PREPROCESSING,
            overrides=[*DATA, *HERE, *TUNING, "protocol.grid.lr=[1e30,9e29]"],
        )  # fmt: skip
    assert draw_everywhere() == expected


class Dropping(nn.Module):
    """An encoder that drops features in eval mode, too."""

    preprocessing = PREPROCESSING

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(images.flatten(1), 0.5, training=True)


def test_an_encoder_that_draws_gets_the_same_score_whatever_the_caller_drew_before() -> None:
    scores = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        scores.append(ssl_transfer.evaluate(Dropping(), protocol="knn", overrides=[*DATA, *HERE]))
    assert scores[0] == scores[1]


def test_arrays_are_scored_as_the_same_dataset(network: nn.Module) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(40) % 4
    arrays = ssl_transfer.evaluate(
        network, (pixels, labels), "knn", overrides=HERE, preprocessing=PREPROCESSING
    )
    dataset = datasets.in_memory((pixels, labels))
    assert arrays == ssl_transfer.evaluate(
        network, dataset, "knn", overrides=HERE, preprocessing=PREPROCESSING
    )
    with pytest.raises(ValueError, match=r"`dataset\.flip=false` must be left out"):
        ssl_transfer.evaluate(network, (pixels, labels), overrides=["dataset.flip=false"])
