"""SimSiam's loss: closed forms, its relation to BYOL's, lightly as judge; the published network."""

from typing import Any

import pytest
import torch
from torch import nn

from ssl_transfer import methods
from ssl_transfer.methods.byol import byol
from ssl_transfer.methods.simsiam import SimSiam, simsiam
from ssl_transfer.models import Encoder
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.training import optim

T = torch.arange(32, dtype=torch.float64).reshape(8, 4)
A, B, M = (1 + T).sin(), (T / 2).cos(), (0.3 * T).sin()


def test_value_and_gradient_equal_the_papers_algorithm_1() -> None:
    def distance(p: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        z = z.detach()
        p, z = p / p.norm(dim=1, keepdim=True), z / z.norm(dim=1, keepdim=True)
        return -(p * z).sum(dim=1).mean()

    leaves = [x.clone().requires_grad_() for x in (A, B, M, A)]
    p0, p1, z0, z1 = leaves
    expected = distance(p0, z1) / 2 + distance(p1, z0) / 2
    torch.testing.assert_close(simsiam(*leaves), expected)
    torch.testing.assert_close(
        torch.autograd.grad(simsiam(*leaves), leaves[:2]), torch.autograd.grad(expected, leaves[:2])
    )
    simsiam(*leaves).backward()
    assert z0.grad is None
    assert z1.grad is None


def test_it_is_byols_loss_shifted_and_scaled() -> None:
    # So section 17's golden number of BYOL holds here, too.
    expected = 2.0062902205871698 / 4 - 1
    assert simsiam(A, B, M, A).item() == pytest.approx(expected, rel=1e-12)
    assert simsiam(B, A, A, M).item() == pytest.approx(byol(B, A, A, M).item() / 4 - 1)


def test_agreement_is_minus_1() -> None:
    assert simsiam(A, B, 2 * B, 3 * A).item() == pytest.approx(-1)
    assert simsiam(A, B, -B, -A).item() == pytest.approx(1)


def test_lightly_computes_the_same() -> None:
    loss = pytest.importorskip("lightly.loss").NegativeCosineSimilarity()
    expected = 0.5 * (loss(A, M.detach()) + loss(B, A))
    torch.testing.assert_close(simsiam(A, B, A, M), expected)


def _method(**changes: Any) -> SimSiam:
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 6, bias=False))
    encoder = Encoder(backbone, 6, Preprocessing(size=2, resize=None))
    views = methods.augmentations({"views": [{}, {}]})
    projector = {"dims": [6, 6, 8], "last_bias": False}
    return SimSiam(encoder, None, views, projector=projector, predictor_dim=2, **changes)


@pytest.mark.parametrize("constant", [False, True])
def test_the_predictors_learning_rate_may_stay(constant: bool) -> None:
    method = _method(constant_predictor_lr=constant)
    config = {"name": "sgd", "lr": 0.1, "weight_decay": 1e-4, "exclude_bias_and_norm": True}
    optimizer = optim.build(config, method.parameter_groups())
    optim.scale_learning_rate(optimizer, 0.5)
    rates = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates.keys() == set(method.parameters())
    assert {rates[p] for p in method.predictor.parameters()} == {0.1 if constant else 0.05}
    assert {rates[p] for p in method.projector.parameters()} == {0.05}
    assert {rates[p] for p in method.encoder.parameters()} == {0.05}


def test_the_network_has_the_published_layers() -> None:
    # facebookresearch/simsiam at 39ac33e, simsiam/builder.py: an encoder of width 6 with three
    # linear layers, the last followed by a BatchNorm without parameters; a bottleneck predictor.
    method = _method()
    shapes = {name: tuple(p.shape) for name, p in method.named_parameters()}
    matrices = [shape for shape in shapes.values() if len(shape) == 2]
    assert matrices == [(6, 12), (6, 6), (6, 6), (8, 6), (2, 8), (8, 2)]
    vectors = [shape for shape in shapes.values() if len(shape) == 1]
    assert vectors == [(6,)] * 4 + [(2,)] * 2 + [(8,)]  # BatchNorms; only the last layer has a bias
    z = method.projector(torch.randn(32, 6))
    torch.testing.assert_close(z.mean(dim=0), torch.zeros(8), atol=1e-6, rtol=0)
    torch.testing.assert_close(z.var(dim=0, unbiased=False), torch.ones(8), atol=1e-2, rtol=0)
