"""BatchNorm with statistics over groups of the GLOBAL batch, for any number of processes.

``convert`` switches the BatchNorm layers of a module, in place, to statistics over
``bn_groups`` consecutive parts of the global batch: 1 synchronises the whole batch, 8 corresponds
to published MoCo on 8 GPUs. Process r of W must hold the r-th of W consecutive parts of the batch.
Value, gradient and running statistics then do not depend on W. (torch's SyncBatchNorm supports
neither CPUs nor such groups.)

Running statistics move towards the average of the groups' means and unbiased variances, once per
forward pass, and are identical on all processes. With one group this is the behaviour of
``torch.nn.BatchNorm2d``. In eval mode a converted layer behaves like the original layer.
"""

import math
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ssl_transfer.system import distributed
from ssl_transfer.training.batch_rules import group_problem, micro_batch_problem

Channels = Float[Tensor, " channels"]


def check_groups(groups: int, micro_batches: int) -> None:
    """Refuse groups that do not fit the number of processes, or that would span micro-batches.

    Args:
        groups: see ``convert``.
        micro_batches: see ``convert``.

    Raises:
        ValueError: if the groups do not fit.
    """
    processes = distributed.world_size()
    problem = group_problem(groups, processes) or micro_batch_problem(
        groups, processes, micro_batches
    )
    if problem:
        raise ValueError(problem)


def convert(module: nn.Module, groups: int, *, micro_batches: int = 1) -> None:
    """Make the BatchNorm layers of ``module`` use statistics over groups of the global batch.

    Names of parameters and buffers do not change. With one process and one group, the layers stay
    native. Another call replaces an earlier number of groups.

    Args:
        module: the module, changed in place; it may be a BatchNorm layer itself.
        groups: number of groups of the global batch.
        micro_batches: number of forward passes per batch (gradient accumulation): each has its
            share of the groups, and running statistics move once after the last pass.

    Raises:
        ValueError: if neither of ``groups`` and the number of processes divides the other, if a
            group would span micro-batches, or for an unsupported kind of BatchNorm.
    """
    check_groups(groups, micro_batches)
    revert(module)
    processes = distributed.world_size()
    if groups == processes == 1:
        return
    layers = {name: m for name, m in module.named_modules() if isinstance(m, _BatchNorm)}
    for name, layer in layers.items():
        _refuse_unknown(name, layer)
    if processes > groups:
        distributed.subgroup(processes // groups)  # all processes reach this line
    for layer in layers.values():
        layer.__class__ = _grouped(type(layer))
        layer.bn_groups = groups // micro_batches  # type: ignore[assignment]
        layer.micro_batches = micro_batches  # type: ignore[assignment]
        layer.pending = []  # type: ignore[assignment]


def revert(module: nn.Module) -> None:
    """Undo ``convert``."""
    for layer in module.modules():
        if isinstance(layer, _GroupedBatchNorm):
            native = type(layer).native
            layer.__class__ = native  # type: ignore[assignment]
            del layer.bn_groups, layer.micro_batches, layer.pending


def _refuse_unknown(name: str, layer: nn.Module) -> None:
    forward = type(layer).forward
    if forward is _BatchNorm.forward:
        return
    if type(layer).__module__.startswith("timm."):
        from timm.layers.norm_act import BatchNormAct2d

        if forward is BatchNormAct2d.forward:
            return
    raise ValueError(
        "Batch statistics over groups are known for torch's BatchNorm1d, 2d, 3d and timm's "
        f"BatchNormAct2d, but `{name}` is a {type(layer).__name__}; replace the layer, or use "
        "one process and `bn_groups` 1."
    )


def _grouped(native: type[_BatchNorm]) -> type["_GroupedBatchNorm"]:
    # One class per kind preserves `isinstance(layer, nn.BatchNorm2d)` and the native forward pass,
    # which eval mode uses.
    if native not in _kinds:
        bases = (_GroupedBatchNorm, native)
        _kinds[native] = type(f"Grouped{native.__name__}", bases, {"native": native})
    return _kinds[native]


class _GroupedBatchNorm(_BatchNorm):
    """The class that ``convert`` puts before a layer's class in the method resolution order."""

    native: type[_BatchNorm]
    bn_groups: int  # groups per forward pass
    micro_batches: int
    pending: list[tuple[Tensor, Tensor]]  # statistics of a batch that is not complete yet

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        output, mean, variance = group_batch_norm(
            input, self.weight, self.bias, groups=self.bn_groups, eps=self.eps
        )
        self._track(mean, variance)
        for name in ("drop", "act"):  # timm's BatchNormAct2d
            if name in self._modules:
                output = self.get_submodule(name)(output)
        return output

    @torch.no_grad()
    def _track(self, mean: Channels, variance: Channels) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        if self.micro_batches > 1:
            self.pending.append((mean, variance))
            if len(self.pending) < self.micro_batches:
                return
            mean, variance = (torch.stack(part).mean(0) for part in zip(*self.pending, strict=True))
            self.pending.clear()
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:  # torch's convention: the average over all batches
            momentum = 1.0 / float(self.num_batches_tracked)
        kept = [self.running_mean, self.running_var]
        news = [mean.to(kept[0].dtype), variance.to(kept[1].dtype)]
        torch._foreach_lerp_(kept, news, momentum)


_kinds: dict[type[_BatchNorm], type[_GroupedBatchNorm]] = {}


def group_batch_norm(
    x: Float[Tensor, "batch channels *positions"],
    weight: Channels | None,
    bias: Channels | None,
    *,
    groups: int,
    eps: float = 1e-5,
) -> tuple[Float[Tensor, "batch channels *positions"], Channels, Channels]:
    """Standardise each group of the global batch with its own statistics.

    Args:
        x: this process's part of the batch.
        weight: factor per channel (``None``: 1).
        bias: summand per channel (``None``: 0).
        groups: number of groups of the global batch.
        eps: added to the (biased) variance.

    Returns:
        The output, and the averages over all groups of the means and of the unbiased variances
        (detached, at least float32, the same on all processes).

    Raises:
        ValueError: if the groups do not divide the batch, or have only one value per channel.
    """
    processes = distributed.world_size()
    span = max(1, processes // groups)  # processes per group
    local = max(1, groups // processes)  # groups per process
    if len(x) % local:
        raise ValueError(
            f"The batch must divide into `bn_groups` ({groups}) equal groups, but a process "
            f"holds {len(x)} samples and {local} groups; change `batch_size` or `bn_groups`."
        )
    if x.numel() // x.shape[1] * span // local < 2:
        raise ValueError(
            "Batch statistics need at least two values per channel, but a group has one; raise "
            "`batch_size` or lower `bn_groups`."
        )
    if span == 1:
        y, mean, variance = _local_groups(x, weight, bias, eps, local)
    else:
        members = distributed.subgroup(span)
        y, mean, variance = spanning_batch_norm(x, weight, bias, eps, members)
    if processes > span:
        # Average over the processes. Every group counts `span` times, so this is the groups' mean.
        total = distributed.all_reduce_sum(torch.stack([mean, variance]).detach())
        mean, variance = total / processes
    return y, mean, variance


def _local_groups(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Standardise groups that lie completely in this process, with the native kernel per group."""
    means, variances = x.new_zeros(2, groups, x.shape[1], dtype=_wide(x)).unbind(0)
    # With momentum 1 the native kernel's running statistics are those of the batch.
    outputs = [
        F.batch_norm(part, means[i], variances[i], weight, bias, True, 1.0, eps)
        for i, part in enumerate(x.chunk(groups))
    ]
    return torch.cat(outputs), means.mean(0), variances.mean(0)


def _wide(x: Tensor) -> torch.dtype:
    """Return the type of the statistics: float32 for half-precision activations."""
    return torch.promote_types(x.dtype, torch.float32)


def spanning_batch_norm(
    x: Float[Tensor, "batch channels *positions"],
    weight: Channels | None,
    bias: Channels | None,
    eps: float,
    members: dist.ProcessGroup | None,
) -> tuple[Float[Tensor, "batch channels *positions"], Channels, Channels]:
    """Standardise one group that is spread over several processes in parts of equal size.

    Args:
        x: this process's part of the group.
        weight: see ``group_batch_norm``.
        bias: see ``group_batch_norm``.
        eps: see ``group_batch_norm``.
        members: the processes of the group (``None``: all).

    Returns:
        As ``group_batch_norm``, for this one group.
    """
    kind = _SpanningGroupOnGpu if x.is_cuda else _SpanningGroup
    y, mean, variance = kind.apply(x, weight, bias, eps, members)
    return y, mean, variance


class _SpanningGroup(torch.autograd.Function):
    """``spanning_batch_norm`` in torch's own operations, for any device.

    Each direction needs one collective operation. The forward pass combines the parts' means and
    variances by the formula of Chan, Golub and LeVeque 1983 (https://doi.org/10.2307/2683386),
    which avoids cancellation; the backward pass sums the two averages in BatchNorm's gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        members: dist.ProcessGroup | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dims, shape = _axes(x)
        parts = torch.stack(torch.var_mean(x.to(_wide(x)), dims, correction=0))
        variances, means = distributed.gather(parts[None], members).unbind(1)
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
        count = len(means) * math.prod(x.shape[d] for d in dims)

        scale = (variance + eps).rsqrt()
        y = (x.to(_wide(x)) - mean.view(shape)) * scale.view(shape)
        if weight is not None:
            y = y * weight.view(shape)
        if bias is not None:
            y = y + bias.view(shape)
        ctx.save_for_backward(x, weight, bias, mean, scale)
        ctx.members, ctx.count = members, count
        unbiased = variance * (count / (count - 1))
        ctx.mark_non_differentiable(mean, unbiased)
        return y.to(x.dtype), mean, unbiased

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: Tensor, _mean: Tensor, _variance: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, weight, bias, mean, scale = ctx.saved_tensors
        dims, shape = _axes(x)
        grad = grad.to(_wide(x))
        standardised = (x.to(_wide(x)) - mean.view(shape)) * scale.view(shape)
        # The gradients of weight and bias are this process's sums; DDP averages them.
        sums = torch.stack([grad.sum(dims), (grad * standardised).sum(dims)])
        grad_x = None
        if ctx.needs_input_grad[0]:
            averages = distributed.all_reduce_sum(sums, ctx.members) / ctx.count
            grad_x = grad - averages[0].view(shape) - standardised * averages[1].view(shape)
            factor = scale if weight is None else scale * weight
            grad_x = (grad_x * factor.view(shape)).to(x.dtype)
        grad_weight = None if weight is None else sums[1].to(weight.dtype)
        grad_bias = None if bias is None else sums[0].to(bias.dtype)
        return grad_x, grad_weight, grad_bias, None, None


class _SpanningGroupOnGpu(torch.autograd.Function):
    """``spanning_batch_norm`` in the kernels of torch's SyncBatchNorm, which read ``x`` only twice.

    SyncBatchNorm itself waits for the GPU in every layer, since parts may differ in size there.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        members: dist.ProcessGroup | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = _dense(x)
        parts = torch.stack(torch.batch_norm_stats(x, eps))
        means, scales = distributed.gather(parts[None], members).unbind(1)
        counts = means.new_full((len(means),), x.numel() // x.shape[1])
        # With momentum 1 the kernel's running statistics are those of the group.
        batch_mean, unbiased = torch.zeros_like(parts).unbind(0)
        mean, scale = torch.batch_norm_gather_stats_with_counts(
            x, means, scales, batch_mean, unbiased, 1.0, eps, counts
        )
        ctx.save_for_backward(x, weight, bias, mean, scale, counts.int())
        ctx.members = members
        ctx.mark_non_differentiable(batch_mean, unbiased)
        y = torch.batch_norm_elemt(x, weight, bias, mean, scale, eps)
        return y, batch_mean, unbiased

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: Tensor, _mean: Tensor, _variance: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, weight, bias, mean, scale, counts = ctx.saved_tensors
        grad = _dense(grad, like=x)
        # The gradients of weight and bias are this process's sums; DDP averages them.
        sum_grad, sum_product, grad_weight, grad_bias = torch.batch_norm_backward_reduce(
            grad, x, mean, scale, weight, True, weight is not None, bias is not None
        )
        grad_x = None
        if ctx.needs_input_grad[0]:
            sums = torch.stack([sum_grad, sum_product])
            sum_grad, sum_product = distributed.all_reduce_sum(sums, ctx.members).unbind(0)
            grad_x = torch.batch_norm_backward_elemt(
                grad, x, mean, scale, weight, sum_grad, sum_product, counts
            )
        # For a parameter that does not exist the kernel returns an empty tensor.
        of_weight = None if weight is None else grad_weight
        of_bias = None if bias is None else grad_bias
        return grad_x, of_weight, of_bias, None, None


def _dense(x: Tensor, like: Tensor | None = None) -> Tensor:
    """Return ``x`` in a memory layout of the kernels, that of ``like`` if there is one."""
    last = x if like is None else like
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    layout = formats.get(x.ndim, torch.contiguous_format)
    if not last.is_contiguous(memory_format=layout):
        layout = torch.contiguous_format
    return x.contiguous(memory_format=layout)


def _axes(x: Tensor) -> tuple[list[int], list[int]]:
    """Return the axes of the statistics, and the shape that broadcasts them over ``x``."""
    return [0, *range(2, x.ndim)], [1, -1, *([1] * (x.ndim - 2))]
