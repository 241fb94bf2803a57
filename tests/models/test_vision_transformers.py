"""Vision transformers in timm's names, from the arrays of their authors.

Names and axes: ``vit_jax/models_vit.py`` of https://github.com/google-research/vision_transformer;
the rule of positions: ``interpolate_posembed`` of its ``vit_jax/checkpoint.py``.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from jax_arrays import WIDTH, vit_arrays
from scipy import ndimage

import ssl_transfer
from ssl_transfer import models
from ssl_transfer.config import compose, options, plain, resolve
from ssl_transfer.models.vision_transformers import resized_positions, vision_transformer

ARCH = "vit_tiny_patch16_224"
NODE = {
    "_target_": "ssl_transfer.models.vision_transformers.vision_transformer",
    "arch": ARCH,
    "image_size": 32,
    "options": {"depth": 2},
    "preprocessing": {"size": 32, "resize": None},
}

# Features and parameters without a classifier at 224 px: section 4 of Dosovitskiy et al. 2021
# (https://arxiv.org/abs/2010.11929, table 1) rounds the latter to 86, 307 and 632 million.
SIZES = {
    "vit_base_16": (768, 85_798_656, 12, 12, 3072),
    "vit_large_16": (1024, 303_301_632, 24, 16, 4096),
    "vit_huge_14": (1280, 630_764_800, 32, 16, 5120),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vit") / "file.npz"
    np.savez(path, **vit_arrays(side=2))
    return path


@pytest.fixture(scope="module")
def judge(file: Path) -> Any:
    """Return timm's network with its own reading of the file."""
    network = timm.create_model(ARCH, num_classes=5, img_size=32, depth=2)
    network.load_pretrained(str(file))
    return network.eval()


def built(path: Path, **keys: Any) -> models.Encoder:
    weights = {"path": str(path), "layout": "vit_jax"}
    return models.build({**NODE, "weights": weights, **keys}).eval()


IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_feature_is_the_class_token_after_the_final_norm(file: Path, judge: Any) -> None:
    encoder = built(file)
    with torch.no_grad():
        tokens = judge.forward_features(IMAGES)  # after the norm
        torch.testing.assert_close(encoder(IMAGES), tokens[:, 0], rtol=1e-4, atol=1e-5)
        assert encoder.head is not None
        scores = encoder.head.layers(encoder(IMAGES))
        torch.testing.assert_close(scores, judge(IMAGES), rtol=1e-4, atol=1e-4)


def test_prenorm_is_the_class_token_before_it_and_has_no_classifier(file: Path, judge: Any) -> None:
    encoder = built(file, prenorm=True)
    assert encoder.head is None
    assert not any(name.startswith("norm.") for name in encoder.backbone.state_dict())
    with torch.no_grad():
        normed = judge.norm(encoder(IMAGES))
        torch.testing.assert_close(
            normed, judge.forward_features(IMAGES)[:, 0], rtol=1e-4, atol=1e-5
        )


def test_positions_of_another_size_are_interpolated_as_the_authors_do(
    file: Path, judge: Any
) -> None:
    size = 64
    encoder = built(file, image_size=size, preprocessing={"size": size, "resize": None})
    own = encoder.backbone.state_dict()["pos_embed"]
    given = torch.from_numpy(vit_arrays(side=2)["Transformer/posembed_input/pos_embedding"])
    grid = ndimage.zoom(given[0, 1:].reshape(2, 2, WIDTH).numpy(), (2, 2, 1), order=1)
    assert torch.equal(own[:, 0], given[:, 0])
    np.testing.assert_allclose(own[0, 1:].numpy(), grid.reshape(16, WIDTH), atol=1e-6)
    assert encoder.head is not None  # the classifier takes the same features
    again = encoder.backbone.state_dict()["blocks.1.mlp.fc2.weight"]
    assert torch.equal(again, judge.state_dict()["blocks.1.mlp.fc2.weight"])


@pytest.mark.parametrize(("old", "new"), [(14, 24), (16, 27), (24, 14)])
def test_corners_of_the_grid_keep_their_positions(old: int, new: int) -> None:
    positions = torch.randn(1, old**2 + 1, 4, generator=torch.Generator().manual_seed(0))
    resized = resized_positions(positions, new**2 + 1)
    before, after = (
        table[0, 1:].unflatten(0, (side, side))[:: side - 1, :: side - 1]
        for table, side in ((positions, old), (resized, new))
    )
    torch.testing.assert_close(before, after)
    zoomed = ndimage.zoom(
        positions[0, 1:].reshape(old, old, 4).numpy(), (new / old, new / old, 1), order=1
    )
    np.testing.assert_allclose(resized[0, 1:].numpy(), zoomed.reshape(-1, 4), atol=1e-5)


def test_a_grid_that_is_not_square_is_left_to_the_strict_comparison(tmp_path: Path) -> None:
    odd = torch.zeros(1, 7, 4)
    assert resized_positions(odd, 17) is odd
    content = vit_arrays(side=2)
    content["Transformer/posembed_input/pos_embedding"] = np.zeros((1, 7, WIDTH), np.float32)
    np.savez(tmp_path / "file.npz", **content)
    with pytest.raises(ValueError, match=r"pos_embed is \[1, 7, 192\] for \[1, 5, 192\]"):
        built(tmp_path / "file.npz")


def test_pre_logits_are_left_out_with_the_classifier_behind_them(tmp_path: Path) -> None:
    # The original files of ImageNet-21k, e.g. ViT-H_14.npz.
    layer = {"pre_logits/kernel": np.zeros((WIDTH, WIDTH), np.float32),
             "pre_logits/bias": np.zeros(WIDTH, np.float32)}  # fmt: skip
    np.savez(tmp_path / "file.npz", **vit_arrays(side=2), **layer)
    assert built(tmp_path / "file.npz").head is None


@pytest.mark.parametrize("name", SIZES)
def test_the_networks_have_the_published_sizes(name: str) -> None:
    node = resolve(plain(compose([f"model={name}"])))["model"]
    with torch.device("meta"):
        network = vision_transformer(node["arch"], node["image_size"])
    width, parameters, blocks, heads, hidden = SIZES[name]
    assert sum(p.numel() for p in network.parameters()) == parameters
    tensors = network.state_dict()
    assert tensors["norm.weight"].shape == (width,)
    assert tensors["blocks.0.mlp.fc1.weight"].shape == (hidden, width)
    assert f"blocks.{blocks - 1}.attn.qkv.weight" in tensors
    assert f"blocks.{blocks}.attn.qkv.weight" not in tensors
    assert network.get_submodule("blocks.0.attn").num_heads == heads
    norm = network.get_submodule("norm")
    assert (norm.eps, network.global_pool) == (1e-6, "token")


def test_the_options_are_all_here_and_prepare_images_as_published() -> None:
    names = {name for name in options("model") if name.startswith(tuple(SIZES))}
    tuned = {f"{name}_in1k" for name in SIZES}
    augreg = {
        f"vit_{size}_augreg{end}" for size in ("base_16", "large_16") for end in ("", "_in1k")
    }
    assert names == {*SIZES, *tuned, *augreg}
    for name in names:
        node = resolve(plain(compose([f"model={name}"])))["model"]
        size = 384 if name.endswith("in1k") else 224
        assert node["image_size"] == size
        # `vit384px` of src/datasets.py of TjuJianyu/RRL.
        assert node["preprocessing"] == {
            "size": size, "resize": None, "interpolation": "bicubic", "mean": [0.5] * 3,
            "std": [0.5] * 3,
        }  # fmt: skip
        place = "imagenet2012" if name.endswith("in1k") else "i21k" if "augreg" in name else "21k"
        assert place in node["weights"]["url"]
    wider = ["model=vit_base_16", "model.image_size=384"]
    assert resolve(plain(compose(wider)))["model"]["preprocessing"]["size"] == 384


def test_a_network_without_class_token_is_refused() -> None:
    bare = {"depth": 1, "class_token": False, "global_pool": "avg"}
    with pytest.raises(ValueError, match=rf"a class token and learnt positions, but is '{ARCH}'"):
        vision_transformer(ARCH, 32, options=bare)
    with pytest.raises(ValueError, match="must be a classification model of timm"):
        vision_transformer("vit_base_patch17")


def test_a_fine_tuned_file_is_a_classifier(file: Path, judge: Any) -> None:
    overrides = [f"model.arch={ARCH}", "model.image_size=32", "+model.options.depth=2"]
    classifier = ssl_transfer.load_classifier(file, "vit_base_16_in1k", overrides=overrides)
    with torch.no_grad():
        expected = judge((IMAGES - 0.5) / 0.5)
        torch.testing.assert_close(classifier(IMAGES), expected, rtol=1e-4, atol=1e-4)
