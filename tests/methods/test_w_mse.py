"""W-MSE: golden numbers, the released code's formula retyped, whiteness, singular covariances."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_transfer import methods
from ssl_transfer.context import Context
from ssl_transfer.datasets.transforms import Batch
from ssl_transfer.methods.byol import normalised_mse
from ssl_transfer.methods.w_mse import WMSE, agreement, w_mse, whiten
from ssl_transfer.models import Encoder
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.system import distributed
from ssl_transfer.training.options import TrainingOptions
from ssl_transfer.training.trainer import fit

T = torch.arange(32, dtype=torch.float64).reshape(8, 4)
A, B = (1 + T).sin(), (T / 2).cos()
GOLDEN = torch.stack([A, B])[:, :, :2]
IN_ORDER = [torch.arange(8)]


@pytest.mark.parametrize(("eps", "expected"), [(0, 1.567128967473512), (0.01, 1.5475572559039534)])
def test_golden_numbers(eps: float, expected: float) -> None:
    loss, needed = w_mse(GOLDEN, IN_ORDER, sub_batch=4, eps=eps)
    assert loss.item() == pytest.approx(expected, rel=1e-13)
    assert needed == eps


def test_golden_number_of_a_whitened_row() -> None:
    whitened, _ = whiten(GOLDEN[:, :4], 0.0)
    expected = (0.844839443132404, 0.4070186131437572)
    assert whitened[0, 0].tolist() == pytest.approx(expected, rel=1e-12)


def _retyped(views: list[Tensor], permutation: Tensor, size: int, eps: float) -> Tensor:
    """Return the loss as section 4.3's text says, each view and sub-batch by itself."""
    whitened = [torch.empty_like(view) for view in views]
    for rows in permutation.view(-1, size):
        for view, result in zip(views, whitened, strict=True):
            x = view[rows] - view[rows].mean(dim=0)
            covariance = (1 - eps) * x.T @ x / (size - 1) + eps * torch.eye(x.shape[1]).double()
            result[rows] = (torch.linalg.inv(torch.linalg.cholesky(covariance)) @ x.T).T
    distances = [
        (2 - 2 * F.cosine_similarity(whitened[i], whitened[j])).mean()
        for i in range(len(views))
        for j in range(i)
    ]
    return torch.stack(distances).mean()


@pytest.mark.parametrize(("views", "eps"), [(2, 0.0), (4, 0.0), (3, 0.1)])
def test_value_and_gradient_equal_the_released_codes_formula(views: int, eps: float) -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(24, 5, dtype=torch.float64, requires_grad=True) for _ in range(views)]
    permutations = [torch.randperm(24) for _ in range(2)]
    expected = torch.stack([_retyped(leaves, p, 12, eps) for p in permutations]).mean()
    found, _ = w_mse(torch.stack(leaves), permutations, sub_batch=12, eps=eps)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(found, leaves),
        torch.autograd.grad(expected, leaves),
        rtol=1e-9,
        atol=1e-12,
    )


def test_lightly_computes_the_same() -> None:
    loss = pytest.importorskip("lightly.loss").WMSELoss(
        embedding_dim=5, w_size=12, num_samples=3, track_running_stats=False
    )
    torch.manual_seed(0)
    z = torch.randn(3, 24, 5, dtype=torch.float64)
    torch.manual_seed(1)
    expected = loss(z.flatten(0, 1))
    torch.manual_seed(1)
    found, _ = w_mse(z, [torch.randperm(24)], sub_batch=12, eps=0.0)
    # Its accumulator is single precision.
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_whitened_embeddings_have_mean_0_and_covariance_identity() -> None:
    torch.manual_seed(0)
    z = torch.randn(2, 30, 5).double() @ torch.randn(5, 5).double() + 3
    whitened, _ = whiten(z, 0.0)
    for view in whitened:
        torch.testing.assert_close(view.mean(dim=0), torch.zeros(5).double())
        torch.testing.assert_close(view.T.cov(), torch.eye(5).double())


def test_distances_are_byols_and_the_mean_squared_error() -> None:
    z = torch.stack([A, B])
    assert agreement(z, normalise=True).item() == pytest.approx(1.85980311662424, rel=1e-12)
    torch.testing.assert_close(agreement(z, normalise=True), normalised_mse(A, B))
    torch.testing.assert_close(agreement(z, normalise=False), F.mse_loss(A, B))


def test_a_batch_that_is_no_multiple_is_cut_into_nearly_equal_parts() -> None:
    # 384 images and sub-batches of 256, the released defaults, fail there in a reshape.
    torch.manual_seed(0)
    z = torch.randn(2, 15, 3).double()
    found, _ = w_mse(z, [torch.arange(15)], sub_batch=7, eps=0.0)
    whitened = torch.cat([whiten(part, 0.0)[0] for part in (z[:, :8], z[:, 8:])], dim=1)
    torch.testing.assert_close(found, agreement(whitened, normalise=True))


@pytest.mark.parametrize("degenerate", ["constant", "copied", "collapsed", "few"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_singular_covariance_gets_a_larger_eps_and_finite_gradients(
    degenerate: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    z = torch.randn(2, 12, 5, dtype=dtype)
    if degenerate == "constant":
        z[0, :, 3] = 0.1
    elif degenerate == "copied":
        z[1, :, 3] = z[1, :, 0]
    elif degenerate == "collapsed":
        z[:] = z[:, :1]
    else:
        z = z[:, :4]
    z.requires_grad_()
    loss, needed = w_mse(z, [torch.arange(z.shape[1])], sub_batch=z.shape[1], eps=0.0)
    assert needed >= 1e-4
    assert loss.isfinite()
    (gradient,) = torch.autograd.grad(loss, z)
    assert gradient.isfinite().all()


def _method(**changes: Any) -> WMSE:
    torch.manual_seed(0)
    encoder = Encoder(nn.Flatten(), 12, Preprocessing(size=2, resize=None))
    views = methods.augmentations({"views": [{}] * changes.pop("views", 2)})
    keys: dict[str, Any] = {"projector": {"dims": [9, 3]}, "sub_batch": 8}
    return WMSE(encoder, None, views, **{**keys, **changes}).double()


def _loss(views: int, iterations: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(views, 16, 3, 2, 2, generator=generator).double()
    own = images.chunk(distributed.world_size(), dim=1)[distributed.rank()]
    method = _method(views=views, iterations=iterations).eval()  # BatchNorm is not the point here
    torch.manual_seed(7 + distributed.rank())
    found: Tensor = method(tuple(own.unbind()), torch.zeros(own.shape[1]).long())["loss"]
    return found.detach()


@pytest.mark.parametrize(("views", "iterations"), [(2, 1), (4, 3)])
def test_sub_batches_are_those_of_the_global_batch(
    gloo_pool: Any, views: int, iterations: int
) -> None:
    alone = _loss(views, iterations)
    for found in gloo_pool.run(_loss, views, iterations):
        torch.testing.assert_close(found, alone, rtol=1e-10, atol=0)


def test_a_singular_covariance_is_warned_of_and_logged() -> None:
    method = _method()
    images = torch.randn(2, 8, 3, 2, 2).double()
    assert method(tuple(images.unbind()), torch.zeros(8).long())["eps"].item() == 0
    method.after_loss({"eps": 0.0})
    method.eps = 1e-4
    method.after_loss({"eps": sum(7 * [1e-4]) / 7})  # the mean of seven processes, rounded up
    method.eps = 0.0
    with torch.no_grad():
        method.projector[-1].weight[1] = 0
    parts = method(tuple(images.unbind()), torch.zeros(8).long())
    assert parts["eps"].item() == pytest.approx(1e-4)
    with pytest.warns(UserWarning, match="the covariance of some sub-batches is singular"):
        method.after_loss({"eps": 1e-4})


class Samples:
    def __len__(self) -> int:
        return 8

    def __getitems__(self, items: list[tuple[int, int]]) -> Batch:
        raise AssertionError("no batch must be asked for")


def test_a_batch_smaller_than_a_sub_batch_is_refused(tmp_path: Any) -> None:
    context = Context(tmp_path, tmp_path, progress_bar=False)
    recipe = TrainingOptions(epochs=1, batch_size=4, optimizer={"name": "adam"})
    with pytest.raises(ValueError, match="`batch_size` must be at least 8 for WMSE, but is 4"):
        fit(_method(), Samples(), recipe, context, name="pretrain")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sub_batch": 3}, "`method.sub_batch` must be at least 4 for embeddings of width 3"),
        ({"sub_batch": 1, "eps": 0.1}, "`method.sub_batch` must be at least 2"),
        ({"iterations": 0}, "`method.iterations` must be at least 1"),
        ({"eps": 1.5}, r"`method.eps` must lie in \[0, 1\]"),
        ({"views": 1}, r"must describe at least 2 view\(s\) for WMSE, but describes 1"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _method(**changes)
