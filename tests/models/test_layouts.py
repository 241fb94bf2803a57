"""Checkpoints of published code, built as that code builds its networks, and the encoder in them.

Each class restates how the published code cited at it names and wraps a ResNet; what the encoder
then computes is compared with what that network computes.
"""

import copy
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms
from torchvision.models import resnet18, resnet50
from torchvision.models.resnet import BasicBlock, Bottleneck

from ssl_transfer import models
from ssl_transfer.config import compose, options, plain, resolve
from ssl_transfer.datasets.transforms import centre_crop
from ssl_transfer.models import inspect
from ssl_transfer.models.backbones import torchvision_resnet
from ssl_transfer.models.encoder import Encoder
from ssl_transfer.models.layouts import LAYOUTS, recognised
from ssl_transfer.models.reading import read_state
from ssl_transfer.models.weights import load_weights
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.runs import Run, preflight
from ssl_transfer.runs.signature import problems


def _mlp(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inside, out in itertools.pairwise(sizes):
        layers += [nn.Linear(inside, out), nn.BatchNorm1d(out), nn.ReLU()]
    return nn.Sequential(*layers[:-2])


def _small_stem(net: nn.Module, pools: bool, padding: int = 1) -> nn.Module:
    net.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=padding, bias=False)
    if not pools:
        net.maxpool = nn.Identity()
    return net


class MixBT(nn.Module):
    """wgcban/mix-bt, model.py: a list of the children, the projector beside it."""

    def __init__(self, pools: bool, net: nn.Module | None = None) -> None:
        super().__init__()
        layers = []
        for name, module in (net or resnet18()).named_children():
            if name == "conv1":
                module = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
            if not isinstance(module, nn.Linear) and (
                pools or not isinstance(module, nn.MaxPool2d)
            ):
                layers.append(module)
        self.f = nn.Sequential(*layers)
        self.g = _mlp(512, 512, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x).flatten(1)


def _with_thop(net: nn.Module) -> dict[str, Any]:
    """Return a state dict as thop 0.1.1 leaves it: counters in the modules it has no rule for."""
    for module in net.modules():
        if isinstance(module, MixBT | BasicBlock | Bottleneck):
            module.register_buffer("total_ops", torch.zeros(1, dtype=torch.float64))
            module.register_buffer("total_params", torch.zeros(1, dtype=torch.float64))
    return dict(net.state_dict())


class SslSota(nn.Module):
    """htdt/self-supervised and folder ssl-sota of mix-bt: methods/base.py, methods/byol.py."""

    def __init__(self, pools: bool) -> None:
        super().__init__()
        for name in ("model", "model_t"):
            net = _small_stem(resnet18(), pools)
            net.fc = nn.Identity()
            wrapped = nn.Module()  # as nn.DataParallel names its content
            wrapped.module = net
            setattr(self, name, wrapped)
        self.head, self.head_t, self.pred = _mlp(512, 8, 4), _mlp(512, 8, 4), _mlp(4, 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.model.module(x)  # type: ignore[no-any-return, operator, union-attr]


class BarlowTwins(nn.Module):
    """facebookresearch/barlowtwins, main.py; main_imagenet.py of mix-bt is without `bn`."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = resnet18(zero_init_residual=True)
        self.backbone.fc = nn.Identity()
        self.projector = _mlp(512, 8, 8)
        self.bn = nn.BatchNorm1d(8, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone(x)  # type: ignore[no-any-return]


class SoloLearn(nn.Module):
    """vturrisi/solo-learn, solo/methods/base.py: `backbone`, in older versions `encoder`."""

    def __init__(self, name: str, small: bool) -> None:
        super().__init__()
        net = _small_stem(resnet18(), pools=False, padding=2) if small else resnet18()
        net.fc = nn.Identity()
        setattr(self, name, net)
        setattr(self, f"momentum_{name}", resnet18())
        self.classifier, self.projector = nn.Linear(512, 10), _mlp(512, 8, 8)
        self.encoder_name = name

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.encoder_name)(x)  # type: ignore[no-any-return]


class Lightly(nn.Module):
    """lightly-ai/lightly: benchmarks/imagenet/resnet50/barlowtwins.py, or its examples."""

    def __init__(self, example: bool) -> None:
        super().__init__()
        self.projection_head, self.online_classifier = nn.Module(), nn.Module()
        self.projection_head.layers = _mlp(512, 8, 8)
        self.online_classifier.linear = nn.Linear(512, 10)
        self.backbone: nn.Module = resnet18()
        if example:  # examples/pytorch_lightning/moco.py
            self.backbone = nn.Sequential(*list(self.backbone.children())[:-1])
            self.backbone_momentum = copy.deepcopy(self.backbone)
        else:
            self.backbone.fc = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone(x).flatten(1)


class Contrastive(nn.Module):
    """Two networks and a queue.

    ``student``, ``teacher``: jacobswan1/SEED, seed/builder.py. ``encoder_q``, ``encoder_k``:
    linusericsson/ssl-invariances, moco.py, and WOWNICE/ssl-small, moco/builder.py.
    """

    def __init__(self, trained: str, other: str) -> None:
        super().__init__()
        self.trained = trained
        for name in (trained, other):
            net = resnet18()
            net.fc = nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 128))
            setattr(self, name, net)
        self.register_buffer("queue", torch.randn(128, 16))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        net = copy.copy(getattr(self, self.trained))
        net._modules = {**net._modules, "fc": nn.Identity()}
        return net(x)  # type: ignore[no-any-return]


def _parallel(net: nn.Module, wrapper: str) -> dict[str, Any]:
    """Return what a script saves from DistributedDataParallel."""
    state = {f"module.{name}": tensor for name, tensor in net.state_dict().items()}
    return {"epoch": 200, "arch": "resnet18", wrapper: state, "optimizer": {"state": {}}}


def _lightning(net: nn.Module) -> dict[str, Any]:
    return {
        "epoch": 99, "global_step": 19_500, "pytorch-lightning_version": "2.1.0",
        "state_dict": net.state_dict(), "callbacks": {}, "optimizer_states": [{"state": {}}],
        "lr_schedulers": [], "hyper_parameters": {"batch_size_per_device": 128, "num_classes": 10},
    }  # fmt: skip


PART = 1 << 20
NUMBERS = torch.randn(2 * PART, generator=torch.Generator().manual_seed(0))


def _fill(weight: Tensor, *_: Any, **__: Any) -> Tensor:
    """Give a weight random numbers from a store, in the size that keeps activations about 1."""
    with torch.no_grad():
        for part in weight.view(-1).split(PART):
            start = int(torch.randint(PART, (), device="cpu"))
            part.copy_(NUMBERS[start : start + part.numel()])
        return weight.mul_((2 / weight[0].numel()) ** 0.5)


@pytest.fixture(autouse=True, scope="module")
def quick_weights() -> Iterator[None]:
    """Let no test draw eleven million numbers for a ResNet-18, which takes longer than the rest."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("kaiming_uniform_", "kaiming_normal_"):
            patch.setattr(nn.init, name, _fill)
        yield


def _published(kind: str) -> tuple[nn.Module, Any]:
    """Return a published network and what its code saves."""
    net: nn.Module
    if kind.startswith("mix_bt"):
        net = MixBT(pools=kind.endswith("tiny"))
        judge = MixBT(pools=kind.endswith("tiny"))
        judge.load_state_dict(net.state_dict())
        return judge, _with_thop(net)
    if kind.startswith("ssl_sota"):
        net = SslSota(pools=kind.endswith("tiny"))
        return net, net.state_dict()
    if kind == "barlow_twins":
        net = BarlowTwins()
        return net, _parallel(net, "model")
    if kind.startswith("solo_learn"):
        name = "encoder" if "encoder" in kind else "backbone"
        net = SoloLearn(name, small="cifar" in kind)
        return net, _lightning(net)
    if kind.startswith("lightly"):
        net = Lightly(example="example" in kind)
        return net, _lightning(net)
    names = ("student", "teacher") if kind == "seed" else ("encoder_q", "encoder_k")
    net = Contrastive(*names)
    return net, _parallel(net, "state_dict")


# Kind of file, stem of its network, layout, what it looks like.
FILES = [
    ("mix_bt_cifar", "cifar", "mix_bt_cifar", "without max-pooling, as on CIFAR"),
    ("mix_bt_tiny", "tiny", "mix_bt_tiny", "with max-pooling, as on Tiny ImageNet and STL-10"),
    ("ssl_sota_cifar", "cifar", "ssl_sota", "of htdt's self-supervised or of ssl-sota"),
    ("ssl_sota_tiny", "tiny", "ssl_sota", "of htdt's self-supervised or of ssl-sota"),
    ("barlow_twins", "imagenet", "barlow_twins", "Barlow Twins' training on ImageNet"),
    ("solo_learn_cifar", "cifar_pad2", "solo_learn", "a checkpoint of solo-learn"),
    ("solo_learn_encoder_cifar", "cifar_pad2", "solo_learn", "a checkpoint of solo-learn"),
    ("solo_learn", "imagenet", "solo_learn", "a checkpoint of solo-learn"),
    ("lightly", "imagenet", "lightly", "a checkpoint of lightly"),
    ("lightly_example", "imagenet", "lightly", "a checkpoint of lightly"),
    ("seed", "imagenet", "seed", "a SEED checkpoint"),
    ("moco", "imagenet", "moco", "a MoCo or PCL checkpoint"),
]


def _encoder(stem: Any) -> Encoder:
    """Return an encoder whose weights are zeros: only a file can make it compute anything."""
    with torch.device("meta"):  # drawing weights takes longer than reading them from the file
        net = torchvision_resnet("resnet18", stem).eval()
    net.to_empty(device="cpu")
    for tensor in net.state_dict().values():
        tensor.zero_()
    return Encoder(net, 512, Preprocessing(), "resnet18")


@pytest.fixture(scope="module", params=FILES, ids=[file[0] for file in FILES])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    kind, stem, layout, looks = request.param
    torch.manual_seed(0)
    net, content = _published(kind)
    for tensor in net.state_dict().values():
        if tensor.ndim == 1 and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)  # in the file, too: they share memory
    if kind.startswith("mix_bt"):  # whose counters stand in a copy
        content |= net.state_dict()
    path = tmp_path_factory.mktemp(kind) / "checkpoint.pth"
    torch.save(content, path)
    return net.eval(), path, stem, layout, looks


@pytest.mark.parametrize("explicit", [False, True])
def test_the_encoder_computes_what_the_published_network_did(file: Any, explicit: bool) -> None:
    net, path, stem, layout, _ = file
    encoder = _encoder(stem)
    report = load_weights(encoder, path, layout=layout if explicit else "auto")
    assert report.layout == layout
    assert len(report.matched) == report.total == 120  # 20 convolutions, 20 BatchNorms of 5 tensors
    size = 64 if stem in ("imagenet", "tiny") else 32
    with torch.no_grad():
        images = torch.randn(2, 3, size, size)
        torch.testing.assert_close(encoder(images), net(images))


def test_a_file_of_another_layout_is_named(file: Any) -> None:
    _, path, stem, layout, looks = file
    found = recognised(read_state(path))
    assert found is not None
    assert looks in found[0]
    assert found[1] == layout
    with pytest.raises(ValueError, match=f"use model.weights.layout={layout}") as caught:
        load_weights(_encoder(stem), path, layout="simclr_v2")
    assert looks in str(caught.value)


def test_inspection_says_which_network_it_is(
    file: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, path, stem, layout, looks = file
    # Building all of them takes a second.
    kept = [name for name in inspect.ARCHITECTURES if name.startswith("resnet18")]
    monkeypatch.setattr(inspect, "ARCHITECTURES", kept)
    assert inspect.main([str(path)]) == 0
    said = capsys.readouterr().out
    guessed = "cifar" if layout == "ssl_sota" else stem  # max-pooling leaves no trace there
    model = "resnet18" if stem == "imagenet" else f"resnet18 model.stem={guessed}"
    assert looks in said
    assert f"architecture  {model}\n" in said
    assert "matched       120 of 120\n" in said
    assert f"use           model={model} model.weights.path={path}" in said
    assert ("does not tell which" in said) == (layout == "ssl_sota")


def test_inspection_says_the_prefix_of_a_trainer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspect, "ARCHITECTURES", ("resnet18", "mobilenet_v3_small"))
    tensors = _encoder("imagenet").backbone.state_dict()
    names = {f"model.backbone.{name}": tensor for name, tensor in tensors.items()}
    path, target = tmp_path / "lightning.ckpt", tmp_path / "encoder.safetensors"
    torch.save({"state_dict": {**names, "model.extra.weight": torch.ones(2, 2)}}, path)
    assert inspect.main([str(path), "--to", str(target)]) == 0
    said = capsys.readouterr().out
    assert "prefix        model.backbone. stands before the names of 120 tensors\n" in said
    assert "nothing known" not in said
    assert "architecture  resnet18\n" in said
    assert "left out      1 that do" in said
    assert "model.weights.prefix=model.backbone.\n" in said
    assert read_state(target).keys() <= tensors.keys()


def test_every_layout_survives_every_file(file: Any) -> None:
    state = read_state(file[1])
    assert all(isinstance(convert(state), dict) for convert in LAYOUTS.values())


def test_thop_leaves_as_many_counters_as_published() -> None:
    # 18 for ResNet-18 and 34 for ResNet-50, counted with version 0.1.1.
    for build, count in ((resnet18, 18), (resnet50, 34)):
        with torch.device("meta"):
            state = _with_thop(MixBT(pools=True, net=build()))
        assert sum(name.endswith(("total_ops", "total_params")) for name in state) == count


@pytest.mark.parametrize(
    ("kind", "stem", "remedy"),
    [("mix_bt_cifar", "tiny", "cifar"), ("mix_bt_tiny", "cifar", "tiny"),
     ("mix_bt_tiny", "small", "tiny"), ("solo_learn_cifar", "cifar", "cifar_pad2"),
     ("ssl_sota_cifar", "cifar_pad2", "cifar")],
)  # fmt: skip
def test_a_stem_that_takes_the_weights_but_computes_otherwise_is_refused(
    tmp_path: Path, kind: str, stem: str, remedy: str
) -> None:
    torch.save(_published(kind)[1], tmp_path / "x.pth")
    encoder = _encoder(stem)
    before = models.fingerprint(encoder)
    with pytest.raises(
        ValueError, match=rf"but has model\.stem={stem}; use model\.stem={remedy}\."
    ):
        load_weights(encoder, tmp_path / "x.pth")
    assert models.fingerprint(encoder) == before
    load_weights(_encoder(remedy), tmp_path / "x.pth")


@pytest.mark.parametrize("arch", ["resnet18w3", "resnet50w3"])
def test_the_wide_networks_of_ssl_invariances_are_recognised(tmp_path: Path, arch: str) -> None:
    with torch.device("meta"):
        net = torchvision_resnet(arch)
    # One number per tensor, expanded: 211 million would take a gigabyte.
    state = {f"module.encoder_q.{n}": torch.zeros(()).expand(t.shape)
             for n, t in net.state_dict().items()}  # fmt: skip
    state |= {"module.encoder_q.fc.2.weight": torch.zeros(()).expand(384, 6144),
              "module.queue": torch.zeros(()).expand(384, 65536)}  # fmt: skip
    torch.save({"epoch": 200, "arch": arch, "state_dict": state}, tmp_path / "default_w3.pth.tar")
    read = read_state(tmp_path / "default_w3.pth.tar")
    report = inspect.best_match(read, tmp_path / "default_w3.pth.tar", None, None)
    assert report is not None
    assert report.complete
    assert report.layout == f"{arch}/moco"


def test_the_file_that_mix_bt_leaves_of_imagenet_is_a_plain_resnet(tmp_path: Path) -> None:
    # main_imagenet.py saves `model.module.backbone.state_dict()` as resnet50.pth.
    net = BarlowTwins().eval()
    torch.save(net.backbone.state_dict(), tmp_path / "resnet50.pth")
    encoder = _encoder("imagenet")
    load_weights(encoder, tmp_path / "resnet50.pth", layout="torchvision")
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(encoder(images), net(images))


def test_lightly_s_network_without_its_first_relu_is_refused_for_that(tmp_path: Path) -> None:
    # cifar10_benchmark.py of lightly's documentation keeps the children of lightly's own ResNet,
    # whose ReLUs stand between them in `forward` and so are lost.
    theirs = pytest.importorskip("lightly.models").ResNetGenerator("resnet-18")
    children = list(theirs.children())[:-1]
    state = {f"backbone.{n}": t for n, t in nn.Sequential(*children).state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="on CIFAR-10, whose ResNet lacks the ReLU behind the"):
        load_weights(_encoder("cifar"), tmp_path / "x.ckpt")


# ---- the released encoders of Mixed Barlow Twins ------------------------------------------------

# README of wgcban/mix-bt: identifier of the run, kNN and linear top-1 in percent.
SMALL = {
    "mixed_bt_r18_cifar10": ("4wdhbpcf", 90.52, 92.58),
    "mixed_bt_r18_cifar100": ("76kk7scz", 61.25, 69.31),
    "mixed_bt_r18_tiny_imagenet": ("02azq6fs", 38.11, 51.67),
    "mixed_bt_r18_stl10": ("i7det4xq", 88.94, 91.02),
    "mixed_bt_r50_cifar10": ("v3gwgusq", 91.39, 93.89),
    "mixed_bt_r50_cifar100": ("z6ngefw7", 64.32, 72.51),
    "mixed_bt_r50_tiny_imagenet": ("kxlkigsv", 42.21, 51.84),
    "mixed_bt_r50_stl10": ("pbknx38b", 87.79, 91.70),
}
# The same of ImageNet: identifier where its whole name is known, linear top-1, epochs.
IMAGENET = {
    "reg0": ("3on0l4wl_0.0000", 71.3, 300), "reg0p0025": ("l418b9zw_0.0025", 70.9, 300),
    "reg0p1": ("13awtq23_0.1000", 71.6, 300), "reg1": ("3fb1op86_1.0000", 72.2, 300),
    "reg2": (None, 72.1, 300), "reg3": (None, 72.0, 300), "reg2_1000ep": (None, 74.06, 1000),
}  # fmt: skip
# utils.py of wgcban/mix-bt, the transforms of evaluation.
PREPARED = {
    "cifar": ("cifar", 32, None, "bilinear", [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]),
    "tiny": ("tiny", 64, None, "bicubic", [0.480, 0.448, 0.398], [0.277, 0.269, 0.282]),
    "stl": ("tiny", 64, 70, "bicubic", [0.43, 0.42, 0.39], [0.27, 0.26, 0.27]),
    "imagenet": ("imagenet", 224, 256, "bilinear", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
}


@pytest.fixture(scope="module")
def released() -> dict[str, dict[str, Any]]:
    names = [name for name in options("model") if name.startswith("mixed_bt_")]
    return {name: plain(compose([f"model={name}", "paths.weights=/nowhere"])) for name in names}


def test_the_fifteen_released_encoders_are_options_and_say_how_to_get_them(
    released: dict[str, dict[str, Any]],
) -> None:
    assert set(released) == {*SMALL, *(f"mixed_bt_r50_imagenet_{key}" for key in IMAGENET)}
    assert len(released) == 15
    for name, config in released.items():
        assert problems(config) == []
        run = Run(config)
        assert run.label == name
        sentence = preflight.check(run)
        assert sentence is not None
        weights = run.resolved["model"]["weights"]
        assert weights["path"].startswith("/nowhere/")
        assert f"`{weights['path']}` does not; " in sentence
        assert "\n" not in sentence
        if weights["url"]:
            assert weights["url"].endswith(f"/{Path(weights['path']).name}")
            assert f"download=true to fetch them from {weights['url']}" in sentence
        else:
            assert "releases/tag/v1.0.0" in sentence


def test_the_released_encoders_have_the_published_figures_and_preprocessing(
    released: dict[str, dict[str, Any]],
) -> None:
    for name, (identifier, knn, linear) in SMALL.items():
        node = resolve(released[name])["model"]
        prepared = PREPARED[name.split("_")[3].removesuffix("100").removesuffix("10")]
        assert (node["stem"], *node["preprocessing"].values()) == prepared
        assert node["arch"] == {"r18": "resnet18", "r50": "resnet50"}[name.split("_")[2]]
        assert Path(node["weights"]["path"]).name.startswith(f"{identifier}_0.00")
        assert node["facts"]["trained_on"] in name
        assert (node["facts"]["knn_top1"], node["facts"]["linear_top1"]) == pytest.approx(
            (knn / 100, linear / 100)
        )
    for key, (file, top1, epochs) in IMAGENET.items():
        node = resolve(released[f"mixed_bt_r50_imagenet_{key}"])["model"]
        assert (node["stem"], *node["preprocessing"].values()) == PREPARED["imagenet"]
        assert node["facts"]["imagenet_top1"] == pytest.approx(top1 / 100)
        assert (node["facts"]["epochs"], node["facts"]["batch_size"]) == (epochs, 1024)
        assert (node["weights"]["url"] is None) == (file is None)
        assert file is None or f"/{file}_8192_1024_imagenet_resnet50.pth" in node["weights"]["url"]


@pytest.mark.parametrize(
    ("name", "side", "published"),
    [("cifar10", 32, []), ("tiny_imagenet", 64, []),
     ("stl10", 96, [transforms.Resize(70, transforms.InterpolationMode.BICUBIC),
                    transforms.CenterCrop(64)])],
)  # fmt: skip
def test_images_reach_a_released_encoder_as_they_did(
    released: dict[str, dict[str, Any]], name: str, side: int, published: list[Any]
) -> None:
    # utils.py of wgcban/mix-bt, its transforms of evaluation before the normalisation.
    node = resolve(released[f"mixed_bt_r18_{name}"])["model"]
    prepared = Preprocessing().replaced(values=node["preprocessing"])
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    wanted = transforms.Compose(published)(Image.fromarray(pixels))
    found = centre_crop(Image.fromarray(pixels), prepared)
    assert found.size == (node["preprocessing"]["size"],) * 2
    assert np.array_equal(np.asarray(found), np.asarray(wanted))


@pytest.mark.parametrize("name", ["cifar10", "tiny_imagenet", "stl10"])
def test_a_released_encoder_is_built_from_a_file_as_released(tmp_path: Path, name: str) -> None:
    net, content = _published("mix_bt_cifar" if name == "cifar10" else "mix_bt_tiny")
    torch.save(content, tmp_path / "x.pth")
    node = resolve(plain(compose([f"model=mixed_bt_r18_{name}"])))["model"]
    node["weights"] |= {"path": str(tmp_path / "x.pth"), "sha256": None}
    encoder = models.build(node).eval()
    images = torch.randn(2, 3, encoder.preprocessing.size, encoder.preprocessing.size)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), net.eval()(images))
