"""BYOL's loss: golden numbers, the formula retyped, closed forms."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssl_transfer import methods
from ssl_transfer.config import compose, plain, resolve
from ssl_transfer.methods.byol import BYOL, byol, normalised_mse
from ssl_transfer.models import Encoder
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.runs.signature import problems

T = torch.arange(32, dtype=torch.float64).reshape(8, 4)
A, B, M = (1 + T).sin(), (T / 2).cos(), (0.3 * T).sin()


def test_golden_numbers() -> None:
    assert normalised_mse(A, B).item() == pytest.approx(1.85980311662424, rel=1e-12)
    # Predictions (A, B), targets (M, A): the pairs are (A, A) and (B, M).
    assert byol(A, B, M, A).item() == pytest.approx(2.0062902205871698, rel=1e-12)


def test_value_and_gradient_equal_the_papers_equation_2() -> None:
    predictions = A.clone().requires_grad_()
    p = predictions / predictions.norm(dim=1, keepdim=True)
    t = B / B.norm(dim=1, keepdim=True)
    expected = (p - t).square().sum(dim=1).mean()
    found = normalised_mse(predictions, B)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, predictions), torch.autograd.grad(expected, predictions)
    )


def test_no_gradient_reaches_the_targets() -> None:
    leaves = [x.clone().requires_grad_() for x in (A, B, M, A)]
    byol(*leaves).backward()
    assert leaves[0].grad is not None
    assert leaves[1].grad is not None
    assert leaves[2].grad is None
    assert leaves[3].grad is None


def test_agreement_costs_nothing_and_opposition_8() -> None:
    assert byol(A, B, 3 * B, 2 * A).item() == pytest.approx(0, abs=1e-12)
    assert byol(A, B, -B, -2 * A).item() == pytest.approx(8)


def _method(count: int = 2) -> BYOL:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    encoder = Encoder(backbone, 5, Preprocessing(size=2, resize=None))
    views = methods.augmentations({"views": [{"count": count}]})
    projector = {"dims": [7, 3], "last_bias": False}
    return BYOL(encoder, None, views, momentum=0.9, projector=projector, predictor_dim=6).double()


@pytest.mark.parametrize("count", [2, 3, 4])
def test_each_views_target_is_predicted_from_every_other_view(count: int) -> None:
    """As ``forward`` in methods/byol.py of htdt/self-supervised: ``num_samples`` views."""
    method = _method(count).eval()  # without batch statistics the order of passes has no effect
    with torch.no_grad():
        for parameter in method.target.parameters():
            parameter += 0.1
    views = tuple(torch.randn(6, 3, 2, 2, dtype=torch.float64) for _ in range(count))
    p = [method.predictor(method.projector(method.encoder(view))) for view in views]
    t = [method.target(view) for view in views]
    loss = torch.zeros((), dtype=torch.float64)
    for i in range(count - 1):
        for j in range(i + 1, count):
            loss = loss + (2 - 2 * F.cosine_similarity(p[i], t[j]).mean())
            loss = loss + (2 - 2 * F.cosine_similarity(p[j], t[i]).mean())
    expected = loss / (count * (count - 1) / 2)
    found = method(views, torch.zeros(6).long())["loss"]
    torch.testing.assert_close(found, expected)
    trained = [p for p in method.parameters() if p.requires_grad]
    torch.testing.assert_close(
        torch.autograd.grad(found, trained), torch.autograd.grad(expected, trained)
    )


@pytest.mark.parametrize("method", ["byol", "simclr", "w_mse"])
def test_four_views_may_be_asked_for_in_the_experiments(method: str) -> None:
    name = "ssl_sota/w_mse_cifar10" if method == "w_mse" else "ssl_sota/cifar10"
    line = [f"experiment={name}", f"method={method}", "method.views.0.count=4"]
    config = plain(compose(line))
    assert problems(config) == []
    node = resolve(config)["method"]
    encoder = Encoder(nn.Flatten(), 12, Preprocessing(size=2, resize=None))
    built = methods.build(node, encoder, None)
    assert len(built.views) == 4
    assert len(set(built.views)) == 1


def test_one_view_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must describe at least 2 view\(s\) for BYOL"):
        _method(1)


def test_the_momentum_of_a_step_is_counted_from_0() -> None:
    # τ = target_ema(global_step) of the published code: the first step has the momentum itself.
    method = _method()
    for progress, moved in ((0.0, 0.1), (0.5, 0.05), (1.0, 0.0)):
        before = [p.clone() for p in method.target.parameters()]
        with torch.no_grad():
            for online, target in zip(
                method.online.parameters(), method.target.parameters(), strict=True
            ):
                online.copy_(target + 1.0)
        method.before_step(progress)
        method.after_step(min(1.0, progress + 0.5))
        for old, new in zip(before, method.target.parameters(), strict=True):
            torch.testing.assert_close(new.data, old + moved)
