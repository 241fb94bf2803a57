"""``model.features``: encoders that end in chosen tokens of a vision transformer."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_transfer import models
from ssl_transfer.config import compose, plain
from ssl_transfer.models.sources import network
from ssl_transfer.models.tokens import (
    columns_of_every,
    has_class_token,
    tokens_of,
    with_every_token,
)
from ssl_transfer.models.weights import save_encoder
from ssl_transfer.runs import Run
from ssl_transfer.runs.signature import problems

SMALL = {"embed_dim": 32, "num_heads": 2, "depth": 5}
WITH_CLASS_TOKEN = {
    "vit_tiny_patch16_224": {"img_size": 48, **SMALL},
    "vit_small_patch14_reg4_dinov2": {"img_size": 56, **SMALL},
    "vit_small_patch16_dinov3": {"img_size": 64, **SMALL, "embed_dim": 64},
    "beitv2_base_patch16_224": {"img_size": 48, **SMALL},
}
WITHOUT = {
    "vit_base_patch16_siglip_224": {"img_size": 48, **SMALL},
    "vit_huge_patch14_gap_224": {"img_size": 56, **SMALL},
}
CHOICES = ("cls", "mean", "cls_mean", "last4")


def encoder(arch: str, features: str = "pooled", **options: Any) -> models.Encoder:
    node = {
        "_target_": "ssl_transfer.models.backbones.timm_backbone",
        "name": arch,
        "arch": arch,
        "options": {**{**WITH_CLASS_TOKEN, **WITHOUT}[arch], **options},
        "features": features,
    }
    return models.build(node).eval()


def images_for(judged: models.Encoder) -> Tensor:
    size = judged.preprocessing.size
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("arch", WITH_CLASS_TOKEN)
@torch.no_grad()
def test_each_choice_is_what_the_publications_define(arch: str) -> None:
    whole = encoder(arch)
    images, timm_network = images_for(whole), whole.backbone
    every: Any = timm_network.forward_features(images)
    final = getattr(timm_network, "fc_norm", torch.nn.Identity())  # of networks without `norm`
    patches = every[:, timm_network.num_prefix_tokens :]
    cls, mean = final(every[:, 0]), final(patches.mean(1))
    # As eval_linear.py of facebookresearch/dino: [x[:, 0] for x in get_intermediate_layers].
    blocks = timm_network.forward_intermediates(
        images, indices=[1, 2, 3, 4], norm=True, output_fmt="NLC", return_prefix_tokens=True
    )[1]
    last4 = torch.cat([final(prefix[:, 0]) for _, prefix in blocks], dim=1)
    expected = {"cls": cls, "mean": mean, "cls_mean": torch.cat([cls, mean], 1), "last4": last4}
    for choice in CHOICES:
        chosen = encoder(arch, choice)
        assert chosen.feature_dim == expected[choice].shape[1]
        torch.testing.assert_close(chosen(images), expected[choice], rtol=0, atol=1e-5)
        torch.testing.assert_close(copy.deepcopy(chosen)(images), chosen(images))


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("depth", [3, 5])
@torch.no_grad()
def test_each_choice_consists_of_columns_of_every_token(choice: str, depth: int) -> None:
    if choice == "last4" and depth < 4:
        pytest.skip("there are too few blocks")
    chosen = encoder("vit_tiny_patch16_224", choice, depth=depth)
    every = with_every_token(chosen)
    images = images_for(chosen)
    columns = columns_of_every(chosen.backbone, chosen.feature_dim)
    parts = [every(images)[:, part] for part in columns]
    torch.testing.assert_close(torch.cat(parts, dim=1), chosen(images), rtol=0, atol=1e-6)
    assert chosen(images).shape[1] == chosen.feature_dim  # sharing weights changed nothing


def test_the_array_of_every_token_is_the_same_for_all_choices() -> None:
    encoders = [with_every_token(encoder("vit_tiny_patch16_224", choice)) for choice in CHOICES]
    assert len({models.fingerprint(one) for one in encoders}) == 1
    assert len({network(one.backbone, type(one), one.maker) for one in encoders}) == 1


@pytest.mark.parametrize("arch", WITHOUT)
@torch.no_grad()
def test_a_network_without_class_token_has_the_mean_alone(arch: str) -> None:
    chosen = encoder(arch, "mean")
    assert not has_class_token(chosen.backbone)
    images = images_for(chosen)
    tokens = tokens_of(chosen.backbone, images)
    assert tokens.prefix.shape[1] == 0
    torch.testing.assert_close(chosen(images), tokens.patches.mean(1))
    torch.testing.assert_close(with_every_token(chosen)(images), chosen(images))
    for choice in ("cls", "cls_mean", "last4"):
        with pytest.raises(ValueError, match=r"must be used with a class token, but .* has none"):
            encoder(arch, choice)


def test_register_tokens_are_no_patch_tokens() -> None:
    chosen = encoder("vit_small_patch14_reg4_dinov2")
    tokens = tokens_of(chosen.backbone, images_for(chosen))
    assert (tokens.prefix.shape[1], tokens.patches.shape[1]) == (1 + 4, 4 * 4)


def test_a_choice_is_an_encoder_of_its_own_and_pooled_is_the_default() -> None:
    encoders = [encoder("vit_tiny_patch16_224", choice) for choice in ("pooled", *CHOICES)]
    assert len({models.fingerprint(one) for one in encoders}) == 5
    assert len({network(one.backbone) for one in encoders}) == 5
    runs = [
        Run(plain(compose(["model=dinov2_small", *overrides])))
        for overrides in ([], ["model.features=pooled"], ["model.features=cls"])
    ]
    assert [run.id == runs[0].id for run in runs] == [True, True, False]


def test_saved_weights_serve_every_choice(tmp_path: Any) -> None:
    source = encoder("vit_tiny_patch16_224", "cls_mean")
    save_encoder(source, tmp_path, config={"name": "vit"}, parents=[])
    images = images_for(source)
    loaded = encoder("vit_tiny_patch16_224", "cls")
    torch.nn.init.zeros_(loaded.backbone.cls_token)
    models.load_weights(loaded, tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(images), source(images)[:, :32])


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["model=dinov2_small", "model.features=class"], "`model.features` must be one of"),
        (["model=dinov2_small", "model.features=null"], "`model.features` must be one of"),
    ],
)
def test_an_unknown_choice_is_refused_before_any_work(overrides: list[str], sentence: str) -> None:
    (problem,) = problems(plain(compose(overrides)))
    assert sentence in problem


def test_networks_without_tokens_or_with_too_few_blocks_are_one_sentence() -> None:
    node = {
        "_target_": "ssl_transfer.models.small_resnet.small_resnet",
        "name": "small",
        "width": 8,
    }
    prepared = {"size": 32, "resize": None}
    with pytest.raises(ValueError, match="must be used with a vision transformer of timm, but"):
        models.build({**node, "preprocessing": prepared, "features": "cls"})
    with pytest.raises(ValueError, match=r"with 4 blocks or more, but .* has 3"):
        encoder("vit_tiny_patch16_224", "last4", depth=3)
