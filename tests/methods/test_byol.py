"""BYOL's loss: golden numbers, the formula retyped, closed forms."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssl_transfer import methods
from ssl_transfer.methods.byol import BYOL, byol, normalised_mse
from ssl_transfer.models import Encoder
from ssl_transfer.preprocessing import Preprocessing

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


def _method() -> BYOL:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    encoder = Encoder(backbone, 5, Preprocessing(size=2, resize=None))
    views = methods.augmentations({"views": [{}, {}]})
    projector = {"dims": [7, 3], "last_bias": False}
    return BYOL(encoder, None, views, momentum=0.9, projector=projector, predictor_dim=6).double()


def test_the_method_predicts_each_views_target_from_the_other_view() -> None:
    method = _method().eval()  # without batch statistics the order of passes is without effect
    with torch.no_grad():
        for parameter in method.target.parameters():
            parameter += 0.1
    views = tuple(torch.randn(6, 3, 2, 2, dtype=torch.float64) for _ in range(2))
    p0, p1 = (method.predictor(method.projector(method.encoder(view))) for view in views)
    t0, t1 = (method.target(view) for view in views)
    cosines = F.cosine_similarity(p0, t1).mean() + F.cosine_similarity(p1, t0).mean()
    found = method(views, torch.zeros(6).long())["loss"]
    torch.testing.assert_close(found, 4 - 2 * cosines)


def test_after_the_last_step_the_target_stands_still() -> None:
    method = _method()
    before = [p.clone() for p in method.target.parameters()]
    with torch.no_grad():
        for parameter in method.online.parameters():
            parameter += 1.0
    method.after_step(1.0)
    assert all(torch.equal(p, q) for p, q in zip(method.target.parameters(), before, strict=True))
    method.after_step(0.5)  # momentum 1 - 0.1 / 2
    for old, new in zip(before, method.target.parameters(), strict=True):
        torch.testing.assert_close(new.data, old + 0.05)
