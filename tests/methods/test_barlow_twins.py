"""The Barlow Twins loss: golden numbers of its published forms, closed forms, degenerate input."""

import pytest
import torch
from torch import nn

from ssl_transfer.methods.barlow_twins import barlow_twins, standardise

T = torch.arange(32, dtype=torch.float64).reshape(8, 4)
A, B = (1 + T).sin(), (T / 2).cos()


def test_golden_numbers_of_the_small_image_code() -> None:
    terms = barlow_twins(
        A, B, off_diagonal_weight=0.0078125, normalise=True, unbiased=True, eps=0.0
    )
    expected = (4.652189136397766, 4.62612082668754, 3.3367436429089157)
    assert [term.item() for term in terms] == pytest.approx(expected, rel=1e-13)


def test_golden_numbers_of_the_imagenet_code_with_unbiased_deviation() -> None:
    terms = barlow_twins(A, B, off_diagonal_weight=0.0051, unbiased=True, eps=0.0)
    expected = (4.420175243099782, 4.40287923307956, 3.391374513768972)
    assert [term.item() for term in terms] == pytest.approx(expected, rel=1e-13)


def test_golden_number_of_the_original() -> None:
    terms = barlow_twins(A, B, off_diagonal_weight=0.0051, eps=0.0)
    assert terms.loss.item() == pytest.approx(4.664946858320697, rel=1e-13)


def test_value_and_gradient_equal_the_originals_batch_norm() -> None:
    # facebookresearch/barlowtwins at 8e8d284, main.py: `bn(z1).T @ bn(z2)`, divided by the batch.
    torch.manual_seed(0)
    leaves = [torch.randn(6, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    norm = nn.BatchNorm1d(4, affine=False).double()
    c = norm(leaves[0]).T @ norm(leaves[1]) / 6
    on = (c.diagonal() - 1).square().sum()
    off = (c * (1 - torch.eye(4))).square().sum()
    expected = torch.autograd.grad(on + 0.0051 * off, leaves)
    found = torch.autograd.grad(barlow_twins(*leaves, off_diagonal_weight=0.0051).loss, leaves)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_identical_views_with_uncorrelated_features_have_no_loss() -> None:
    z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).double()
    terms = barlow_twins(z, z, off_diagonal_weight=1.0, eps=0.0)
    assert [term.item() for term in terms] == pytest.approx([0.0, 0.0, 0.0], abs=1e-15)
    # The unbiased deviation caps the diagonal at (B - 1) / B: a floor of D / B².
    floor = barlow_twins(z, z, off_diagonal_weight=1.0, unbiased=True, eps=0.0).loss
    assert floor.item() == pytest.approx(2 / 4**2)


def test_a_constant_feature_gives_a_finite_loss_and_gradient() -> None:
    a = A.clone()
    a[:, 2] = 0.7
    a.requires_grad_()
    terms = barlow_twins(a, B, off_diagonal_weight=0.0051)
    (gradient,) = torch.autograd.grad(terms.loss, a)
    assert terms.loss.isfinite()
    assert gradient.isfinite().all()
    assert not barlow_twins(a, B, off_diagonal_weight=0.0051, eps=0.0).loss.isfinite()


@pytest.mark.parametrize("unbiased", [False, True])
def test_standardised_features_have_mean_0_and_deviation_1(unbiased: bool) -> None:
    z = standardise(A, unbiased=unbiased, eps=0.0)
    torch.testing.assert_close(z.mean(dim=0), torch.zeros(4).double())
    torch.testing.assert_close(z.std(dim=0, unbiased=unbiased), torch.ones(4).double())
