"""BatchNorm over groups of the global batch: independent of the number of processes."""

import copy
from typing import Any

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from ssl_transfer.system import distributed
from ssl_transfer.training.batch_statistics import convert, group_batch_norm, revert

EXACT: Any = {"rtol": 1e-12, "atol": 1e-12}


def _network() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Conv2d(4, 5, 3),
        BatchNormAct2d(5, momentum=0.3, act_layer=nn.SiLU, inplace=False),
        nn.Flatten(),
        nn.Linear(5 * 2 * 2, 6),
        nn.BatchNorm1d(6, affine=False, momentum=None),
        nn.Linear(6, 3),
    ).double()
    for parameter in network.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return network


def _images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    # Far from 0, so that a variance computed by differences of squares would show.
    return 3 + torch.randn(16, 3, 6, 6, generator=generator, dtype=torch.float64)


def _loss(outputs: Tensor) -> Tensor:
    return (outputs.sin() * torch.arange(1.0, 4.0)).sum(dim=1).mean()


def _train(groups: int | None) -> dict[str, Tensor]:
    """Two passes: loss, gradients and running statistics; this process's rows of the outputs."""
    network = _network()
    if groups is not None:
        convert(network, groups)
    parallel: nn.Module = network
    if distributed.world_size() > 1:
        parallel = DistributedDataParallel(network, broadcast_buffers=False)
    for scale in (1.0, 0.5):
        images = scale * _images()
        share = images.chunk(distributed.world_size())[distributed.rank()]
        outputs = parallel(share)
        _loss(outputs).backward()  # type: ignore[no-untyped-call]
    found = {f"gradient of {name}": p.grad for name, p in network.named_parameters()}
    found |= {name: buffer.clone() for name, buffer in network.named_buffers()}
    found["outputs"] = distributed.gather(outputs.detach())
    assert all(value is not None for value in found.values())
    return found  # type: ignore[return-value]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_one_group_is_native_batch_norm_on_the_whole_batch(gloo_pool: Any, processes: int) -> None:
    native = _train(None)
    for found in gloo_pool.run(_train, 1, processes=processes):
        torch.testing.assert_close(found, native, **EXACT)


@pytest.mark.parametrize(("groups", "processes"), [(2, 2), (4, 2), (8, 2), (2, 4), (4, 4)])
def test_groups_do_not_depend_on_the_number_of_processes(
    gloo_pool: Any, groups: int, processes: int
) -> None:
    alone = _train(groups)
    for found in gloo_pool.run(_train, groups, processes=processes):
        torch.testing.assert_close(found, alone, **EXACT)


def test_two_groups_are_two_halves() -> None:
    whole = _network()
    halves = [copy.deepcopy(whole) for _ in range(2)]
    convert(whole, 2)
    _loss(whole(_images())).backward()  # type: ignore[no-untyped-call]
    for half, images in zip(halves, _images().chunk(2), strict=True):
        (_loss(half(images)) / 2).backward()  # type: ignore[no-untyped-call]
    first, second = (dict(half.named_parameters()) for half in halves)
    for name, parameter in whole.named_parameters():
        expected = first[name].grad + second[name].grad  # type: ignore[operator]
        torch.testing.assert_close(parameter.grad, expected, **EXACT)
    buffers = [dict(half.named_buffers()) for half in halves]
    for name, buffer in whole.named_buffers():
        if "running" in name:
            expected = (buffers[0][name] + buffers[1][name]) / 2
            torch.testing.assert_close(buffer, expected, **EXACT)
        else:
            assert buffer == 1


def test_eval_mode_uses_running_statistics_and_leaves_them() -> None:
    native, converted = _network(), _network()
    convert(converted, 4)
    before = copy.deepcopy(converted.state_dict())
    expected = native.eval()(_images())
    assert torch.equal(converted.eval()(_images()), expected)
    torch.testing.assert_close(converted.state_dict(), before, rtol=0, atol=0)


def test_names_and_kinds_of_layers_stay_and_revert_undoes_everything() -> None:
    network = _network()
    names, kinds = list(network.state_dict()), [type(m) for m in network.modules()]
    convert(network, 2)
    assert list(network.state_dict()) == names
    assert isinstance(network[1], nn.BatchNorm2d)  # type: ignore[index]
    assert type(network[1]) is not nn.BatchNorm2d  # type: ignore[index]
    convert(network, 4)
    twin = copy.deepcopy(network)
    assert torch.equal(twin(_images()), network(_images()))
    revert(network)
    assert [type(m) for m in network.modules()] == kinds
    assert "bn_groups" not in vars(network[1])  # type: ignore[index]


def test_one_process_and_one_group_need_no_conversion() -> None:
    network = _network()
    convert(network, 2)
    convert(network, 1)
    assert type(network[1]) is nn.BatchNorm2d  # type: ignore[index]


def _half_precision(groups: int) -> list[Any]:
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(4)
    nn.init.uniform_(layer.weight)
    convert(layer, groups)
    # A mean of 100 with a deviation of 1 has no digits left in a bfloat16 sum of squares.
    x = 100 + torch.randn(16, 4, 8, 8).chunk(distributed.world_size())[distributed.rank()]
    x = x.to(torch.bfloat16).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    y.float().square().mean().backward()
    assert x.grad is not None
    assert layer.weight.grad is not None
    rows = [distributed.gather(v.detach().float()) for v in (y, x.grad / distributed.world_size())]
    weight = distributed.all_reduce_sum(layer.weight.grad) / distributed.world_size()
    assert layer.running_mean is not None
    return [str(y.dtype), str(x.grad.dtype), *rows, weight, layer.running_mean, layer.running_var]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_half_precision_keeps_its_type_and_float32_statistics(gloo_pool: Any, groups: int) -> None:
    expected = _half_precision(groups)
    assert expected[:2] == ["torch.bfloat16"] * 2
    for found in gloo_pool.run(_half_precision, groups):
        assert found[:2] == expected[:2]
        for i, (a, b) in enumerate(zip(found[2:], expected[2:], strict=True)):
            # Outputs and input gradients are bfloat16 (8 bits); the rest is float32.
            tolerance = 1e-2 if i < 2 else 2e-5
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_statistics_returned_are_the_mean_of_the_groups_unbiased_ones() -> None:
    x = torch.randn(6, 3, 5, dtype=torch.float64)
    y, mean, variance = group_batch_norm(x, None, None, groups=3)
    parts = x.unflatten(0, (3, 2))
    torch.testing.assert_close(mean, parts.mean(dim=(1, 3)).mean(0), **EXACT)
    torch.testing.assert_close(variance, parts.var(dim=(1, 3)).mean(0), **EXACT)
    expected = torch.cat([F.batch_norm(p, None, None, training=True) for p in parts])
    torch.testing.assert_close(y, expected, **EXACT)


def _refusal(groups: int) -> str:
    try:
        convert(nn.BatchNorm1d(2), groups)
    except ValueError as error:
        return str(error)
    return ""


def test_groups_that_do_not_fit_the_processes_are_refused_with_both_numbers(gloo_pool: Any) -> None:
    for sentence in gloo_pool.run(_refusal, 3):
        assert "`bn_groups` is 3 and there are 2 processes" in sentence
    assert "`bn_groups` is 0" in _refusal(0)


def test_groups_that_do_not_divide_the_batch_are_refused() -> None:
    layer = nn.BatchNorm1d(2)
    convert(layer, 4)
    with pytest.raises(ValueError, match=r"`bn_groups` \(4\).*holds 6 samples"):
        layer(torch.randn(6, 2))
    with pytest.raises(ValueError, match="at least two values per channel"):
        layer(torch.randn(4, 2))


def test_an_unknown_kind_of_batch_norm_is_refused_by_name() -> None:
    class Special(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:
            return input

    with pytest.raises(ValueError, match="`1` is a Special"):
        convert(nn.Sequential(nn.ReLU(), Special(2)), 2)


def _in_micro_batches(groups: int, micro_batches: int) -> dict[str, Tensor]:
    network = _network()
    convert(network, groups, micro_batches=micro_batches)
    share = _images().chunk(distributed.world_size())[distributed.rank()]
    for images in share.chunk(micro_batches):
        (_loss(network(images)) / micro_batches).backward()  # type: ignore[no-untyped-call]
    found = dict(network.named_buffers())
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        processes = distributed.world_size()
        found[f"gradient of {name}"] = distributed.all_reduce_sum(parameter.grad) / processes
    return found


def test_micro_batches_change_neither_gradients_nor_running_statistics(gloo_pool: Any) -> None:
    expected = _in_micro_batches(4, 1)
    torch.testing.assert_close(_in_micro_batches(4, 2), expected, **EXACT)
    torch.testing.assert_close(_in_micro_batches(4, 4), expected, **EXACT)
    for found in gloo_pool.run(_in_micro_batches, 4, 2):
        torch.testing.assert_close(found, expected, **EXACT)


def test_a_group_that_would_span_micro_batches_is_refused() -> None:
    with pytest.raises(ValueError, match=r"multiple of processes .*\(1 × 4\).* but is 2"):
        convert(nn.BatchNorm1d(2), 2, micro_batches=4)
