"""MoCo: golden numbers, the formula retyped, lightly as judge, heads, shuffling BN, the queue."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_transfer import methods
from ssl_transfer.config import compose, plain
from ssl_transfer.methods.moco import (
    MoCo,
    build_head,
    contrastive_logits,
    info_nce,
)
from ssl_transfer.models import Encoder
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.runs.signature import problems
from ssl_transfer.system import distributed
from ssl_transfer.training.batch_statistics import convert

T = torch.arange(32, dtype=torch.float64).reshape(8, 4)
A, B = (1 + T).sin(), (T / 2).cos()
QUEUE = F.normalize((0.7 * torch.arange(24, dtype=torch.float64).reshape(6, 4)).cos())


@pytest.mark.parametrize(
    ("temperature", "expected"), [(0.2, 4.366750043524049), (0.07, 11.259159913116202)]
)
def test_golden_numbers(temperature: float, expected: float) -> None:
    assert info_nce(A, B, QUEUE, temperature).item() == pytest.approx(expected, rel=1e-12)


def test_value_and_gradient_equal_equation_1_of_the_paper() -> None:
    leaves = [x.clone().requires_grad_() for x in (A, B, QUEUE)]
    queries, keys, queue = leaves
    loss = torch.zeros(()).double()
    for q, k in zip(queries, keys.detach(), strict=True):
        q, k = q / q.norm(), k / k.norm()
        scores = [(q @ k / 0.2).exp(), *((q @ row / 0.2).exp() for row in QUEUE)]
        loss = loss - (scores[0] / sum(scores)).log() / len(queries)
    found = info_nce(*leaves, 0.2)
    torch.testing.assert_close(found, loss)
    (expected,) = torch.autograd.grad(loss, queries)
    found.backward()
    torch.testing.assert_close(queries.grad, expected)
    assert keys.grad is None
    assert queue.grad is None


def test_guessing_costs_the_logarithm_of_the_candidates() -> None:
    same = torch.ones(8, 4)
    assert info_nce(same, same, F.normalize(torch.ones(6, 4)), 0.2).item() == pytest.approx(
        math.log(7)
    )


def test_lightly_computes_the_same() -> None:
    loss = pytest.importorskip("lightly.loss").NTXentLoss(0.2, memory_bank_size=(6, 4))
    loss.memory_bank.bank = QUEUE.clone()
    torch.testing.assert_close(info_nce(A, B, QUEUE, 0.2), loss(A, B))


@pytest.mark.parametrize("dim", [1280, 1024, 512, 192])
def test_the_wide_head_has_its_published_size(dim: int) -> None:
    # Parameters of WOWNICE/ssl-small's `--mlp wide` for the five small encoders, in millions.
    published = {1280: 3.61, 1024: 2.36, 512: 0.66, 192: 0.12}
    parameters = sum(p.numel() for p in build_head(dim, 128, "wide").parameters())
    assert parameters / 1e6 == pytest.approx(published[dim], abs=0.005)


def test_heads_have_the_published_layers() -> None:
    def layers(mlp: Any) -> list[Any]:
        head = build_head(6, 2, mlp)
        assert all(layer.bias is not None for layer in head if isinstance(layer, nn.Linear))
        return [
            (layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else type(layer)
            for layer in head
        ]

    assert layers("linear") == [(6, 2)]
    assert layers("simple") == [(6, 6), nn.ReLU, (6, 2)]
    assert layers("wide") == [(6, 12), nn.ReLU, (12, 2)]
    assert layers("deep") == [(6, 6), nn.ReLU, (6, 6), nn.ReLU, (6, 2)]
    assert layers("dropout") == [(6, 6), nn.ReLU, nn.Dropout, (6, 2)]


def test_unknown_values_of_the_option_are_refused_with_the_known() -> None:
    config = plain(compose(["method=moco_v2", "method.mlp=plain"]))
    assert any("`method.mlp` must be one of ['linear', 'simple'" in p for p in problems(config))
    config = plain(compose(["method=dino", "method.keep=both"]))
    assert any("`method.keep` must be one of ['teacher', 'student']" in p for p in problems(config))


def _method(**changes: Any) -> MoCo:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5), nn.Tanh())
    encoder = Encoder(backbone, 5, Preprocessing(size=2, resize=None))
    views = methods.augmentations({"views": [{}, {}]})
    keys = {"temperature": 0.2, "momentum": 0.9, "queue_size": 20, "dim": 3, "mlp": "simple"}
    return MoCo(encoder, None, views, **{**keys, **changes}).double()


def _views() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    first = torch.randn(8, 3, 2, 2, generator=generator, dtype=torch.float64)
    return first, first + 0.1 * torch.randn(8, 3, 2, 2, generator=generator, dtype=torch.float64)


def _embed(encoder: nn.Module, head: nn.Module, images: Tensor) -> Tensor:
    return F.normalize(head(encoder(images)))


def test_asymmetric_and_symmetric_losses_are_the_published_sums() -> None:
    views, targets = _views(), torch.zeros(8).long()
    method = _method()
    queue = method.queue.rows.clone()
    method.eval()  # without batch statistics
    q0, q1 = (_embed(method.encoder, method.head, view) for view in views)
    torch.testing.assert_close(
        method(views, targets)["loss"], info_nce(q0, q1, queue, 0.2)
    )  # the key network still is a copy
    both = _method(symmetric=True).eval()
    expected = info_nce(q0, q1, queue, 0.2) + info_nce(q1, q0, queue, 0.2)
    found = both(views, targets)
    torch.testing.assert_close(found["loss"], expected)
    hits = [
        (contrastive_logits(q, k, queue, 0.2).argmax(dim=1) == 0).double().mean()
        for q, k in ((q0, q1), (q1, q0))
    ]
    torch.testing.assert_close(found["top1"], torch.stack(hits).mean())


def test_the_queue_takes_this_steps_keys_after_the_step() -> None:
    views, targets = _views(), torch.zeros(8).long()
    method = _method(symmetric=True).eval()
    keys = torch.cat([_embed(method.encoder, method.head, view) for view in reversed(views)])
    start = method.queue.rows.clone()
    method(views, targets)
    assert torch.equal(method.queue.rows, start)
    method.after_step(0.5)
    torch.testing.assert_close(method.queue.rows[:16], keys)
    assert torch.equal(method.queue.rows[16:], start[16:])
    assert method.fresh == []


def test_a_queue_smaller_than_a_steps_keys_is_refused() -> None:
    method = _method(queue_size=15, symmetric=True)
    method(_views(), torch.zeros(8).long())
    with pytest.raises(ValueError, match=r"`method.queue_size` must be at least 16.*but is 15"):
        method.after_step(0.5)


def _keys(order: Tensor | None, groups: int) -> Tensor:
    method = _method()
    convert(method, groups)
    own = _views()[1].chunk(distributed.world_size())[distributed.rank()]
    return method._keys(own, order)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_shuffled_keys_have_the_statistics_of_other_images(gloo_pool: Any, processes: int) -> None:
    order = torch.tensor([3, 0, 7, 1, 6, 2, 5, 4])
    method = _method()
    images, expected = _views()[1], torch.empty(8, 3, dtype=torch.float64)
    for group in order.chunk(4):  # each passes alone, with its own batch statistics
        expected[group] = _embed(*method.key_network, images[group])
    if processes == 1:
        found = [_keys(order, 4)]
    else:
        found = gloo_pool.run(_keys, order, 4, processes=processes)
    for keys in found:
        torch.testing.assert_close(keys, expected, rtol=1e-9, atol=1e-9)
    # In the order of the queries it is another set of groups.
    assert (_keys(None, 4) - expected).abs().max() > 1e-3


def _permutation(seed: int) -> Tensor:
    torch.manual_seed(seed + 100 * distributed.rank())
    return distributed.shared_permutation(50, torch.device("cpu"))


def test_all_processes_shuffle_alike_and_as_one_process_does(gloo_pool: Any) -> None:
    alone = _permutation(3)
    first, second = gloo_pool.run(_permutation, 3)
    assert torch.equal(first, alone)
    assert torch.equal(second, alone)
    assert sorted(alone.tolist()) == list(range(50))
    assert not torch.equal(_permutation(4), alone)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, "`method.temperature` must be positive"),
        ({"queue_size": 0}, "`method.queue_size` must be at least 1"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _method(**changes)
