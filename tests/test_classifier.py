"""Classifiers of finished runs and of published files: the class scores that the run itself had."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_runs import DATA, METHOD, TUNING, run_all, tiny
from torch import nn

import ssl_transfer
from ssl_transfer import datasets, models
from ssl_transfer.classifier import Classifier
from ssl_transfer.config import compose, plain
from ssl_transfer.models.heads import Head, released_head
from ssl_transfer.runs import Run


def finished(folder: Path, *choices: str, tuned: bool = True) -> Run:
    run = tiny(folder, *choices, tuned=tuned)
    assert run_all(run).failures == {}
    return run


@pytest.mark.parametrize(
    "choices",
    [
        ["protocol=linear_probe", "protocol.head=mlp"],
        ["protocol=linear_probe", "protocol.head=cosine", "protocol.image_size=16"],
        ["protocol=bn_tune", "protocol.keep_encoder=true",
         "protocol.preprocessing={channel_order:bgr}"],
    ],
)  # fmt: skip
def test_the_classifier_of_a_run_gives_the_scores_of_its_predictions(
    tmp_path: Path, choices: list[str]
) -> None:
    run = finished(tmp_path, *choices)
    classifier = ssl_transfer.load_classifier(run.folder)
    images = list(datasets.build(run.resolved["dataset"])["test"].images)
    kept = np.load(run.folder / "test_predictions.npz")
    scores = classifier(classifier.prepare(images))
    np.testing.assert_allclose(scores.numpy(), kept["scores"], rtol=1e-4, atol=1e-5)
    assert classifier.classes == tuple(kept["classes"])
    probabilities = classifier.predict(images, batch_size=7)
    assert probabilities.argmax(1).tolist() == kept["scores"].argmax(1).tolist()
    assert probabilities.sum(1).numpy() == pytest.approx(np.ones(len(images)), rel=1e-5)
    assert not any(p.requires_grad for p in classifier.parameters())


def test_the_classifier_of_a_vision_transformer_takes_the_chosen_tokens(tmp_path: Path) -> None:
    options = "{img_size:32,embed_dim:32,num_heads:2,depth:2}"
    model = ["model=timm", "model.arch=vit_tiny_patch16_224", f"model.options={options}"]
    places = [f"paths.outputs={tmp_path}", "trainer.progress_bar=false", "trainer.device=cpu"]
    choices = ["model.features=cls_mean", "protocol=linear_probe", "dataset=digits"]
    run = Run(plain(compose([*model, *choices, *places, *DATA, *TUNING])))
    assert run_all(run).failures == {}
    classifier = ssl_transfer.load_classifier(run.folder)
    images = list(datasets.build(run.resolved["dataset"])["test"].images)
    kept = np.load(run.folder / "test_predictions.npz")["scores"]
    scores = classifier(classifier.prepare(images))
    np.testing.assert_allclose(scores.numpy(), kept, rtol=1e-4, atol=1e-5)
    assert classifier.encoder(torch.zeros(2, 3, 32, 32)).shape == (2, 64)


@pytest.mark.parametrize("solver", ["converged", "sklearn_2021"])
def test_logistic_regression_leaves_its_head(tmp_path: Path, solver: str) -> None:
    choices = ["protocol=logistic_regression", "protocol.wd_values=2"]
    run = finished(tmp_path, *choices, f"protocol.solver={solver}", tuned=False)
    classifier = ssl_transfer.load_classifier(run.folder)
    images = list(datasets.build(run.resolved["dataset"])["test"].images)
    kept = np.load(run.folder / "test_predictions.npz")["scores"]
    np.testing.assert_allclose(
        classifier(classifier.prepare(images)).numpy(), kept, rtol=1e-3, atol=1e-3
    )


def test_a_run_without_a_classifier_says_how_to_get_one(tmp_path: Path) -> None:
    for protocol, remedy in (
        ("bn_tune", r"protocol\.keep_encoder=true"),
        ("knn", "choose a run of linear_probe"),
    ):
        run = finished(tmp_path, f"protocol={protocol}", tuned=protocol == "bn_tune")
        with pytest.raises(ValueError, match=remedy):
            ssl_transfer.load_classifier(run.folder)
    with pytest.raises(ValueError, match="name its architecture by `model`"):
        ssl_transfer.load_classifier(tmp_path)
    (tmp_path / "failure.json").touch()
    with pytest.raises(ValueError, match=r"the run must have finished, but that of .* failed"):
        ssl_transfer.load_classifier(tmp_path)


def test_the_classifier_of_a_pretrained_encoder_moves_with_its_outputs(tmp_path: Path) -> None:
    run = finished(tmp_path / "here", *METHOD, "protocol=linear_probe")
    before = ssl_transfer.load_classifier(run.folder)
    shutil.move(tmp_path / "here", tmp_path / "there")
    folder = tmp_path / "there" / run.place
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(ssl_transfer.load_classifier(folder)(images), before(images))
    shutil.rmtree(tmp_path / "there" / "pretrain")
    with pytest.raises(ValueError, match="must lie beside the pre-training that it started from"):
        ssl_transfer.load_classifier(folder)


def test_changed_weights_and_damaged_heads_are_refused(tmp_path: Path) -> None:
    run = finished(tmp_path, "protocol=linear_probe")
    record = json.loads((run.folder / "record.json").read_text())
    (run.folder / "record.json").write_text(json.dumps({**record, "weights_sha256": "0" * 64}))
    with pytest.raises(ValueError, match="the weights that the run began with"):
        ssl_transfer.load_classifier(run.folder)
    head = run.folder / "head.safetensors"
    head.write_bytes(head.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(OSError, match="damaged or replaced"):
        ssl_transfer.load_classifier(run.folder)


def test_code_of_strangers_is_not_called(tmp_path: Path) -> None:
    run = finished(tmp_path, "protocol=linear_probe")
    path = run.folder / "record.json"
    record = json.loads(path.read_text())
    record["config"]["model"]["_target_"] = "os.system"
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="--trust-targets"):
        ssl_transfer.load_classifier(run.folder)


# ---- published files ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, models.Encoder, nn.Linear]:
    """A linear probe as ``linear.py`` of wgcban/mix-bt saves it: ``f.…`` and ``fc``.

    https://github.com/wgcban/mix-bt/blob/main/linear.py, class ``Net``.
    """
    encoder = models.build(
        {"_target_": "ssl_transfer.models.backbones.torchvision_resnet", "name": "tiny",
         "arch": "resnet18", "stem": "cifar", "preprocessing": {"size": 32, "resize": None}}
    )  # fmt: skip
    head = nn.Linear(encoder.feature_dim, 10)
    places = {"conv1": "0", "bn1": "1"} | {f"layer{i}": str(i + 2) for i in range(1, 5)}
    state = {
        "f." + places[name.partition(".")[0]] + "." + name.partition(".")[2]: tensor
        for name, tensor in encoder.backbone.state_dict().items()
    }
    state |= {f"fc.{name}": tensor for name, tensor in head.state_dict().items()}
    path = tmp_path_factory.mktemp("published") / "linear_model.pth"
    torch.save(state, path)
    return path, encoder, head


def test_a_published_linear_probe_is_a_classifier_without_training(
    published: tuple[Path, models.Encoder, nn.Linear],
) -> None:
    path, encoder, head = published
    classifier = ssl_transfer.load_classifier(path, "mixed_bt_r18_cifar10")
    images = torch.rand(3, 3, 32, 32)
    mean, std = (
        torch.tensor(values).view(3, 1, 1)
        for values in (classifier.preprocessing.mean, classifier.preprocessing.std)
    )
    with torch.no_grad():
        expected = head(encoder.eval()((images - mean) / std))
    torch.testing.assert_close(classifier(images), expected)
    assert classifier.classes == tuple("0123456789")
    named = ssl_transfer.load_classifier(path, "mixed_bt_r18_cifar10", classes=list("abcdefghij"))
    assert named.classes == tuple("abcdefghij")
    with pytest.raises(ValueError, match="10 outputs in their order, but has 2 names"):
        ssl_transfer.load_classifier(path, "mixed_bt_r18_cifar10", classes=["a", "b"])


def test_a_file_without_a_classifier_is_refused(
    tmp_path: Path, published: tuple[Path, models.Encoder, nn.Linear]
) -> None:
    _, encoder, _ = published
    save_file(encoder.backbone.state_dict(), tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match="a linear classifier on 512 features"):
        ssl_transfer.load_classifier(
            tmp_path / "bare.safetensors", "mixed_bt_r18_cifar10",
            overrides=["model.weights.layout=plain"],
        )  # fmt: skip
    with pytest.raises(ValueError, match="mixed_bt_r18_cifar100"):  # lists the known models
        ssl_transfer.load_classifier(tmp_path / "bare.safetensors", "mixed_bt_r18_cifar11")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["fc.weight", "fc.bias"], 1000),  # torchvision
        (["module.fc.weight", "module.fc.bias"], 1000),  # MoCo's main_lincls.py
        (["head.fc.weight", "head.fc.bias"], 1000),  # timm's RegNets
        (["head.weight", "head.bias"], 1000),  # timm's ViTs
        (["heads.head.weight", "heads.head.bias"], 1000),  # torchvision's ViTs
        (["base_model.model.heads.0.clf.0.weight"], 1000),  # VISSL
        (["module.encoder_q.fc.weight"], None),  # MoCo v1's projector, excluded by its layout
        (["student.head.weight", "teacher.head.weight"], None),  # ambiguous
    ],
)
def test_the_head_of_published_layouts(names: list[str], expected: int | None) -> None:
    state = {
        name: torch.rand(1000, 4) if name.endswith("weight") else torch.rand(1000) for name in names
    }
    head = released_head(state, 4, excluded=["module.encoder_q.fc."])
    assert (head and head.outputs) == expected
    if head is not None:
        assert head.classes is None
        assert released_head(state, 5) is None


# ---- images -------------------------------------------------------------------------------------


class Brightness(nn.Module):
    """Features are the mean colours, so that scores can be written down."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))


@pytest.fixture
def brightness() -> Classifier:
    preprocessing = {"size": 4, "resize": None, "mean": [0, 0, 0], "std": [1, 1, 1]}
    encoder = models.wrap(Brightness(), preprocessing)
    identity = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        identity.weight.copy_(torch.eye(3))
    return Classifier(encoder, Head(identity, classes=("red", "green", "blue")))


def test_images_come_as_files_pictures_and_arrays(tmp_path: Path, brightness: Classifier) -> None:
    picture = Image.new("RGB", (9, 6), (255, 51, 0))
    picture.save(tmp_path / "red.png")
    deep = np.full((5, 5), 32768, np.uint16)
    pixels = brightness.prepare(
        [picture, tmp_path / "red.png", np.asarray(picture), Image.fromarray(deep)]
    )
    expected = [[1, 0.2, 0]] * 3 + [[128 / 255] * 3]
    np.testing.assert_allclose(brightness(pixels).numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(brightness(pixels / 255).numpy(), expected, atol=1e-6)
    assert len(brightness.predict([])) == 0


def test_other_sizes_and_kinds_of_images_are_refused(brightness: Classifier) -> None:
    with pytest.raises(ValueError, match=r"must be \[batch, 3, 4, 4\], but are \[1, 3, 5, 4\]"):
        brightness(torch.zeros(1, 3, 5, 4))
    with pytest.raises(ValueError, match=r"float32 \[4, 4, 3\]"):
        brightness.prepare([np.zeros((4, 4, 3), np.float32)])
