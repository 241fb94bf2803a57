"""Released vision transformers and RegNets with heads; timm's own loaders are the judges.

Names and axes: ``vit_jax/models_vit.py`` of https://github.com/google-research/vision_transformer,
https://github.com/facebookresearch/vissl and ``classy_vision/models/regnet.py`` of
https://github.com/facebookresearch/ClassyVision, as ``timm/models/vision_transformer.py`` and
``timm/models/regnet.py`` read them.
"""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from jax_arrays import WIDTH, vit_arrays

import ssl_transfer
from ssl_transfer.models.reading import read_state

CLASSES = 5


def expected(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return a network's class scores of images in [0, 1]."""
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        return network.eval()((images - mean) / std)


def test_a_vision_transformer_of_jax_scores_as_in_timm(tmp_path: Path) -> None:
    path = tmp_path / "Ti_16.npz"
    np.savez(path, **vit_arrays(14, CLASSES, 12))
    judge = timm.create_model("vit_tiny_patch16_224", num_classes=CLASSES)
    judge.load_pretrained(str(path))
    classifier = ssl_transfer.load_classifier(
        path, "timm", overrides=["model.arch=vit_tiny_patch16_224"]
    )
    images = torch.rand(2, 3, 224, 224)
    torch.testing.assert_close(classifier(images), expected(judge, images), rtol=1e-4, atol=1e-4)
    np.savez(
        path,
        **vit_arrays(14, CLASSES, 12),
        **{"pre_logits/kernel": np.zeros((WIDTH, WIDTH), np.float32)},
    )
    with pytest.raises(ValueError, match="must hold a linear classifier on 192 features"):
        ssl_transfer.load_classifier(path, "timm", overrides=["model.arch=vit_tiny_patch16_224"])


def in_vissl(name: str) -> str | None:
    """Return Classy Vision's name of a tensor of timm's RegNet."""
    layers = {"conv1.conv": "f.a.0", "conv1.bn": "f.a.1", "conv2.conv": "f.b.0",
              "conv2.bn": "f.b.1", "se.fc1": "f.se.excitation.0", "se.fc2": "f.se.excitation.2",
              "conv3.conv": "f.c", "conv3.bn": "f.final_bn", "downsample.conv": "proj",
              "downsample.bn": "bn"}  # fmt: skip
    first, _, rest = name.partition(".")
    if first == "stem":
        return "_feature_blocks.conv1.stem." + rest.replace("conv.", "0.").replace("bn.", "1.")
    if first == "head":
        return None
    block, layer, leaf = rest.split(".", 1)[0], *rest.split(".", 1)[1].rsplit(".", 1)
    number = f"block{first[1:]}-{int(block[1:]) - 1}"
    return f"_feature_blocks.res{int(first[1:]) + 1}.{number}.{layers[layer]}.{leaf}"


def test_a_fine_tuned_regnet_of_seer_scores_as_in_timm(tmp_path: Path) -> None:
    network = timm.create_model("regnety_002", num_classes=CLASSES)
    state: dict[str, Any] = network.state_dict()
    trunk = {new: tensor for name, tensor in state.items() if (new := in_vissl(name))}
    heads = {f"0.clf.0.{leaf}": state[f"head.fc.{leaf}"] for leaf in ("weight", "bias")}
    heads["0.projection_head.0.weight"] = torch.zeros(3, 3)
    content = {"classy_state_dict": {"base_model": {"model": {"trunk": trunk, "heads": heads}}}}
    path = tmp_path / "seer_finetuned.pth"
    torch.save(content, path)
    judge = timm.create_model("regnety_002", num_classes=CLASSES)
    judge.load_state_dict(timm.models.regnet._filter_fn(content), strict=False)
    classifier = ssl_transfer.load_classifier(path, "timm", overrides=["model.arch=regnety_002"])
    images = torch.rand(2, 3, 224, 224)
    torch.testing.assert_close(classifier(images), expected(judge, images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("damage", ["objects", "header", "cut"])
def test_a_damaged_or_hostile_archive_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "file.npz"
    if damage == "objects":
        np.savez(path, a=np.array([{}], dtype=object))
    elif damage == "header":  # a few bytes that promise terabytes
        np.savez(path, a=np.zeros(3))
        with zipfile.ZipFile(path) as archive:
            content = archive.read("a.npy").replace(b"(3,)", b"(3000000000000,)")
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.npy", content)
    else:
        np.savez(path, a=np.zeros(300))
        path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ValueError, match=r"truncated or damaged|but `.*` is none"):
        read_state(path)
