"""The NT-Xent loss: golden numbers, closed forms, the formula retyped."""

import math

import pytest
import torch
from torch import Tensor, nn

from ssl_transfer import methods
from ssl_transfer.methods.simclr import SimCLR, nt_xent
from ssl_transfer.models import Encoder
from ssl_transfer.preprocessing import Preprocessing

T = torch.arange(32, dtype=torch.float64).reshape(8, 4)
A, B = (1 + T).sin(), (T / 2).cos()


@pytest.mark.parametrize(
    ("temperature", "expected"), [(0.5, 3.2293263908407566), (0.1, 9.40240090060822)]
)
def test_golden_numbers(temperature: float, expected: float) -> None:
    assert nt_xent(A, B, temperature).item() == pytest.approx(expected, rel=1e-14)


def _published(x0: Tensor, x1: Tensor, temperature: float) -> Tensor:
    """The W-MSE authors' form: two cross-entropies, self-similarity taken away by 1e9."""
    x0, x1 = (x / x.norm(dim=1, keepdim=True) for x in (x0, x1))
    size = len(x0)
    loss = torch.zeros((), dtype=x0.dtype)
    for anchor, other in ((x0, x1), (x1, x0)):
        same = anchor @ anchor.T / temperature - 1e9 * torch.eye(size, dtype=x0.dtype)
        logits = torch.cat([anchor @ other.T / temperature, same], dim=1)
        loss = loss - logits.log_softmax(dim=1)[:, :size].diagonal().mean() / 2
    return loss


def test_value_and_gradient_equal_the_published_form() -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(5, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    found = torch.autograd.grad(nt_xent(*leaves, 0.3), leaves)
    expected = torch.autograd.grad(_published(*leaves, 0.3), leaves)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_orthogonal_pairs_have_the_closed_form() -> None:
    z = torch.eye(4, dtype=torch.float64)
    # One candidate at cosine 1, six at cosine 0.
    expected = math.log(1 + 6 * math.exp(-1 / 0.5))
    assert nt_xent(z, 3 * z, 0.5).item() == pytest.approx(expected, rel=1e-12)


def test_identical_embeddings_are_a_guess_among_all_candidates() -> None:
    z = torch.ones(8, 4)
    assert nt_xent(z, z, 0.1).item() == pytest.approx(math.log(15), rel=1e-6)


def test_views_and_order_of_images_do_not_matter() -> None:
    order = torch.tensor([3, 0, 7, 1, 6, 2, 5, 4])
    expected = nt_xent(A, B, 0.5)
    torch.testing.assert_close(nt_xent(B, A, 0.5), expected)
    torch.testing.assert_close(nt_xent(A[order], B[order], 0.5), expected)


@pytest.mark.parametrize("count", [2, 4])
def test_the_loss_of_more_views_is_the_mean_over_their_pairs(count: int) -> None:
    """As ``forward`` in methods/contrastive.py of htdt/self-supervised: ``num_samples`` views."""
    torch.manual_seed(0)
    encoder = Encoder(nn.Flatten(), 12, Preprocessing(size=2, resize=None))
    described = methods.augmentations({"views": [{"count": count}]})
    method = SimCLR(encoder, None, described, temperature=0.5, projector={"dims": [9, 5]}).double()
    views = tuple(torch.randn(6, 3, 2, 2, dtype=torch.float64) for _ in range(count))
    found = method(views, torch.zeros(6).long())["loss"]
    h = method.projector(torch.cat(views).flatten(1)).chunk(count)
    loss = torch.zeros((), dtype=torch.float64)
    for i in range(count - 1):
        for j in range(i + 1, count):
            loss = loss + _published(h[i], h[j], 0.5)
    torch.testing.assert_close(found, loss / (count * (count - 1) / 2))
    gradients = [torch.autograd.grad(x, list(method.projector.parameters()), retain_graph=True)
                 for x in (found, loss / (count * (count - 1) / 2))]  # fmt: skip
    torch.testing.assert_close(*gradients)
