"""The networks and files of Zhang and Bottou 2023 (https://arxiv.org/abs/2212.07346).

Networks of ``src/models.py`` of https://github.com/TjuJianyu/RRL are restated and saved as its
``supervised.py`` saves them; SEER's files have the names that ``classy_vision/models/anynet.py`` of
https://github.com/facebookresearch/ClassyVision, ``src/models.py`` of RRL (``RegNet``) and
``vissl/models/heads/`` of https://github.com/facebookresearch/vissl give; SwAV's are those of
``main_swav.py`` of https://github.com/facebookresearch/swav; WILDS' those of
``examples/utils.py`` of https://github.com/p-lambda/wilds.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

import ssl_transfer
from ssl_transfer import models
from ssl_transfer.config import compose, options, plain, resolve
from ssl_transfer.models.backbones import timm_backbone, torchvision_resnet
from ssl_transfer.models.fusion import FusedEncoder
from ssl_transfer.models.layouts import LAYOUTS, recognised
from ssl_transfer.models.reading import read_state
from ssl_transfer.models.small_resnet import small_resnet
from ssl_transfer.models.weights import load_weights
from ssl_transfer.runs import Run, preflight
from ssl_transfer.runs.builders import initial_encoder
from ssl_transfer.runs.signature import problems

IMAGES = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def node(*overrides: str) -> dict[str, Any]:
    model: dict[str, Any] = resolve(plain(compose(overrides)))["model"]
    return model


# ---- the options --------------------------------------------------------------------------------

RUNS = [f"rrl_resnet50_run{run}" for run in range(10)]
SEEDS = [f"swav_400ep_seed{seed}" for seed in (5, 6, 7, 8)]
# Option -> features, place of the file (download_checkpoint.md of RRL, projects/SEER/README.md of
# VISSL, README of SwAV).
FILES = {
    **dict.fromkeys(RUNS, (2048, "1puDJCfUdexV7jc2QDtzT3GIV6bK_a5DS")),
    "rrl_resnet50w2": (4096, "1yxpGox1on8EG-bgh5m96P-HmFdF1FqKV"),
    "rrl_resnet50w4": (8192, "1BMCdWbRp4nUxRQwKux-_BEQS_5TKC2h6"),
    "rrl_two_resnet50": (4096, "1vC5es1ysSSZOEhkKQWBafjRyLR_oFPgl"),
    "rrl_four_resnet50": (8192, "1J3adr3hepZZXyLcncduBi3v6PZLPAEW5"),
    "rrl_resnet50_distill5": (2048, "1iS82WpEWaTqU6I1qbzEB64mttIp1dYDz"),
    **dict.fromkeys(SEEDS, (2048, "1D2DCInQKpqgqQC3dxtf5eOLD-dSrm2yN")),
    "swav_400ep": (2048, "deepcluster/swav_400ep_pretrain.pth.tar"),
    "swav_400ep_resnet50w2": (4096, "deepcluster/swav_RN50w2_400ep_pretrain.pth.tar"),
    "swav_400ep_resnet50w4": (8192, "deepcluster/swav_RN50w4_400ep_pretrain.pth.tar"),
    "swav_400ep_resnet50w5": (10240, "deepcluster/swav_RN50w5_400ep_pretrain.pth.tar"),
    "seer_regnet_32gf": (3712, "seer_regnet32gf_model_iteration244000.torch"),
    "seer_regnet_64gf": (4920, "seer_regnet64gf_model_final_checkpoint_phase0.torch"),
    "seer_regnet_128gf": (7392, "swav_ig1b_regnet128Gf_cnstant"),
    "seer_regnet_256gf": (10444, "swav_ig1b_cosine_rg256gf_noBNhead"),
    "seer_regnet_32gf_in1k": (3712, "regnet32_finetuned_in1k_model_final_checkpoint_phase78"),
    "seer_regnet_64gf_in1k": (4920, "regnet64_finetuned_in1k_model_final_checkpoint_phase78"),
    "seer_regnet_128gf_in1k": (7392, "regnet128_finetuned_in1k_model_final_checkpoint_phase78"),
    "seer_regnet_256gf_in1k": (10444, "regnet256_finetuned_in1k_model_final_checkpoint_phase38"),
}


def test_the_options_are_all_here() -> None:
    named = {name for name in options("model") if name.startswith(("rrl_", "swav_", "seer_"))}
    assert named == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_an_option_without_its_file_says_how_to_get_it(tmp_path: Path, name: str) -> None:
    config = plain(compose([f"model={name}", f"paths.weights={tmp_path}"]))
    assert problems(config) == []
    run = Run(config)
    assert run.label == name
    sentence = preflight.check(run)
    assert sentence is not None
    assert "\n" not in sentence
    assert FILES[name][1] in sentence
    shared = "on Google Drive: get " in sentence and "`gdown " in sentence
    assert shared == (name in SEEDS or name.startswith("rrl_"))
    assert ("model.weights.download=true" in sentence) != shared


def test_every_run_and_seed_is_an_encoder_of_its_own() -> None:
    runs = [Run(plain(compose([f"model={name}"]))) for name in (*RUNS, "swav_400ep", *SEEDS)]
    assert len({run.id for run in runs}) == 15
    files = {run.resolved["model"]["weights"]["path"].rpartition("/")[2] for run in runs}
    assert len(files) == 15


def test_seer_s_images_are_prepared_as_published() -> None:
    # `eval` and `384px` of src/datasets.py of RRL.
    for name in FILES:
        if name.startswith("seer_"):
            tuned = name.endswith("in1k")
            assert node(f"model={name}")["preprocessing"] == {
                "size": 384 if tuned else 224,
                "resize": 384 if tuned else 256,
                "interpolation": "bicubic" if tuned else "bilinear",
                "mean": [0.485, 0.456, 0.406],
                "std": [0.229, 0.224, 0.225],
            }


# ---- ResNets ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "parameters", "dim"),
    [("resnet50w2", 93_907_072, 4096), ("resnet50w4", 375_378_176, 8192),
     ("resnet50w5", 586_450_240, 10240), ("resnet152", 58_143_808, 2048)],
)  # fmt: skip
def test_wide_and_deep_resnets_have_the_published_sizes(
    arch: str, parameters: int, dim: int
) -> None:
    # 93.91, 375.38 and 586.45 million of the wide ones.
    assert node(f"model={arch}")["arch"] == arch
    with torch.device("meta"):
        network = torchvision_resnet(arch)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert network(torch.zeros(1, 3, 64, 64, device="meta")).shape == (1, dim)


def test_a_wide_resnet_starts_as_published() -> None:
    # src/models.py of RRL: normal with the variance of the fan-out, BatchNorm 1 and 0.
    torch.manual_seed(0)
    network = torchvision_resnet("resnet18w2")
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert torch.all(layer.weight == 1)
            assert torch.all(layer.bias == 0)
        elif isinstance(layer, nn.Conv2d):
            fan_out = layer.out_channels * layer.kernel_size[0] * layer.kernel_size[1]
            expected = (2 / fan_out) ** 0.5
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.05)


class SwavResNet(ResNet):  # type: ignore[misc]  # torchvision has no types
    """SwAV's ResNet as RRL has it: padding by a layer of its own, no classifier."""

    def __init__(self) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2])
        self.padding = nn.ConstantPad2d(1, 0.0)
        self.conv1 = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=2, bias=False)
        self.fc = nn.Identity()
        for tensor in self.state_dict().values():
            if tensor.ndim == 1:
                tensor.uniform_(0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = super().forward(self.padding(x))
        return features


class Kmodel(nn.Module):
    """RRL's networks side by side, with or without a classifier."""

    def __init__(self, networks: Sequence[nn.Module], classifier: nn.Module | None = None) -> None:
        super().__init__()
        self.models = list(networks)  # not registered
        self.classifier = classifier
        for number, network in enumerate(networks):
            setattr(self, f"model{number}", network)

    def forward(self, x: Tensor) -> Tensor:
        features = torch.cat([network(x) for network in self.models], dim=1)
        return features if self.classifier is None else self.classifier(features)


class RegLog(nn.Module):
    """RRL's classifier: a linear layer, optionally behind a BatchNorm."""

    def __init__(self, classes: int, dim: int, use_bn: bool) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(dim) if use_bn else None
        if self.bn is not None:
            for tensor in self.bn.state_dict().values():
                if tensor.ndim:
                    tensor.uniform_(0.5, 1.5)
        self.linear = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.linear(x if self.bn is None else self.bn(x))
        return scores


def saved(network: nn.Module, path: Path) -> Path:
    """Save a network as ``supervised.py`` does from DistributedDataParallel."""
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    momentum = {"state": {0: {"momentum_buffer": torch.zeros(64, 3, 7, 7)}}}
    torch.save({"epoch": 90, "state_dict": state, "optimizer": momentum, "scheduler": {},
                "best_acc": 76.1}, path)  # fmt: skip
    return path


def tuned(networks: Sequence[nn.Module], dim: int, use_bn: bool = False) -> Kmodel:
    """Return networks with a classifier of five classes on their ``dim`` features."""
    return Kmodel(networks, RegLog(5, dim, use_bn)).eval()


def loaded(path: Path, *overrides: str) -> models.Encoder:
    weights = [f"model.weights.path={path}", "model.weights.layout=rrl"]
    return models.build(node(*overrides, *weights)).eval()


@pytest.fixture(scope="module")
def swav_resnet() -> SwavResNet:
    torch.manual_seed(0)
    return SwavResNet().eval()


def test_a_network_of_rrl_computes_as_published(tmp_path: Path, swav_resnet: SwavResNet) -> None:
    torch.manual_seed(1)
    published = tuned([swav_resnet], 512, use_bn=True)
    path = saved(published, tmp_path / "file.pth.tar")
    assert "module.model0.layer4.1.bn2.running_var" in read_state(path)
    encoder = loaded(path, "model=resnet18")
    assert encoder.head is not None
    with torch.no_grad():
        torch.testing.assert_close(encoder(IMAGES), swav_resnet(IMAGES))
        torch.testing.assert_close(encoder.head.layers(encoder(IMAGES)), published(IMAGES))


def test_a_network_saved_without_members_is_loaded(tmp_path: Path, swav_resnet: SwavResNet) -> None:
    path = saved(swav_resnet, tmp_path / "distill5.pth.tar")
    encoder = loaded(path, "model=resnet18")
    with torch.no_grad():
        torch.testing.assert_close(encoder(IMAGES), swav_resnet(IMAGES))


def test_a_file_of_rrl_is_a_classifier(tmp_path: Path, swav_resnet: SwavResNet) -> None:
    torch.manual_seed(2)
    published = tuned([swav_resnet], 512)
    path = saved(published, tmp_path / "checkpoint_run0.pth.tar")
    classifier = ssl_transfer.load_classifier(
        path, "rrl_resnet50_run0",
        overrides=["model.arch=resnet18", "model.preprocessing.size=64"],
    )  # fmt: skip
    images = (IMAGES - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(classifier(IMAGES), published(images), rtol=1e-4, atol=1e-4)


def small_networks(count: int) -> list[nn.Module]:
    """Return networks whose layers have the names of a ResNet's, as those of RRL's networks."""
    torch.manual_seed(3)
    return [small_resnet(8).eval() for _ in range(count)]


SMALL = ("model=small_resnet", "model.width=8")
JOINT = ("model=joint", "model.arch=small_resnet", "+model.options.width=8")


@pytest.mark.parametrize("use_bn", [False, True])
@pytest.mark.parametrize("networks", [1, 2, 4])
def test_networks_trained_jointly_compute_as_published(
    tmp_path: Path, networks: int, use_bn: bool
) -> None:
    members = small_networks(networks)
    # Several that were trained jointly are one member: `module.model0.model{j}.`
    published = tuned([Kmodel(members)], 32 * networks, use_bn)
    path = saved(published, tmp_path / "file.pth.tar")
    names = read_state(path)
    assert f"module.model0.model{networks - 1}.layer3.0.bn2.running_var" in names
    assert recognised(names) == ("a checkpoint of RRL (TjuJianyu/RRL)", "rrl")
    encoder = loaded(path, *JOINT, f"model.networks={networks}")
    assert encoder.feature_dim == 32 * networks
    assert encoder.head is not None
    with torch.no_grad():
        features = torch.cat([member(IMAGES) for member in members], dim=1)
        torch.testing.assert_close(encoder(IMAGES), features)
        torch.testing.assert_close(encoder.head.layers(encoder(IMAGES)), published(IMAGES))
    assert load_weights(encoder, path).layout == "rrl"  # found without being named


@pytest.fixture(scope="module")
def cat3(tmp_path_factory: pytest.TempPathFactory) -> tuple[Kmodel, Path]:
    """Return three fine-tuned networks with their file, whose members have names of their own."""
    published = tuned(small_networks(3), 96)
    return published, saved(published, tmp_path_factory.mktemp("cat") / "file.pth.tar")


def test_a_fine_tuned_concatenation_is_loaded_as_its_members(cat3: tuple[Kmodel, Path]) -> None:
    published, path = cat3
    encoder = loaded(path, *JOINT, "model.networks=3")
    assert encoder.head is not None
    with torch.no_grad():
        torch.testing.assert_close(encoder.head.layers(encoder(IMAGES)), published(IMAGES))
    members = [
        loaded(path, *SMALL, f"model.weights.prefix=module.model{number}.") for number in range(3)
    ]
    assert all(member.head is None for member in members)
    with torch.no_grad():
        torch.testing.assert_close(FusedEncoder(members, "concatenate")(IMAGES), encoder(IMAGES))


@pytest.mark.parametrize("layout", ["rrl", "auto"])
def test_a_fine_tuned_concatenation_is_no_single_network(
    cat3: tuple[Kmodel, Path], layout: str
) -> None:
    encoder = models.build(node(*SMALL))
    with pytest.raises(ValueError, match="the file holds 3 such networks") as caught:
        load_weights(encoder, cat3[1], layout=layout)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert "use `model.weights.prefix=module.model0.` or `model.weights.prefix=module." in sentence
    assert "or `model=joint model.networks=3` for all of them as one" in sentence


def test_a_linear_probe_of_rrl_holds_no_encoder(tmp_path: Path) -> None:
    path = saved(RegLog(5, 32, use_bn=True), tmp_path / "probe.pth.tar")
    with pytest.raises(ValueError, match=r"All \d+ tensors .* but 0 match"):
        loaded(path, *SMALL)


@pytest.mark.parametrize("nested", [False, True])
def test_swav_s_weights_are_read_flat_and_nested(
    tmp_path: Path, swav_resnet: SwavResNet, nested: bool
) -> None:
    heads = nn.ModuleDict({
        "projection_head": nn.Sequential(nn.Linear(512, 64), nn.BatchNorm1d(64), nn.ReLU(),
                                         nn.Linear(64, 16)),
        "prototypes": nn.Linear(16, 30, bias=False),
    })  # fmt: skip
    state = {f"module.{n}": t for n, t in (swav_resnet.state_dict() | heads.state_dict()).items()}
    content = {"epoch": 400, "state_dict": state, "optimizer": {"state": {}},
               "amp": {"loss_scaler0": {"loss_scale": 65536.0}}}  # fmt: skip
    torch.save(content if nested else state, tmp_path / "file.pth.tar")
    overrides = ["model.arch=resnet18", f"model.weights.path={tmp_path / 'file.pth.tar'}"]
    name = "swav_400ep_seed5" if nested else "swav_400ep"
    encoder = models.build(node(f"model={name}", *overrides)).eval()
    assert encoder.head is None
    with torch.no_grad():
        torch.testing.assert_close(encoder(IMAGES), swav_resnet(IMAGES))


# ---- SEER ---------------------------------------------------------------------------------------

# depth, w_0, w_a, w_m, group width -> stage widths, depths: src/models.py of RRL (256 GF) and
# classy_vision/models/regnet.py.
REGNETS = {
    32: ((20, 232, 115.89, 2.53, 232), (232, 696, 1392, 3712), (2, 5, 12, 1)),
    64: ((20, 352, 147.48, 2.4, 328), (328, 984, 1968, 4920), (2, 5, 12, 1)),
    128: ((27, 456, 160.83, 2.52, 264), (528, 1056, 2904, 7392), (2, 7, 17, 1)),
    256: ((27, 640, 230.83, 2.53, 373), (746, 1492, 4103, 10444), (2, 7, 17, 1)),
}


def generated(
    depth: int, w_0: int, w_a: float, w_m: float, group: int
) -> tuple[list[int], list[int]]:
    """Return widths and depths of the stages (Radosavovic et al. 2020, equations 2 to 4)."""
    capacity = np.round(np.log((w_0 + w_a * np.arange(depth)) / w_0) / np.log(w_m))
    widths = 8 * np.round(w_0 * w_m**capacity / 8).astype(int)
    stages, depths = np.unique(widths, return_counts=True)
    return [round(width / group) * group for width in stages.tolist()], depths.tolist()


def classy_trunk(
    widths: Sequence[int], depths: Sequence[int], group: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the names and shapes of a RegNetY trunk of VISSL on Classy Vision."""

    def norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from ((f"{name}.{leaf}", (width,)) for leaf in
                    ("weight", "bias", "running_mean", "running_var"))  # fmt: skip
        yield f"{name}.num_batches_tracked", ()

    yield "_feature_blocks.conv1.stem.0.weight", (32, 3, 3, 3)
    yield from norm("_feature_blocks.conv1.stem.1", 32)
    inside = 32
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
        for number in range(depth):
            block = f"_feature_blocks.res{stage + 1}.block{stage}-{number}"
            if number == 0:
                yield f"{block}.proj.weight", (width, inside, 1, 1)
                yield from norm(f"{block}.bn", width)
            yield f"{block}.f.a.0.weight", (width, inside, 1, 1)
            yield from norm(f"{block}.f.a.1", width)
            yield f"{block}.f.b.0.weight", (width, group, 3, 3)
            yield from norm(f"{block}.f.b.1", width)
            squeezed = round(0.25 * inside)
            yield f"{block}.f.se.excitation.0.weight", (squeezed, width, 1, 1)
            yield f"{block}.f.se.excitation.0.bias", (squeezed,)
            yield f"{block}.f.se.excitation.2.weight", (width, squeezed, 1, 1)
            yield f"{block}.f.se.excitation.2.bias", (width,)
            yield f"{block}.f.c.weight", (width, width, 1, 1)
            yield from norm(f"{block}.f.final_bn", width)
            inside = width


@pytest.mark.parametrize("gf", REGNETS)
def test_seer_s_networks_are_the_published_ones(gf: int) -> None:
    generator, widths, depths = REGNETS[gf]
    assert generated(*generator) == ([*widths], [*depths])
    keys = node(f"model=seer_regnet_{gf}gf")
    with torch.device("meta"):
        network = timm_backbone(keys["arch"])
    tensors = network.state_dict()
    stages = [network.get_submodule(f"s{stage}") for stage in range(1, 5)]
    assert [len(list(stage.children())) for stage in stages] == [*depths]
    assert [len(tensors[f"s{stage}.b1.conv3.conv.weight"]) for stage in range(1, 5)] == [*widths]
    # The file's names and shapes are those of the whole network, no more and no less.
    trunk = {name: torch.zeros(()).expand(shape)
             for name, shape in classy_trunk(widths, depths, generator[-1])}  # fmt: skip
    prefix = "classy_state_dict.base_model.model.trunk."
    converted = LAYOUTS["seer"]({f"{prefix}{name}": tensor for name, tensor in trunk.items()})
    assert {n: t.shape for n, t in converted.items()} == {n: t.shape for n, t in tensors.items()}
    assert network.num_features == FILES[f"seer_regnet_{gf}gf"][0] == widths[-1]


REGNET = "regnety_002"  # depth 13, w_0 24, w_a 36.44, w_m 2.49, group width 8


@pytest.fixture(scope="module")
def regnet() -> Any:
    torch.manual_seed(0)
    network = timm.create_model(REGNET, num_classes=5)
    for tensor in network.state_dict().values():
        if tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)
    return network.eval()


def seer_file(regnet: Any, path: Path, is_tuned: bool) -> Path:
    """Save a RegNet as VISSL does, with the classifier, or with SwAV's projector and prototypes."""
    widths, depths = generated(13, 24, 36.44, 2.49, 8)
    own = regnet.state_dict()
    parts = {"f.a.0": "conv1.conv", "f.a.1": "conv1.bn", "f.b.0": "conv2.conv",
             "f.b.1": "conv2.bn", "f.se.excitation.0": "se.fc1", "f.se.excitation.2": "se.fc2",
             "f.c": "conv3.conv", "f.final_bn": "conv3.bn", "proj": "downsample.conv",
             "bn": "downsample.bn", "conv1.stem.0": "stem.conv",
             "conv1.stem.1": "stem.bn"}  # fmt: skip
    trunk = {}
    for name, shape in classy_trunk(widths, depths, 8):
        layer, _, leaf = name.removeprefix("_feature_blocks.").rpartition(".")
        if layer.startswith("res"):
            _, block, layer = layer.split(".", 2)
            stage, number = block.removeprefix("block").split("-")
            place = f"s{stage}.b{int(number) + 1}."
        else:
            place = ""
        trunk[name] = own[f"{place}{parts[layer]}.{leaf}"]
        assert trunk[name].shape == shape
    if is_tuned:  # vissl/models/heads/mlp.py
        heads = {f"0.clf.0.{leaf}": own[f"head.fc.{leaf}"] for leaf in ("weight", "bias")}
    else:  # vissl/models/heads/swav_prototypes_head.py
        heads = {"0.projection_head.0.weight": torch.zeros(16, 368),
                 "0.projection_head.0.bias": torch.zeros(16),
                 "0.prototypes0.weight": torch.zeros(30, 16)}  # fmt: skip
    optimizer = {"optim": {"state": {0: {"momentum_buffer": torch.zeros(4)}}}}
    content = {"base_model": {"model": {"trunk": trunk, "heads": heads}}, "optimizer": optimizer}
    torch.save({"phase_idx": 0, "iteration": 9, "classy_state_dict": content,
                "type": "consolidated"}, path)  # fmt: skip
    return path


@pytest.mark.parametrize("is_tuned", [False, True])
def test_a_file_of_seer_is_its_network(tmp_path: Path, regnet: Any, is_tuned: bool) -> None:
    path = seer_file(regnet, tmp_path / "seer.torch", is_tuned)
    name = "seer_regnet_32gf_in1k" if is_tuned else "seer_regnet_32gf"
    overrides = [f"model.arch={REGNET}", f"model.weights.path={path}"]
    encoder = models.build(node(f"model={name}", *overrides)).eval()
    with torch.no_grad():
        features = regnet.forward_head(regnet.forward_features(IMAGES), pre_logits=True)
        torch.testing.assert_close(encoder(IMAGES), features, rtol=1e-4, atol=1e-4)
        assert (encoder.head is not None) == is_tuned
        if encoder.head is not None:
            scores = encoder.head.layers(encoder(IMAGES))
            torch.testing.assert_close(scores, regnet(IMAGES), rtol=1e-4, atol=1e-4)


def test_seer_s_file_of_another_network_is_refused(tmp_path: Path, regnet: Any) -> None:
    path = seer_file(regnet, tmp_path / "seer.torch", is_tuned=True)
    overrides = ["model.arch=regnety_004", f"model.weights.path={path}"]
    with pytest.raises(ValueError, match="looks like a SEER checkpoint of VISSL"):
        models.build(node("model=seer_regnet_32gf_in1k", *overrides))


# ---- WILDS --------------------------------------------------------------------------------------


@pytest.mark.parametrize("listed", [False, True])
def test_a_densenet_of_wilds_is_loaded_with_its_classifier(tmp_path: Path, listed: bool) -> None:
    torch.manual_seed(5)
    # A small variant of torchvision's DenseNet.
    published: nn.Module = torchvision.models.DenseNet(4, (2, 2, 2, 2), 8, num_classes=2).eval()
    state = {f"model.{name}": tensor for name, tensor in published.state_dict().items()}
    if listed:  # algorithms on features hold the two parts a second time, e.g. deepCORAL.py
        parts = {"model.features.": "model.0.features.", "model.classifier.": "model.1."}
        for old, new in parts.items():
            state = {name.replace(old, new): tensor for name, tensor in state.items()}
        state |= {n.replace("model.0.", "featurizer."): t for n, t in state.items()}
    path = tmp_path / "camelyon17_seed:0_epoch:best_model.pth"
    torch.save({"algorithm": state, "epoch": 4, "best_val_metric": 0.9}, path)
    network = torchvision.models.DenseNet(4, (2, 2, 2, 2), 8)
    network.classifier = nn.Identity()
    encoder = models.wrap(network, {"size": 64, "resize": None}, name="densenet").eval()
    report = load_weights(encoder, path)
    assert report.layout == "wilds"
    assert recognised(read_state(path)) == ("a WILDS checkpoint", "wilds")
    assert encoder.head is not None
    with torch.no_grad():
        torch.testing.assert_close(encoder.head.layers(encoder(IMAGES)), published(IMAGES))


def test_the_densenet_of_camelyon17_has_the_published_features() -> None:
    assert node("model=densenet121")["arch"] == "densenet121"
    with torch.device("meta"):
        network = torchvision.models.densenet121()
    assert network.classifier.in_features == 1024


# ---- several published networks as one ----------------------------------------------------------


def test_members_of_a_concatenation_keep_the_classifiers_of_their_files(
    tmp_path: Path, regnet: Any
) -> None:
    path = seer_file(regnet, tmp_path / "seer.torch", is_tuned=True)
    other = saved(tuned(small_networks(1), 32), tmp_path / "run0.pth.tar")
    weights = [f"'model.weights.path={path}'", f"'model.weights.path={other}'"]
    members = (
        f"[{{model:seer_regnet_32gf_in1k,overrides:['model.arch={REGNET}',{weights[0]}]}},"
        f"{{model:small_resnet,overrides:['model.width=8',{weights[1]}]}}]"
    )
    config = plain(compose(["method=cat", f"method.members={members}"]))
    assert problems(config) == []
    encoder = initial_encoder(Run(config))
    assert isinstance(encoder, FusedEncoder)
    assert encoder.feature_dim == 368 + 32
    heads = [member.head for member in encoder.encoders]
    assert [head is not None and head.outputs for head in heads] == [5, 5]
    assert [member.preprocessing.size for member in encoder.encoders] == [384, 32]
