"""SwAV: golden numbers, the published loops retyped, lightly as judge, queue and prototypes."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_transfer import methods
from ssl_transfer.methods.swav import SwAV, sinkhorn, swav
from ssl_transfer.models import Encoder
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.system import distributed

T = torch.arange(32, dtype=torch.float64).reshape(8, 4)
A, B, M = (1 + T).sin(), (T / 2).cos(), (0.3 * T).sin()
PROTOTYPES = F.normalize((0.9 * torch.arange(20, dtype=torch.float64).reshape(5, 4)).sin())
SCORES = torch.stack([F.normalize(z) @ PROTOTYPES.T for z in (A, B, M)], dim=1)
KEYS: dict[str, Any] = {"eps": 0.05, "iterations": 3}


def _codes(scores: Tensor) -> list[Tensor]:
    return [sinkhorn(scores[:, view], **KEYS) for view in range(2)]


def test_golden_numbers() -> None:
    codes = _codes(SCORES[:, :2])
    assert swav(SCORES[:, :2], codes, 0.1).item() == pytest.approx(6.702530759245822, rel=1e-13)
    expected = (2e-6, 0, 0.704552, 0, 0.295446)
    assert codes[0][0].tolist() == pytest.approx(expected, abs=5e-7)


def _published_codes(scores: Tensor, eps: float, iterations: int) -> Tensor:
    """Return the codes as section 6's text says."""
    m = torch.exp(scores / eps).T
    m = m / m.sum()
    for _ in range(iterations):
        m = m / m.sum(dim=1, keepdim=True) / len(m)
        m = m / m.sum(dim=0, keepdim=True) / m.shape[1]
    return (m * m.shape[1]).T


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_codes_are_those_of_the_published_loop(iterations: int) -> None:
    scores = SCORES.flatten(0, 1)
    found = sinkhorn(scores, eps=0.05, iterations=iterations)
    torch.testing.assert_close(found, _published_codes(scores, 0.05, iterations))
    torch.testing.assert_close(found.sum(dim=1), torch.ones(24).double())


def test_codes_use_all_prototypes_alike_in_the_limit() -> None:
    codes = sinkhorn(SCORES[:, 0], eps=0.05, iterations=500)
    torch.testing.assert_close(codes.sum(dim=0), torch.full((5,), 8 / 5).double())


def test_codes_stay_finite_where_exponentials_overflow() -> None:
    scores = 1000 * SCORES[:, 0].float()
    codes = sinkhorn(scores, **KEYS)
    assert codes.isfinite().all()
    assert _published_codes(scores, **KEYS).isnan().any()
    assert sinkhorn(torch.ones(6, 3), **KEYS).tolist() == [[pytest.approx(1 / 3)] * 3] * 6


def _published_loss(scores: Tensor, codes: list[Tensor], temperature: float) -> Tensor:
    views, total = scores.shape[1], torch.zeros(()).double()
    for i in (0, 1):
        part = torch.zeros(()).double()
        for v in range(views):
            if v != i:
                log_p = F.log_softmax(scores[:, v] / temperature, dim=1)
                part = part - (codes[i] * log_p).sum(dim=1).mean()
        total = total + part / (views - 1)
    return total / 2


@pytest.mark.parametrize("views", [2, 3])
def test_value_and_gradient_equal_the_published_loop(views: int) -> None:
    scores = SCORES[:, :views].clone().requires_grad_()
    codes = [view.requires_grad_() for view in _codes(scores.detach())]
    found = swav(scores, codes, 0.1)
    expected = _published_loss(scores, [view.detach() for view in codes], 0.1)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, scores, retain_graph=True),
        torch.autograd.grad(expected, scores),
    )
    found.backward()
    assert all(view.grad is None for view in codes)


@pytest.mark.parametrize("views", [2, 3])
def test_lightly_computes_the_same(views: int) -> None:
    # Its accumulator is single precision.
    loss = pytest.importorskip("lightly.loss").SwaVLoss()
    scores = SCORES[:, :views].float()
    expected = loss([scores[:, 0], scores[:, 1]], [scores[:, v] for v in range(2, views)])
    found = swav(scores, _codes(scores), 0.1)
    torch.testing.assert_close(found, expected.squeeze(), rtol=1e-5, atol=0)


def test_guessing_costs_the_logarithm_of_the_prototypes() -> None:
    found = swav(torch.zeros(8, 3, 5), [view.float() for view in _codes(SCORES)], 0.1)
    assert found.item() == pytest.approx(math.log(5), rel=1e-6)


def _method(**changes: Any) -> SwAV:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 6))
    encoder = Encoder(backbone, 6, Preprocessing(size=4, resize=None))
    views = methods.augmentations({"views": [{}] * changes.pop("views", 2)})
    keys: dict[str, Any] = {
        "projector": {"dims": [9, 4], "hidden_bias": True},
        "prototypes": 5,
        "temperature": 0.1,
        "sinkhorn_eps": 0.05,
        "sinkhorn_iterations": 3,
        "frozen_prototypes": 0.25,
        "queue_size": 0,
        "queue_start": 0.0,
    }
    method = SwAV(encoder, None, views, **{**keys, **changes}).double()
    method._normalise_prototypes()  # in double precision
    return method


def _images(seed: int, count: int = 8, size: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, size, size, generator=generator, dtype=torch.float64)


def test_prototypes_have_length_1_before_the_first_and_after_every_step() -> None:
    method = _method()
    for _ in range(2):
        norms = method.prototypes.weight.norm(dim=1)
        torch.testing.assert_close(norms, torch.ones(5).double())
        method((_images(0), _images(1)), torch.zeros(8).long())
        with torch.no_grad():
            method.prototypes.weight += 0.3
        method.after_step(0.5)


def test_prototypes_stay_in_the_beginning_only() -> None:
    method = _method()
    for progress, frozen in ((0.0, True), (0.2, True), (0.25, False), (0.9, False)):
        method.zero_grad()
        method((_images(0), _images(1)), torch.zeros(8).long())["loss"].backward()
        method.before_step(progress)
        assert (method.prototypes.weight.grad is None) == frozen
        assert method.projector[0].weight.grad is not None


def _with_queue() -> list[Tensor]:
    """Return the codes' losses of four steps with a queue that fills from the second on."""
    method = _method(queue_size=16, queue_start=0.25).eval()  # no batch statistics
    losses = []
    for step in range(5):
        views = [_images(10 * step + v) for v in range(2)]
        own = tuple(v.chunk(distributed.world_size())[distributed.rank()] for v in views)
        method.before_pass(len(own[0]))
        parts = method(own, torch.zeros(len(own[0])).long())
        total = distributed.all_reduce_sum(parts["loss"].detach()) / distributed.world_size()
        losses.append(total)
        method.after_step((step + 1) / 5)
    return losses


def test_the_queue_takes_part_once_it_is_full(gloo_pool: Any) -> None:
    method, past, expected = _method().eval(), [], []
    for step in range(5):
        with torch.no_grad():
            z = method._embed([_images(10 * step + v) for v in range(2)])
            scores = z @ method.prototypes.weight.T
            # Filled by steps 1 and 2 (of 0 to 4), and used from 3 on.
            rows = torch.cat([*past[-2:], z]) if step >= 3 else z
            codes = [view[-8:] for view in _codes(rows @ method.prototypes.weight.T)]
            expected.append(_published_loss(scores, codes, 0.1))
        if step >= 1:
            past.append(z)
    found = _with_queue()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    for others in gloo_pool.run(_with_queue):
        torch.testing.assert_close(others, expected, rtol=1e-10, atol=0)
    without = [
        method((_images(10 * s), _images(10 * s + 1)), torch.zeros(8).long())["loss"]
        for s in range(5)
    ]
    assert [a.item() == pytest.approx(b.item()) for a, b in zip(found, without, strict=True)] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_small_views_are_predicted_from_the_large_ones_only() -> None:
    method = _method(views=4)
    views = (_images(0), _images(1), _images(2, size=2), _images(3, size=2))
    loss = method(views, torch.zeros(8).long())["loss"]
    with torch.no_grad():
        features = [method.encoder(view) for view in views]
        z = F.normalize(method.projector(torch.stack(features, 1).flatten(0, 1)), dim=1)
        scores = (z @ method.prototypes.weight.T).view(8, 4, 5)
    torch.testing.assert_close(loss.detach(), _published_loss(scores, _codes(scores), 0.1))


def test_the_share_of_prototypes_in_use_is_logged() -> None:
    method = _method(prototypes=40)
    used = method((_images(0), _images(1)), torch.zeros(8).long())["prototypes_in_use"].item()
    assert 2 / 40 <= used <= 8 / 40
    assert used * 40 == pytest.approx(round(used * 40))


def test_queues_and_prototypes_are_part_of_what_is_saved() -> None:
    names = set(_method(queue_size=16).state_dict())
    assert {"prototypes.weight", "queues.0.rows", "queues.1.rows", "queues.0.pushed"} <= names
    assert not any(name.startswith("queues") for name in _method().state_dict())


def test_a_queue_smaller_than_the_batch_is_refused() -> None:
    method = _method(queue_size=7)
    method((_images(0), _images(1)), torch.zeros(8).long())
    with pytest.raises(ValueError, match=r"`method.queue_size` must be at least 8"):
        method.after_step(0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, "`method.temperature` must be positive, but is 0.0"),
        ({"prototypes": 1}, "`method.prototypes` must be at least 2, but is 1"),
        ({"queue_size": -1}, "`method.queue_size` must be at least 0, but is -1"),
        ({"frozen_prototypes": 2}, r"`method.frozen_prototypes` must lie in \[0, 1\], but is 2"),
        ({"views": 1}, r"must describe at least 2 view\(s\) for SwAV, but describes 1"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _method(**changes)
