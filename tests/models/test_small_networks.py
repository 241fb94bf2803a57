"""Small networks, and those of ssl-small and SEED beside a restatement of what they compute."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_transfer import models
from ssl_transfer.config import compose, options, plain, resolve
from ssl_transfer.models import inspect
from ssl_transfer.models.encoder import Encoder
from ssl_transfer.models.small_networks import small_network
from ssl_transfer.models.weights import load_weights
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.runs.signature import problems

NAMES = ("mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0", "vit_tiny")


def _encoder(arch: str, variant: Any = "ssl_small") -> Encoder:
    net = small_network(arch, variant)
    with torch.no_grad():
        # Weights as after training: a fresh network hides swapped BatchNorms, and ViT's small
        # weights hide its attention.
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor))
    return Encoder(net, 1, Preprocessing(), arch)


# Features and parameters (in millions) of section 2 of the published README and figure 1: backbone
# without fc, counted on the published code.
@pytest.mark.parametrize(
    ("arch", "dim", "millions"),
    [("mobilenet_v3_small", 1024, 1.52), ("mobilenet_v3_large", 1280, 4.20),
     ("efficientnet_b0", 1280, 4.01), ("vit_tiny", 192, 7.29)],
)  # fmt: skip
def test_the_published_networks_have_their_published_sizes(
    arch: str, dim: int, millions: float
) -> None:
    with torch.device("meta"):
        net = small_network(arch, "ssl_small")
        assert net(torch.zeros(1, 3, 224, 224)).shape == (1, dim)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 2) == millions
    assert net.preprocessing == Preprocessing()  # 256, 224, ImageNet's statistics


@pytest.mark.parametrize("name", [*NAMES, "densenet121"])
def test_the_figures_of_the_options_are_right(name: str) -> None:
    node = resolve(plain(compose([f"model={name}"])))["model"]
    header = (Path(__file__).parents[2] / f"conf/model/{name}.yaml").read_text()
    if name == "densenet121":
        node = {**node, "preprocessing": {"size": 32, "resize": None}}
    elif name != "vit_tiny":
        node = {**node, "preprocessing": {"size": 64, "resize": None}}
    encoder = models.build(node)
    assert encoder.name == name
    assert f"{encoder.feature_dim:,} features" in header
    assert f"{sum(p.numel() for p in encoder.parameters()):,} parameters" in header


def test_dropout_and_its_like_are_there_and_can_be_turned_off() -> None:
    def rates(arch: str, variant: Any, off: dict[str, float]) -> set[float]:
        net = small_network(arch, variant, off)
        found = {m.p for m in net.modules() if isinstance(m, nn.Dropout)} | {
            float(getattr(net, "drop_rate", 0.0))
        }
        return found - {0.0}

    for arch in ("mobilenet_v3_small", "efficientnet_b0"):
        assert rates(arch, None, {}) == {0.2}
        assert rates(arch, None, {"dropout": 0.0}) == set()
    assert rates("efficientnet_b0", "ssl_small", {}) == {0.2}
    assert rates("efficientnet_b0", "ssl_small", {"drop_rate": 0.0}) == set()
    assert rates("vit_tiny", "ssl_small", {}) == {0.1}


def test_the_patches_of_the_published_vit_are_not_trained() -> None:
    with torch.device("meta"):
        net = small_network("vit_tiny", "ssl_small")
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    assert frozen == {"patch_embed.proj.weight", "patch_embed.proj.bias"}


def test_the_published_networks_start_from_their_published_initial_weights() -> None:
    def deviation(arch: str, name: str, variant: Any = "ssl_small") -> float:
        torch.manual_seed(0)
        return small_network(arch, variant).get_parameter(name).detach().std().item()

    def near(value: float) -> Any:
        return pytest.approx(value, rel=0.1)

    # architectures/mobilenet/mobilenetv3.py, _initialize_weights: linear layers 0.01, convolutions
    # the root of 2 by their outputs, which torchvision has, too.
    for fc in ("fc1", "fc2"):
        name = f"features.4.block.2.squeeze.{fc}.weight"
        assert deviation("mobilenet_v3_small", name) == near(0.01)
    stem = (2 / (9 * 16)) ** 0.5
    assert deviation("mobilenet_v3_small", "features.0.0.weight") == near(stem)
    # architectures/efficientnet/model.py and architectures/vits/deit.py: the framework's default,
    # uniform between plus and minus the root of 1 by the inputs.
    assert deviation("efficientnet_b0", "conv_head.weight") == near((1 / 3 / 320) ** 0.5)
    assert deviation("vit_tiny", "blocks.3.mlp.fc1.weight") == near((1 / 3 / 192) ** 0.5)
    assert deviation("vit_tiny", "patch_embed.proj.weight") == near((1 / 3 / 768) ** 0.5)
    for name in ("pos_embed", "cls_token"):
        assert deviation("vit_tiny", name) == near(1.0)
        assert deviation("vit_tiny", name, None) < 0.03


def test_unknown_names_are_answered_with_the_known() -> None:
    with pytest.raises(ValueError, match=r"one of \['mobilenet_v3_small', .*'resnet18'"):
        small_network("resnet18")
    (found,) = problems(plain(compose(["model=vit_tiny", "model.variant=seed"])))
    assert "`model.variant` must be" in found
    assert "ssl_small" in found
    assert set(NAMES) <= set(options("model"))


# ---- MobileNetV3 --------------------------------------------------------------------------------

# Kernel, expanded channels, channels, squeeze-and-excitation, hard swish, stride per block: tables
# 1 and 2 of https://arxiv.org/abs/1905.02244.
TABLES = {
    "mobilenet_v3_large": [
        (3, 16, 16, 0, 0, 1), (3, 64, 24, 0, 0, 2), (3, 72, 24, 0, 0, 1), (5, 72, 40, 1, 0, 2),
        (5, 120, 40, 1, 0, 1), (5, 120, 40, 1, 0, 1), (3, 240, 80, 0, 1, 2), (3, 200, 80, 0, 1, 1),
        (3, 184, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1), (3, 480, 112, 1, 1, 1),
        (3, 672, 112, 1, 1, 1), (5, 672, 160, 1, 1, 2), (5, 960, 160, 1, 1, 1),
        (5, 960, 160, 1, 1, 1),
    ],
    "mobilenet_v3_small": [
        (3, 16, 16, 1, 0, 2), (3, 72, 24, 0, 0, 2), (3, 88, 24, 0, 0, 1), (5, 96, 40, 1, 1, 2),
        (5, 240, 40, 1, 1, 1), (5, 240, 40, 1, 1, 1), (5, 120, 48, 1, 1, 1),
        (5, 144, 48, 1, 1, 1), (5, 288, 96, 1, 1, 2), (5, 576, 96, 1, 1, 1),
        (5, 576, 96, 1, 1, 1),
    ],
}  # fmt: skip


class Squeeze(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(8, (channels // 4 + 4) // 8 * 8)
        inner += 8 * (inner < 0.9 * (channels // 4))
        self.fc = nn.Sequential(nn.Linear(channels, inner), nn.ReLU(), nn.Linear(inner, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.fc(x.mean((2, 3))))[:, :, None, None]


def _conv(inside: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inside, out, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(out)]  # fmt: skip


class Block(nn.Module):
    """architectures/mobilenet/mobilenetv3.py, InvertedResidual: places 0 to 5, or 0 to 8."""

    def __init__(self, inside: int, row: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        kernel, wide, out, squeezes, hard, stride = row
        act = nn.Hardswish() if hard else nn.ReLU()
        squeeze = Squeeze(wide) if squeezes else nn.Identity()
        depthwise = _conv(wide, wide, kernel, stride, groups=wide)
        if inside == wide:
            layers = [*depthwise, act, squeeze, *_conv(wide, out, 1)]
        else:
            layers = [*_conv(inside, wide, 1), act, *depthwise, squeeze, act, *_conv(wide, out, 1)]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and inside == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNet(nn.Module):
    def __init__(self, arch: str) -> None:
        super().__init__()
        rows, hidden = TABLES[arch], 1280 if arch.endswith("large") else 1024
        inputs = [16, *(row[2] for row in rows)]
        blocks = [Block(i, row) for i, row in zip(inputs, rows, strict=False)]
        stem = nn.Sequential(*_conv(3, 16, 3, 2), nn.Hardswish())
        self.features = nn.Sequential(stem, *blocks)
        self.conv = nn.Sequential(*_conv(rows[-1][2], rows[-1][1], 1), nn.Hardswish())
        self.classifier = nn.Sequential(nn.Linear(rows[-1][1], hidden), nn.Hardswish())

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.conv(self.features(x)).mean((2, 3)))


class HeadsOf64(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_qkv = nn.Linear(192, 3 * 6 * 64, bias=False)
        self.to_out = nn.Sequential(nn.Linear(6 * 64, 192), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (t.unflatten(2, (6, 64)).transpose(1, 2)
                             for t in self.to_qkv(x).chunk(3, dim=2))  # fmt: skip
        weights = (query @ key.transpose(2, 3) / 8).softmax(3)
        return self.to_out((weights @ value).transpose(1, 2).flatten(2))


class PreNorm(nn.Module):
    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(192), fn

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fn(self.norm(x))


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(192, 768), nn.GELU(), nn.Dropout(0.1), nn.Linear(768, 192)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class ViT(nn.Module):
    """architectures/vits/deit.py: patches flattened as height, width, channels."""

    def __init__(self, _: str) -> None:
        super().__init__()
        self.to_patch_embedding = nn.Sequential(nn.Identity(), nn.Linear(16 * 16 * 3, 192))
        self.pos_embedding = nn.Parameter(torch.zeros(1, 197, 192))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 192))
        pairs = [nn.ModuleList([PreNorm(HeadsOf64()), PreNorm(FeedForward())]) for _ in range(12)]
        self.transformer = nn.Module()
        self.transformer.layers = nn.ModuleList(pairs)
        self.mlp_head = nn.Sequential(nn.LayerNorm(192))

    def forward(self, x: Tensor) -> Tensor:
        patches = x.unfold(2, 16, 16).unfold(3, 16, 16)  # batch, channels, rows, columns, h, w
        flat = patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
        x = self.to_patch_embedding(flat)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embedding
        for attention, mlp in self.transformer.layers:  # type: ignore[misc, union-attr]
            x = mlp(attention(x))
        return self.mlp_head(x[:, 0])


def _trained(net: nn.Module) -> nn.Module:
    """Fill a network with weights that let every layer be seen."""
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.ndim > 1:
                tensor.normal_(std=1.5 / tensor[0].numel() ** 0.5)
            elif tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    return net.double().eval()


# Both layouts of each architecture; a layout's name of the encoder is that of every one.
OF_MOCO, OF_SEED = "module.encoder_q.", "module.student."
LARGE = [("mobilenet_v3_large", MobileNet, OF_SEED), ("vit_tiny", ViT, OF_MOCO)]
REST = [("mobilenet_v3_large", MobileNet, OF_MOCO), ("vit_tiny", ViT, OF_SEED)]
SMALL = [("mobilenet_v3_small", MobileNet, prefix) for prefix in (OF_MOCO, OF_SEED)]


@pytest.mark.parametrize(
    ("arch", "judge", "prefix"),
    [*SMALL, *LARGE, *(pytest.param(*case, marks=pytest.mark.slow) for case in REST)],
)
def test_a_published_network_computes_what_it_did(
    tmp_path: Path, arch: str, judge: type[nn.Module], prefix: str
) -> None:
    theirs = _trained(judge(arch))
    state = {f"{prefix}{name}": tensor for name, tensor in theirs.state_dict().items()}
    # The head of ssl-small's recipe, `--mlp wide`, and what MoCo and SEED keep beside it.
    others = (f"{prefix}fc.0.weight", "module.queue", "module.queue_ptr", "module.teacher.x")
    state |= dict.fromkeys(others, torch.zeros(2))
    path = tmp_path / "checkpoint_0199.pth.tar"
    torch.save({"epoch": 200, "arch": arch, "state_dict": state}, path)
    encoder = _encoder(arch)
    report = load_weights(encoder, path)
    assert report.layout == ("seed" if "student" in prefix else "moco")
    assert report.complete
    images = torch.randn(2, 3, *((224, 224) if arch == "vit_tiny" else (64, 64))).double()
    with torch.no_grad():
        found, wanted = encoder.double().eval()(images), theirs(images)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    assert wanted.std() > 0.01
    with pytest.raises(ValueError, match=r"the file lacks|shapes differ"):
        load_weights(_encoder(arch, None), path)  # the library's network of that name is another


# ---- EfficientNet-B0 ----------------------------------------------------------------------------


def _lukemelas() -> dict[str, str]:
    """Return timm's name of each of theirs (architectures/efficientnet/model.py, MBConvBlock).

    Repeats and first expansion: table 1 of https://arxiv.org/abs/1905.11946.
    """
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = {"_conv_stem.weight": "conv_stem.weight", "_conv_head.weight": "conv_head.weight"}
    norms = {"_bn0": "bn1", "_bn1": "bn2"}
    number = 0
    for stage, count in enumerate((1, 2, 2, 3, 3, 4, 1)):
        for block in range(count):
            here, there = f"_blocks.{number}", f"blocks.{stage}.{block}"
            convolutions = ["_depthwise_conv", "_project_conv"]
            timms = ["conv_dw", "conv_pw"]
            if stage > 0:
                convolutions, timms = ["_expand_conv", *convolutions], ["conv_pw", "conv_dw",
                                                                        "conv_pwl"]  # fmt: skip
            for i, (conv, timm) in enumerate(zip(convolutions, timms, strict=True)):
                names[f"{here}.{conv}.weight"] = f"{there}.{timm}.weight"
                norms[f"{here}._bn{i + (stage == 0)}"] = f"{there}.bn{i + 1}"
            for se, timm in (("_se_reduce", "conv_reduce"), ("_se_expand", "conv_expand")):
                names |= {f"{here}.{se}.{p}": f"{there}.se.{timm}.{p}" for p in ("weight", "bias")}
            number += 1
    assert number == 16
    return names | {f"{a}.{p}": f"{b}.{p}" for a, b in norms.items() for p in parts}


def test_efficientnet_s_layers_end_where_they_belong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = _lukemelas()
    encoder = _encoder("efficientnet_b0")
    shapes = {name: tensor.shape for name, tensor in encoder.backbone.state_dict().items()}
    assert set(names.values()) == set(shapes)
    state = {
        f"module.encoder_q.{theirs}": torch.tensor(float(i)).expand(shapes[ours])
        for i, (theirs, ours) in enumerate(names.items())
    }
    state["module.encoder_q.fc.weight"] = torch.zeros(128, 1280)
    path = tmp_path / "x.pth.tar"
    torch.save({"state_dict": state}, path)
    assert load_weights(encoder, path, layout="moco").complete
    found = encoder.backbone.state_dict()
    for i, ours in enumerate(names.values()):
        assert torch.all(found[ours] == i), ours
    # TensorFlow's padding and BatchNorm.
    norm = encoder.backbone.get_submodule("bn1")
    assert (norm.eps, norm.momentum) == (1e-3, 0.01)
    assert encoder.backbone(torch.zeros(2, 3, 33, 33)).shape == (2, 1280)
    assert inspect.main([str(path)]) == 0
    said = capsys.readouterr().out
    assert "architecture  efficientnet_b0 model.variant=ssl_small\n" in said
    assert f"model.variant=ssl_small model.weights.path={path} model.weights.layout=moco" in said


def test_a_larger_efficientnet_is_refused_for_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x.pth.tar"
    state = {
        f"module.encoder_q.{n}": torch.zeros(1) for n in (*_lukemelas(), "_blocks.16._bn0.bias")
    }
    torch.save({"state_dict": state}, path)
    with pytest.raises(ValueError, match=r"looks like a MoCo or PCL checkpoint \(layout moco\)"):
        load_weights(_encoder("efficientnet_b0"), path)
