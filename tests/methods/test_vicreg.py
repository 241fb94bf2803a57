"""VICReg's loss: the paper's pseudocode retyped, closed forms, lightly as judge."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssl_transfer import methods
from ssl_transfer.methods.vicreg import VICReg, regularisers, vicreg
from ssl_transfer.models import Encoder
from ssl_transfer.preprocessing import Preprocessing


def _literal(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the three terms as the paper's equations 1, 2, 3, 4, scaled as its code."""
    n, d = a.shape
    variance = covariance = torch.zeros(()).double()
    for z in (a, b):
        deviation = torch.sqrt(z.var(dim=0) + 1e-4)
        variance = variance + torch.relu(1 - deviation).sum() / d / 2
        centred = z - z.mean(dim=0)
        c = sum(torch.outer(row, row) for row in centred) / (n - 1)
        off = ~torch.eye(d, dtype=torch.bool)
        covariance = covariance + c[off].square().sum() / d
    return ((a - b) ** 2).sum() / n / d, variance, covariance


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_value_and_gradient_equal_the_literal_form_with_few_and_many_images(
    shape: tuple[int, int],
) -> None:
    torch.manual_seed(0)
    leaves = [0.9 * torch.randn(shape, dtype=torch.float64) for _ in range(2)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    expected, found = _literal(*leaves), vicreg(*leaves)
    torch.testing.assert_close(tuple(found), expected, rtol=1e-12, atol=1e-14)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(
            torch.autograd.grad(one, leaves, retain_graph=True),
            torch.autograd.grad(other, leaves, retain_graph=True),
            rtol=1e-10,
            atol=1e-12,
        )


@pytest.mark.parametrize("shape", [(16, 40), (40, 16)])
def test_lightly_computes_the_same(shape: tuple[int, int]) -> None:
    loss = pytest.importorskip("lightly.loss").VICRegLoss()
    torch.manual_seed(0)
    a, b = torch.randn(2, *shape, dtype=torch.float64).unbind()
    terms = vicreg(a, b)
    found = 25 * terms.invariance + 25 * terms.variance + terms.covariance
    torch.testing.assert_close(found, loss(a, b))


def test_uncorrelated_features_of_deviation_1_have_no_loss() -> None:
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3).double()
    assert [t.item() for t in vicreg(corners, corners)] == pytest.approx([0, 0, 0], abs=1e-12)
    # Twice the deviation costs nothing; a copied feature costs its covariance squared, both ways.
    copied = torch.cat([corners, corners[:, :1]], dim=1)
    variance, covariance = regularisers(2 * copied, 1e-4)
    assert variance.item() == 0
    assert covariance.item() == pytest.approx(2 * (4 * 8 / 7) ** 2 / 4)


def test_collapse_costs_the_whole_variance_term_and_leaves_gradients_finite() -> None:
    z = torch.full((8, 5), 0.3, requires_grad=True)
    terms = vicreg(z, z.detach())
    assert [t.item() for t in terms] == pytest.approx([0, 1 - 0.01, 0], abs=1e-6)
    (gradient,) = torch.autograd.grad(sum(terms), z)
    assert gradient.isfinite().all()


def _method(**changes: Any) -> VICReg:
    torch.manual_seed(0)
    encoder = Encoder(nn.Flatten(), 12, Preprocessing(size=2, resize=None))
    views = methods.augmentations({"views": [{}, {}]})
    keys = {
        "invariance_weight": 25.0,
        "variance_weight": 5.0,
        "covariance_weight": 2.0,
        "projector": {"dims": [9, 7], "last_bias": False},
    }
    return VICReg(encoder, None, views, **{**keys, **changes})


def test_the_terms_are_weighted_and_logged() -> None:
    method = _method()
    parts = method(tuple(torch.randn(2, 8, 3, 2, 2).unbind()), torch.zeros(8).long())
    expected = 25 * parts["invariance"] + 5 * parts["variance"] + 2 * parts["covariance"]
    torch.testing.assert_close(parts["loss"].detach(), expected)
    assert parts["constant_features"].item() == 0


def test_constant_features_are_counted_and_warned_of() -> None:
    method = _method(eps=1e-3)
    with torch.no_grad():
        method.projector[-1].weight[2:5] = 0
    parts = method(tuple(torch.randn(2, 8, 3, 2, 2).unbind()), torch.zeros(8).long())
    assert parts["constant_features"].item() == 3
    parts["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
    with pytest.warns(UserWarning, match="are the same for all images of a batch"):
        method.after_loss({"constant_features": 3.0})


def test_an_eps_of_0_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`method.eps` must be positive"):
        _method(eps=0.0)
