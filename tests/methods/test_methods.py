"""What every method must satisfy, and how its node becomes one."""

import functools
import inspect
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from ssl_transfer import methods
from ssl_transfer.config import CONF
from ssl_transfer.methods.projector import Projector
from ssl_transfer.methods.supervised import Supervised
from ssl_transfer.models import Encoder
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.runs.signature import signature_problems
from ssl_transfer.system import distributed
from ssl_transfer.training import optim
from ssl_transfer.training.batch_statistics import convert

TRAINED = (
    "barlow_twins",
    "distill",
    "mixed_barlow_twins",
    "simclr",
    "supervised",
    "swav",
    "vicreg",
    "w_mse",
)
BATCH = 16
SMALL: dict[str, dict[str, Any]] = {
    "swav": {"prototypes": 20},
    "w_mse": {"sub_batch": 8, "iterations": 2, "eps": 0.01},
}


def _file(name: str) -> dict[str, Any]:
    node: dict[str, Any] = yaml.safe_load((CONF / "method" / f"{name}.yaml").read_text())
    return node


def _views(name: str) -> list[dict[str, Any]]:
    node = yaml.safe_load((CONF / "views" / f"{name}.yaml").read_text())
    views: list[dict[str, Any]] = node["views"] if "views" in node else _views(*node["defaults"])
    return views


def _node(name: str) -> dict[str, Any]:
    node = {**_file("_base"), **_file(name)}
    for mounted in node.pop("defaults"):
        if "/views@_here_" in mounted:
            node["views"] = _views(mounted["/views@_here_"])
    if "projector" in node:
        node["projector"]["dims"] = [12, 7]
    return {**node, **SMALL.get(name, {})}


def _referenced(name: str) -> dict[str, list[Encoder]]:
    """Return the encoders that a method's constructor receives."""
    return {"teachers": [_encoder(), _encoder()]} if name == "distill" else {}


def _encoder() -> Encoder:
    backbone = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.Tanh(),  # smooth: rounding cannot flip a unit
        nn.Conv2d(6, 5, 3),
        nn.BatchNorm2d(5),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    preprocessing = Preprocessing(size=8, resize=None)
    return Encoder(backbone=backbone, feature_dim=5, preprocessing=preprocessing, name="tiny")


def _method(name: str) -> methods.Method:
    torch.manual_seed(0)
    return methods.build(_node(name), _encoder(), 4, **_referenced(name)).double()


def _batch(count: int) -> tuple[tuple[Tensor, ...], Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (BATCH, 3, 8, 8)
    base = torch.randn(shape, generator=generator, dtype=torch.float64)
    views = [base + 0.3 * torch.randn(shape, generator=generator).double() for _ in range(count)]
    return tuple(views), torch.arange(BATCH) % 4


def _step(name: str, bn_groups: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Global parts, and every parameter's gradient and every running statistic."""
    method = _method(name)
    convert(method, bn_groups)
    processes, rank = distributed.world_size(), distributed.rank()
    model = DistributedDataParallel(method, broadcast_buffers=False) if processes > 1 else method
    views, targets = _batch(method.num_views)
    parts = model(tuple(v.chunk(processes)[rank] for v in views), targets.chunk(processes)[rank])
    parts["loss"].backward()
    assert [key for key, value in parts.items() if value.requires_grad] == ["loss"]
    means = {k: distributed.all_reduce_sum(v.detach()) / processes for k, v in parts.items()}
    tensors = dict(method.named_buffers())
    trained = ((key, p) for key, p in method.named_parameters() if p.requires_grad)
    for key, parameter in trained:
        assert parameter.grad is not None, key
        tensors[f"gradient of {key}"] = parameter.grad
    return means, tensors


@functools.cache
def _alone(name: str, bn_groups: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return _step(name, bn_groups)


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize(("bn_groups", "processes"), [(1, 2), (2, 2), (4, 2), (2, 4)])
def test_processes_share_loss_gradients_and_running_statistics_of_one(
    gloo_pool: Any, name: str, bn_groups: int, processes: int
) -> None:
    parts, tensors = _alone(name, bn_groups)
    largest = max(value.abs().max() for key, value in tensors.items() if "gradient" in key)
    assert largest > 1e-3, "a comparison of zeros would prove nothing"
    for found in gloo_pool.run(_step, name, bn_groups, processes=processes):
        torch.testing.assert_close(found, (parts, tensors), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", TRAINED)
def test_the_loss_falls(name: str) -> None:
    method = _method(name)
    optimizer = optim.build({"name": "adam", "lr": 0.01}, [{"params": list(method.parameters())}])
    views, targets = _batch(method.num_views)
    losses = []
    for _ in range(30):
        loss = method(views, targets)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("name", TRAINED)
def test_half_precision_networks_have_float32_losses(name: str) -> None:
    method = _method(name).float()
    views, targets = _batch(method.num_views)
    single = tuple(view.float() for view in views)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method(single, targets)["loss"]
    torch.manual_seed(0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(method(single, targets)["loss"].item(), rel=0.05)


def test_supervised_is_separable_and_cross_entropy_with_accuracy() -> None:
    method = _method("supervised").eval()
    (view,), targets = _batch(1)
    parts = method((view,), targets)
    logits = method.classifier(method.encoder(view))
    torch.testing.assert_close(parts["loss"], F.cross_entropy(logits, targets))
    assert parts["top1"].item() == (logits.argmax(1) == targets).double().mean().item()
    assert method.separable
    assert not _method("simclr").separable
    assert _method("barlow_twins").minimum_batch == 2


def test_supervised_without_classes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least two classes, but .* has none"):
        methods.build(_node("supervised"), _encoder(), None)


def test_a_wrong_number_of_views_is_refused() -> None:
    node = _node("simclr")
    node["views"] = node["views"][:1]
    with pytest.raises(ValueError, match=r"must describe at least 2 view\(s\) for SimCLR, but"):
        methods.build(node, _encoder(), None)


def test_an_unknown_field_of_a_view_is_refused() -> None:
    node = _node("simclr")
    node["views"][0] = {"crop": [0.2, 1.0]}
    with pytest.raises(ValueError, match="crop_scale"):
        methods.build(node, _encoder(), None)


def test_as_is_has_no_budget_and_nothing_to_build() -> None:
    node = _file("as_is")
    assert node == {"name": "as_is", "_target_": None, "seed": 0}
    with pytest.raises(ValueError, match="nothing to pre-train"):
        methods.build(node, _encoder(), 4)


@pytest.mark.parametrize("name", TRAINED)
def test_a_node_is_its_names_file_and_binds_to_its_target(name: str) -> None:
    node, mounted = _node(name), _file(name)["defaults"]
    assert node["name"] == name
    assert (mounted[0], mounted[-1]) == ("_base", "_self_")  # which mounts `pretrain_on`
    groups = [next(iter(m)).partition("@")[2] for m in mounted[1:-1]]
    assert groups[0] == "optimizer"
    assert groups[1:] in ([], ["_here_"])  # views
    assert set(methods.TRAINING_KEYS) - {"pretrain_on"} <= set(node)
    target = type(methods.build(node, _encoder(), 4, **_referenced(name)))
    supplied = frozenset({"encoder", "num_classes", "views", *_referenced(name)})
    keys = methods.own_keys(node)
    assert signature_problems("method", target, keys, supplied=supplied) == []


@pytest.mark.parametrize("name", sorted(optim.OPTIMIZERS))
def test_an_optimizers_file_gives_every_key_of_its_function(name: str) -> None:
    # Variants such as sgd_nesterov state only differences; test_config.py composes them.
    node = yaml.safe_load((CONF / "optimizer" / f"{name}.yaml").read_text())
    assert node["name"] == name
    assert optim.problems(node) == []
    known = list(inspect.signature(optim.OPTIMIZERS[name]).parameters)
    assert list(node)[1:] == known[1:]
    optim.build(node, [{"params": [nn.Parameter(torch.ones(2))]}])


def test_the_published_projector_of_barlow_twins_has_its_size() -> None:
    # 512 -> 512 (no bias, BatchNorm) -> 1024 (bias): 788,480 parameters in wgcban/mix-bt.
    projector = Projector(512, [512, 1024])
    assert sum(p.numel() for p in projector.parameters()) == 788_480
    kinds = [type(layer) for layer in projector]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]


def test_a_projector_may_end_in_a_batch_norm_or_do_without() -> None:
    ends = Projector(4, [3, 2], hidden_bias=True, last_bias=False, last_batch_norm=True)
    assert isinstance(ends[-1], nn.BatchNorm1d)
    assert [layer.bias is not None for layer in ends if isinstance(layer, nn.Linear)] == [
        True,
        False,
    ]
    plain = Projector(4, [3, 2], batch_norm=False)
    assert not any(isinstance(layer, nn.BatchNorm1d) for layer in plain)
    with pytest.raises(ValueError, match=r"`projector\.dims` must not be empty"):
        Projector(4, [])


def test_supervised_smooths_labels_when_asked() -> None:
    torch.manual_seed(0)
    views = methods.augmentations(_node("supervised"))
    method = Supervised(_encoder(), 4, views, label_smoothing=0.2).double().eval()
    batch, targets = _batch(1)
    log_probabilities = method.classifier(method.encoder(batch[0])).log_softmax(dim=1)
    smooth = 0.8 * F.one_hot(targets, 4) + 0.2 / 4
    expected = -(smooth * log_probabilities).sum(dim=1).mean()
    torch.testing.assert_close(method(batch, targets)["loss"], expected)
