"""Mixed Barlow Twins: golden numbers, the README's formulas retyped, mixing, warm-up."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_transfer import methods
from ssl_transfer.methods.barlow_twins import barlow_twins
from ssl_transfer.methods.mixed_barlow_twins import MixedBarlowTwins, mixed_barlow_twins
from ssl_transfer.models import Encoder
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.system import distributed

T = torch.arange(32, dtype=torch.float64).reshape(8, 4)
A, B, M = (1 + T).sin(), (T / 2).cos(), (0.3 * T).sin()
PERMUTATION = torch.tensor([3, 0, 7, 1, 6, 2, 5, 4])
SMALL: dict[str, Any] = {
    "lambda_bt": 0.0078125,
    "normalise": True,
    "unbiased": True,
    "eps": 0.0,
}
LARGE: dict[str, Any] = {"lambda_bt": 0.0051, "unbiased": True, "eps": 0.0}


def test_golden_numbers_of_the_code_for_small_images() -> None:
    leaves = [z.clone().requires_grad_() for z in (A, B, M)]
    terms = mixed_barlow_twins(*leaves, PERMUTATION, 0.25, **SMALL)
    assert terms.twins.loss.item() == pytest.approx(4.652189136397766, rel=1e-13)
    assert terms.to_first.item() == pytest.approx(1.1248822340881377, rel=1e-13)
    assert terms.to_second.item() == pytest.approx(0.5319792298089583, rel=1e-13)
    mixing = 4 * 0.0078125 * (terms.to_first + terms.to_second)
    assert mixing.item() == pytest.approx(0.05177692074678424, rel=1e-12)
    assert (terms.twins.loss + mixing).item() == pytest.approx(4.70396605714455, rel=1e-13)
    gradients = torch.autograd.grad(terms.to_first + terms.to_second, leaves)
    expected = (1.213276514825838, 1.5071155791115707, 2.4403131557599047)
    assert [g.norm().item() for g in gradients] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("second_target", "second", "total"),
    [
        ("a", 0.4314092649454194, 0.002201730573355306),
        ("b", 0.41161319627665427, 0.002151250598249955),
    ],
)
def test_golden_numbers_of_the_code_for_imagenet(
    second_target: Any, second: float, total: float
) -> None:
    terms = mixed_barlow_twins(A, B, M, PERMUTATION, 0.25, second_target=second_target, **LARGE)
    assert terms.twins.loss.item() == pytest.approx(4.420175243099782, rel=1e-13)
    assert terms.to_first.item() == pytest.approx(0.43201448931156333, rel=1e-12)
    assert terms.to_second.item() == pytest.approx(second, rel=1e-12)
    mixing = 0.5 * 0.0051 * (terms.to_first + terms.to_second)
    assert mixing.item() == pytest.approx(total, rel=1e-12)


def _literal(a: Tensor, b: Tensor, m: Tensor, pi: Tensor, share: float, anchor: str) -> Tensor:
    """Return the README's formulas, matrix by matrix, λ_BT 0.03 and λ_reg 4."""

    def standardised(z: Tensor) -> Tensor:
        z = F.normalize(z)
        return (z - z.mean(0)) / z.std(0)

    a, b, m = standardised(a), standardised(b), standardised(m)
    n = len(a)
    c = a.T @ b / n
    off = ~torch.eye(len(c), dtype=torch.bool)
    twins = (c.diagonal() - 1).square().sum() + 0.03 * c[off].square().sum()
    target_a = share * a.T @ a / n + (1 - share) * b[pi].T @ a / n
    left = {"a": a, "b": b}[anchor]
    target_b = share * left.T @ b / n + (1 - share) * b[pi].T @ b / n
    distances = (m.T @ a / n - target_a).square().sum() + (m.T @ b / n - target_b).square().sum()
    return twins + 4 * 0.03 * distances


@pytest.mark.parametrize("anchor", ["a", "b"])
@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_value_and_gradient_equal_the_literal_form_with_few_and_many_images(
    shape: tuple[int, int], anchor: Any
) -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    permutation = torch.randperm(shape[0])
    expected = _literal(*leaves, permutation, 0.3, anchor)
    keys = {**SMALL, "lambda_bt": 0.03}
    terms = mixed_barlow_twins(*leaves, permutation, 0.3, second_target=anchor, **keys)
    found = terms.twins.loss + 4 * 0.03 * (terms.to_first + terms.to_second)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(found, leaves),
        torch.autograd.grad(expected, leaves),
        rtol=1e-10,
        atol=1e-12,
    )


def test_in_float32_the_value_is_that_of_the_literal_form_to_1e_5() -> None:
    torch.manual_seed(0)
    a, b, m = torch.randn(3, 64, 512).unbind()
    permutation = torch.randperm(64)
    keys = {**SMALL, "lambda_bt": 0.03}
    terms = mixed_barlow_twins(a, b, m, permutation, 0.3, **keys)
    found = terms.twins.loss + 4 * 0.03 * (terms.to_first + terms.to_second)
    expected = _literal(a, b, m, permutation, 0.3, "a")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_embeddings_that_mix_as_their_images_do_have_no_distance() -> None:
    standardised = [(z - z.mean(0)) / z.std(0, correction=0) for z in (A, B)]
    mixed = 0.25 * standardised[0] + 0.75 * standardised[1][PERMUTATION]
    for scale in (1.0, 3.0):  # what counts is what is left after standardising
        terms = mixed_barlow_twins(
            *standardised, scale * mixed, PERMUTATION, 0.25, lambda_bt=1.0, eps=0.0
        )
        rest = mixed / mixed.std(0, correction=0) - mixed
        expected = ((rest.T @ standardised[0]) / 8).square().sum()
        torch.testing.assert_close(terms.to_first, expected)
    same = mixed_barlow_twins(A, A, A, torch.arange(8), 0.25, lambda_bt=1.0, eps=0.0)
    assert [same.to_first.item(), same.to_second.item()] == pytest.approx([0, 0], abs=1e-25)
    assert same.twins == barlow_twins(A, A, lambda_bt=1.0, eps=0.0)


def _method(**changes: Any) -> MixedBarlowTwins:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5))
    encoder = Encoder(backbone, 5, Preprocessing(size=2, resize=None))
    views = methods.augmentations({"views": [{}, {}]})
    keys = {"lambda_bt": 0.03, "projector": {"dims": [7]}, "lambda_reg": 4.0}
    return MixedBarlowTwins(encoder, None, views, **{**keys, **changes}).double()


def _images(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(count, 3, 2, 2, generator=generator).double() for _ in range(2)]


def _mixed() -> tuple[Tensor, Tensor, float]:
    views = [v.chunk(distributed.world_size())[distributed.rank()] for v in _images(8)]
    torch.manual_seed(5 + distributed.rank())
    images, permutation, share = _method().mix(*views)
    return distributed.gather(images), permutation, share


def test_images_of_the_global_batch_are_mixed_with_those_of_all_processes(gloo_pool: Any) -> None:
    torch.manual_seed(5)
    first, second = _images(8)
    _method()
    torch.manual_seed(0)
    images, permutation, share = _mixed()
    assert sorted(permutation.tolist()) == list(range(8))
    assert 0 < share < 1
    torch.testing.assert_close(images, share * first + (1 - share) * second[permutation])
    for found in gloo_pool.run(_mixed):
        torch.testing.assert_close(found, (images, permutation, share), rtol=0, atol=0)


def test_the_mixing_share_is_uniform_or_what_its_parameters_say() -> None:
    torch.manual_seed(0)
    draws = _method().shares.sample((4000,))
    assert draws.mean().item() == pytest.approx(0.5, abs=0.02)
    assert draws.var().item() == pytest.approx(1 / 12, abs=0.005)
    skewed = _method(mix_beta=[1, 3]).shares.sample((4000,))
    assert skewed.mean().item() == pytest.approx(0.25, abs=0.02)


def test_the_weight_of_the_mixing_term_rises_linearly() -> None:
    method = _method(lambda_reg_warmup=0.5)
    views, targets = tuple(_images(8)), torch.zeros(8).long()
    found = []
    for progress in (0.0, 0.25, 0.5, 1.0):
        if progress:
            method.after_step(progress)
        parts = method(views, targets)
        found.append(((parts["loss"] - parts["barlow_twins"]) / parts["mixing"]).item())
    assert found == pytest.approx([0.0, 0.5, 1.0, 1.0], abs=1e-12)
    assert "warmth" in method.state_dict()
    assert _method().warmth.item() == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lambda_reg_warmup": 10}, r"`method.lambda_reg_warmup` must lie in \[0, 1\], but is 10"),
        ({"mix_beta": [1.0, 0.0]}, "`method.mix_beta` must"),
        ({"mix_beta": [1.0]}, "`method.mix_beta` must"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _method(**changes)
