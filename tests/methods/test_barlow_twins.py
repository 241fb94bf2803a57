"""The Barlow Twins loss: golden numbers of its published forms, closed forms, degenerate input."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssl_transfer import methods
from ssl_transfer.methods import correlation
from ssl_transfer.methods.barlow_twins import BarlowTwins, barlow_twins
from ssl_transfer.methods.correlation import constant_features, gram, squared_norms, standardise
from ssl_transfer.models import Encoder
from ssl_transfer.preprocessing import Preprocessing

T = torch.arange(32, dtype=torch.float64).reshape(8, 4)
A, B = (1 + T).sin(), (T / 2).cos()


def test_golden_numbers_of_the_small_image_code() -> None:
    terms = barlow_twins(A, B, lambda_bt=0.0078125, normalise=True, unbiased=True, eps=0.0)
    expected = (4.652189136397766, 4.62612082668754, 3.3367436429089157)
    assert [term.item() for term in terms] == pytest.approx(expected, rel=1e-13)


def test_golden_numbers_of_the_imagenet_code_with_unbiased_deviation() -> None:
    terms = barlow_twins(A, B, lambda_bt=0.0051, unbiased=True, eps=0.0)
    expected = (4.420175243099782, 4.40287923307956, 3.391374513768972)
    assert [term.item() for term in terms] == pytest.approx(expected, rel=1e-13)


def test_golden_numbers_of_the_variant_with_negative_correlations() -> None:
    keys: dict[str, Any] = {"normalise": True, "unbiased": True, "eps": 0.0}
    terms = barlow_twins(A, B, lambda_bt=0.0078125, offdiag_target=-1, **keys)
    assert terms.loss.item() == pytest.approx(4.802101527131439, rel=1e-13)
    assert terms.off_diagonal.item() == pytest.approx(22.52552965681913, rel=1e-13)


def test_golden_number_of_the_original() -> None:
    terms = barlow_twins(A, B, lambda_bt=0.0051, eps=0.0)
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
    found = torch.autograd.grad(barlow_twins(*leaves, lambda_bt=0.0051).loss, leaves)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_identical_views_with_uncorrelated_features_have_no_loss() -> None:
    z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).double()
    terms = barlow_twins(z, z, lambda_bt=1.0, eps=0.0)
    assert [term.item() for term in terms] == pytest.approx([0.0, 0.0, 0.0], abs=1e-15)
    # The unbiased deviation caps the diagonal at (B - 1) / B: a floor of D / B².
    floor = barlow_twins(z, z, lambda_bt=1.0, unbiased=True, eps=0.0).loss
    assert floor.item() == pytest.approx(2 / 4**2)


def test_a_constant_feature_gives_a_finite_loss_and_gradient() -> None:
    a = A.clone()
    a[:, 2] = 0.7
    a.requires_grad_()
    terms = barlow_twins(a, B, lambda_bt=0.0051)
    (gradient,) = torch.autograd.grad(terms.loss, a)
    assert terms.loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("unbiased", [False, True])
def test_standardised_features_have_mean_0_and_deviation_1(unbiased: bool) -> None:
    z = standardise(A, unbiased=unbiased, eps=0.0)
    torch.testing.assert_close(z.mean(dim=0), torch.zeros(4).double())
    torch.testing.assert_close(z.std(dim=0, unbiased=unbiased), torch.ones(4).double())


def _literal(a: Tensor, b: Tensor, weight: float, target: int) -> Tensor:
    """Return equation 1 of the paper, entry by entry, of standardised features."""
    c = a.T @ b / len(a)
    off = ~torch.eye(len(c), dtype=torch.bool)
    return (c.diagonal() - 1).square().sum() + weight * (c[off] - target).square().sum()


@pytest.mark.parametrize("target", [0, -1])
@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (9, 9)])
def test_value_and_gradient_equal_the_literal_form_with_few_and_many_images(
    shape: tuple[int, int], target: Any
) -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    expected = _literal(
        *(standardise(z, unbiased=False, eps=1e-5) for z in leaves), weight=0.03, target=target
    )
    found = barlow_twins(*leaves, lambda_bt=0.03, offdiag_target=target).loss
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(found, leaves),
        torch.autograd.grad(expected, leaves),
        rtol=1e-10,
        atol=1e-12,
    )


def test_the_correlation_matrix_is_computed_only_if_it_is_the_smaller_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []

    def spy(x: Tensor) -> Tensor:
        seen.append(len(x))
        return gram(x)

    monkeypatch.setattr(correlation, "gram", spy)
    squared_norms([torch.randn(4, 9)] * 2, [(0, 1)])
    squared_norms([torch.randn(9, 4)] * 2, [(0, 1)])
    assert seen == [4, 4]


def test_the_gradient_of_inner_products_is_that_of_finite_differences() -> None:
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gram, x)


def test_a_constant_feature_takes_no_part_where_published_code_divides_by_zero() -> None:
    a = A.clone()
    a[:, 2] = 0.7
    assert constant_features(a).tolist() == [False, False, True, False]
    z = standardise(a.requires_grad_(), unbiased=True, eps=0.0)
    assert torch.equal(z[:, 2], torch.zeros(8).double())
    (gradient,) = torch.autograd.grad(barlow_twins(a, B, lambda_bt=1.0, eps=0.0).loss, a)
    assert gradient.isfinite().all()
    assert torch.equal(gradient[:, 2], torch.zeros(8).double())
    # The others are as they would be without it.
    others = standardise(a[:, [0, 1, 3]], unbiased=True, eps=0.0)
    torch.testing.assert_close(z[:, [0, 1, 3]], others)


@pytest.mark.parametrize("value", [0.1, 1e4, 1e-20, 0.0])
def test_a_feature_is_constant_whatever_its_value_and_precision(value: float) -> None:
    z = torch.randn(64, 3)
    z[:, 1] = value
    assert constant_features(z).tolist() == [False, True, False]


@pytest.mark.parametrize("units", [0.0, 0.5, 1.0, 2.0, 8.0, 64.0, 1e4])
def test_a_feature_is_constant_up_to_rounding_by_its_variance(units: float) -> None:
    z = 3.0 + units * torch.finfo(torch.float32).eps * torch.randn(64, 5)
    variance, mean = torch.var_mean(z, dim=0, correction=0)
    expected = variance <= (torch.finfo(torch.float32).eps * mean).square()
    assert torch.equal(constant_features(z), expected)


@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_a_network_with_dead_features_trains_on_with_a_warning(eps: float) -> None:
    torch.manual_seed(0)
    encoder = Encoder(nn.Flatten(), 12, Preprocessing(size=2, resize=None))
    views = methods.augmentations({"views": [{}, {}]})
    keys: dict[str, Any] = {"lambda_bt": 0.01, "projector": {"dims": [9, 7]}}
    method = BarlowTwins(encoder, None, views, eps=eps, **keys)
    batch = tuple(torch.randn(2, 8, 3, 2, 2).unbind())
    assert method(batch, torch.zeros(8).long())["constant_features"].item() == 0
    method.after_loss({"constant_features": 0.0})
    with torch.no_grad():
        method.projector[-1].weight[2:5] = 0
    parts = method(batch, torch.zeros(8).long())
    parts["loss"].backward()
    assert parts["constant_features"].item() == 3
    assert parts["loss"].isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
    with pytest.warns(UserWarning, match="are the same for all images of a batch"):
        method.after_loss({"constant_features": 3.0})


@pytest.mark.parametrize("shape", [(16, 40), (40, 16)])
def test_lightly_computes_the_same(shape: tuple[int, int]) -> None:
    loss = pytest.importorskip("lightly.loss").BarlowTwinsLoss(0.0051)
    torch.manual_seed(0)
    a, b = torch.randn(2, *shape, dtype=torch.float64).unbind()
    torch.testing.assert_close(barlow_twins(a, b, lambda_bt=0.0051).loss, loss(a, b))
