"""Several networks of one architecture as one encoder."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ssl_transfer import models
from ssl_transfer.config import compose, plain, resolve
from ssl_transfer.models.joint import Joint, joint
from ssl_transfer.models.weights import save_encoder
from ssl_transfer.runs.signature import problems


def node(*overrides: str) -> dict[str, Any]:
    model: dict[str, Any] = resolve(plain(compose(overrides)))["model"]
    return model


SMALL = ("model=joint", "model.arch=small_resnet", "+model.options.width=8")


def test_the_features_are_those_of_the_networks_in_their_order() -> None:
    encoder = models.build(node(*SMALL, "model.networks=3")).eval()
    assert encoder.feature_dim == 3 * 32
    assert encoder.preprocessing.size == 32
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert isinstance(encoder.backbone, Joint)
    with torch.no_grad():
        parts = [network(images) for network in encoder.backbone.networks]
        assert torch.equal(encoder(images), torch.cat(parts, dim=1))


def test_one_seed_gives_each_network_an_initialisation_of_its_own() -> None:
    encoder, again, other = (models.build(node(*SMALL), seed=seed) for seed in (0, 0, 1))
    assert models.fingerprint(encoder) == models.fingerprint(again) != models.fingerprint(other)
    assert isinstance(encoder.backbone, Joint)
    first, second = (network.state_dict() for network in encoder.backbone.networks)
    assert not torch.equal(first["conv1.weight"], second["conv1.weight"])
    single = models.build(node("model=small_resnet", "model.width=8"), seed=0)
    assert torch.equal(first["conv1.weight"], single.backbone.state_dict()["conv1.weight"])


def test_the_joint_resnets_have_the_published_sizes() -> None:
    # `2resnet50` and `4resnet50` of Zhang and Bottou 2023: 4,096 and 8,192 features, 2 and 4 times
    # the 23,508,032 parameters of a ResNet-50.
    for name, networks in (("two_resnet50", 2), ("four_resnet50", 4)):
        keys = node(f"model={name}")
        assert (keys["arch"], keys["networks"]) == ("resnet50", networks)
    with torch.device("meta"):
        whole = joint("resnet50", 2)
    assert sum(p.numel() for p in whole.parameters()) == 2 * 23_508_032
    assert whole(torch.zeros(1, 3, 64, 64, device="meta")).shape == (1, 2 * 2048)


@pytest.mark.parametrize(
    ("arch", "options", "dim"),
    [("resnet18", {"stem": "cifar"}, 512), ("resnet18w2", None, 1024),
     ("mobilenet_v3_small", None, 1024), ("vit_tiny_patch16_224", {"img_size": 32}, 192)],
)  # fmt: skip
def test_any_architecture_can_be_joined(arch: str, options: Any, dim: int) -> None:
    with torch.device("meta"):
        whole = joint(arch, 2, options).eval()
    assert whole(torch.zeros(2, 3, 32, 32, device="meta")).shape == (2, 2 * dim)


def test_a_joint_encoder_survives_saving(tmp_path: Path) -> None:
    keys = node(*SMALL)
    encoder = models.build(keys, seed=3)
    save_encoder(encoder, tmp_path, config=keys, parents=[])
    again = models.build({**keys, "weights": {"path": str(tmp_path)}})
    assert models.fingerprint(again) == models.fingerprint(encoder)


def test_mistakes_are_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"`model\.options` must be keyword arguments of .*depth"):
        joint("small_resnet", 2, {"depth": 3})
    with pytest.raises(ValueError, match=r"`model\.arch` must be .*resnett50"):
        joint("resnett50", 2)
    (sentence,) = problems(plain(compose([*SMALL, "model.networks=0"])))
    assert "`model.networks` must be at least 1" in sentence
    (sentence,) = problems(plain(compose(["model=joint"])))
    assert sentence == "`model.arch` must be given; add `model.arch=…` to the command line."


def test_all_networks_are_trained_by_one_head() -> None:
    encoder = models.build(node(*SMALL))
    torch.manual_seed(0)
    head = nn.Linear(encoder.feature_dim, 3)
    loss = nn.functional.cross_entropy(head(encoder(torch.rand(4, 3, 32, 32))), torch.arange(4) % 3)
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in encoder.parameters())
