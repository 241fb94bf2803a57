"""Rows' cosines: PyTorch's own function as judge, rows of zeros."""

import pytest
import torch
from torch.nn import functional as F

from ssl_transfer.methods.cosine import cosine


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
def test_value_and_gradient_equal_pytorchs(scale: float) -> None:
    torch.manual_seed(0)
    a, b = (scale * torch.randn(6, 5, dtype=torch.float64) for _ in range(2))
    leaves = [a.requires_grad_(), b.requires_grad_()]
    expected, found = F.cosine_similarity(a, b), cosine(a, b)
    torch.testing.assert_close(found, expected)
    weights = torch.arange(6.0, dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad(found @ weights, leaves),
        torch.autograd.grad(expected @ weights, leaves),
    )


def test_a_row_of_zeros_has_cosine_0_and_a_finite_gradient() -> None:
    a, b = torch.zeros(1, 3, requires_grad=True), torch.ones(1, 3, requires_grad=True)
    found = cosine(a, b)
    assert found.item() == 0.0
    found.backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()
    assert b.grad is not None
    assert torch.equal(b.grad, torch.zeros(1, 3))
