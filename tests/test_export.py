"""Exported classifiers: read back, they give the scores of the original."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ssl_transfer import export, models
from ssl_transfer.classifier import Classifier
from ssl_transfer.models.heads import Head, HeadKind, build_head
from ssl_transfer.models.patch_tokens import input_dim


def classifier_of(option: str, **keys: object) -> Classifier:
    size = {"preprocessing": {"size": 32, "resize": None}}
    encoder = models.build({"_target_": option, "name": "tiny", **size, **keys})
    head = Head(nn.Linear(encoder.feature_dim, 3), classes=("a", "b", "c"))
    return Classifier(encoder, head)


CNN = "ssl_transfer.models.small_resnet.small_resnet"


@pytest.fixture(scope="module")
def small() -> Classifier:
    return classifier_of(CNN)


def test_pt2_gives_the_scores_and_holds_the_classes(tmp_path: Path, small: Classifier) -> None:
    path = tmp_path / "new" / "model.pt2"
    assert export.export(small, path) <= 1e-5
    extra = {"ssl_transfer": ""}
    network = torch.export.load(path, extra_files=extra).module()
    images = torch.rand(5, 3, 32, 32)
    torch.testing.assert_close(network(images), small(images), rtol=1e-5, atol=1e-5)
    assert json.loads(extra["ssl_transfer"])["classes"] == ["a", "b", "c"]
    assert [file.name for file in path.parent.iterdir()] == ["model.pt2"]


def test_onnx_gives_the_scores_and_holds_the_classes(tmp_path: Path, small: Classifier) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra [export]")
    pytest.importorskip("onnxscript", reason="needs the extra [export]")
    path = tmp_path / "model.onnx"
    assert export.export(small, path) <= 1e-5
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = torch.rand(5, 3, 32, 32)
    (scores,) = session.run(None, {"images": images.numpy()})
    np.testing.assert_allclose(scores, small(images).numpy(), rtol=1e-5, atol=1e-5)
    described = session.get_modelmeta().custom_metadata_map["ssl_transfer"]
    assert json.loads(described)["classes"] == ["a", "b", "c"]


@pytest.mark.parametrize("suffix", ["pt2", pytest.param("onnx", marks=pytest.mark.slow)])
def test_a_vision_transformer_that_ends_in_chosen_tokens_is_exported(
    tmp_path: Path, suffix: str
) -> None:
    if suffix == "onnx":
        pytest.importorskip("onnxscript", reason="needs the extra [export]")
    options = {"img_size": 32, "embed_dim": 32, "num_heads": 2, "depth": 2}
    keys = {"arch": "vit_tiny_patch16_224", "options": options, "features": "cls_mean"}
    classifier = classifier_of("ssl_transfer.models.backbones.timm_backbone", **keys)
    assert classifier.encoder(torch.zeros(2, 3, 32, 32)).shape == (2, 64)
    assert export.export(classifier, tmp_path / f"model.{suffix}") <= 1e-5


class Drifting(Classifier):
    """Gives other scores in every call, as an export that went wrong would."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) + float(torch.compiler.is_compiling())


# A block holds the attention of the other kind.
@pytest.mark.parametrize(
    "kind", [pytest.param("attention", marks=pytest.mark.slow), "attention_block"]
)
def test_a_head_on_patch_tokens_is_exported_for_any_number_of_images(
    tmp_path: Path, kind: HeadKind
) -> None:
    encoder = models.build({"_target_": CNN, "preprocessing": {"size": 32, "resize": None}})
    head = Head(build_head(kind, input_dim(encoder, kind), 3), kind, ("a", "b", "c"))
    classifier = Classifier(encoder, head)
    path = tmp_path / "model.pt2"
    assert export.export(classifier, path) <= 1e-5
    images = torch.rand(5, 3, 32, 32)
    network = torch.export.load(path).module()
    torch.testing.assert_close(network(images), classifier(images), rtol=1e-5, atol=1e-5)


def test_an_export_that_differs_leaves_no_file(tmp_path: Path, small: Classifier) -> None:
    wrong = classifier_of(CNN)
    wrong.__class__ = Drifting
    with pytest.raises(ValueError, match="no file was written"):
        export.export(wrong, tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--to", "model.pt"], "must end in one of ['.onnx', '.pt2']"),
        (["nowhere", "--to", "model.pt2"], "must be the folder of a finished run"),
        (["a", "b", "c", "--to", "model.pt2"], "one run must be named, but 3 are, as by a pattern"),
    ],
)
def test_mistakes_get_one_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
