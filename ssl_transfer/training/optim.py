"""Optimizers from a mapping, LARS, and schedules that are functions of the step."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from ssl_transfer.config.ranges import Decay, LearningRate, Length, NotNegative, Positive, faults

Groups = list[dict[str, Any]]

SCHEDULES = ("cosine", "constant", "step", "exponential", "cyclic")
# He et al. 2020 (MoCo, https://arxiv.org/abs/1911.05722, section 4.1): multiply by 0.1 at epochs
# 120 and 160 of 200.
_MILESTONES, _STEP_FACTOR = (0.6, 0.8), 0.1


class LARS(torch.optim.Optimizer):
    """SGD with the step of each weight tensor scaled to the tensor's norm.

    You et al. 2017, https://arxiv.org/abs/1708.03888, in the form of Barlow Twins' released code:
    the gradient, weight decay included, is multiplied by ``trust · ‖p‖ / ‖g‖`` (by 1 if either
    norm is 0) before it enters the momentum; the learning rate applies to the momentum.

    Args:
        params: parameters or groups; a group with ``adapt=False`` is trained by plain SGD.
        lr: learning rate.
        momentum: momentum of the averaged gradient.
        weight_decay: coupled (L2) decay.
        trust: length of a step relative to the weights' norm, at learning rate 1.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "weight_decay": weight_decay,
                "trust": trust,
                "adapt": True,
            },
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the parameters that have a gradient."""
        assert closure is None, "LARS evaluates the loss once per step"
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._update(parameters, group)

    def _update(self, parameters: list[Tensor], group: Mapping[str, Any]) -> None:
        """Update parameters by calls for all of them at once: a GPU then needs few kernels."""
        raw = [p.grad for p in parameters if p.grad is not None]
        gradients = torch._foreach_add(raw, parameters, alpha=group["weight_decay"])
        if group["adapt"]:
            weights, steps = (torch.stack(torch._foreach_norm(t)) for t in (parameters, gradients))
            ratios = group["trust"] * weights / steps
            ratios = torch.where((weights > 0) & (steps > 0), ratios, 1.0)
            torch._foreach_mul_(gradients, list(ratios.unbind()))
        for parameter in parameters:
            if "momentum" not in self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        momenta = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, gradients)
        torch._foreach_copy_(gradients, momenta)  # in their memory
        torch._foreach_mul_(gradients, group["lr"])
        torch._foreach_sub_(parameters, gradients)


def sgd(
    groups: Groups,
    *,
    lr: LearningRate,
    momentum: Decay = 0.9,
    nesterov: bool = False,
    weight_decay: NotNegative = 0.0,
    exclude_bias_and_norm: bool = False,
) -> torch.optim.Optimizer:
    """Return stochastic gradient descent with momentum and coupled (L2) weight decay."""
    split = _split(groups, exclude_bias_and_norm)
    optimizer = _fused(
        torch.optim.SGD, split, lr=lr, momentum=momentum, nesterov=nesterov,
        weight_decay=weight_decay,
    )  # fmt: skip
    optimizer.register_step_pre_hook(_begin_momenta)
    return optimizer


def adam(
    groups: Groups,
    *,
    lr: LearningRate,
    betas: Annotated[Sequence[Decay], Length(2)] = (0.9, 0.999),
    eps: NotNegative = 1e-8,
    weight_decay: NotNegative = 0.0,
    exclude_bias_and_norm: bool = False,
) -> torch.optim.Optimizer:
    """Return Adam with weight decay as part of the gradient (L2)."""
    split = _split(groups, exclude_bias_and_norm)
    return _fused(
        torch.optim.Adam, split, lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay
    )


def adamw(
    groups: Groups,
    *,
    lr: LearningRate,
    betas: Annotated[Sequence[Decay], Length(2)] = (0.9, 0.999),
    eps: NotNegative = 1e-8,
    weight_decay: NotNegative = 0.01,
    exclude_bias_and_norm: bool = False,
) -> torch.optim.Optimizer:
    """Return Adam with decoupled weight decay (multiplied by the learning rate)."""
    split = _split(groups, exclude_bias_and_norm)
    return _fused(
        torch.optim.AdamW, split, lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay
    )


def _fused(
    kind: Callable[..., torch.optim.Optimizer], groups: Groups, **settings: Any
) -> torch.optim.Optimizer:
    """Return an optimizer of torch that updates all parameters in one pass over their memory.

    On a CPU, Adam takes a fifth and SGD half of the time; on a GPU, both need a few kernels. A
    training that continues keeps the way in which it began, which its checkpoint holds.
    """
    dense = all(_is_dense(p) for group in groups for p in group["params"])
    optimizer = kind(groups, fused=dense or None, **settings)
    optimizer.register_step_pre_hook(_EqualLayouts())
    optimizer.register_load_state_dict_post_hook(_tell_scaler)
    return optimizer


def _is_dense(parameter: Tensor) -> bool:
    """Return whether a parameter fills its memory, so that a gradient can have the same layout."""
    alike = torch.empty_like(parameter, device="meta")
    return _strides(alike) == _strides(parameter)


def _begin_momenta(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Let momenta begin at zero: after the first step they are the gradient, as without fusion.

    The fused step of SGD fails where some momenta have begun and others have not: for parameters
    that get their first gradient in a later step.
    """
    for group in optimizer.param_groups:
        if group["fused"] and group["momentum"]:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = optimizer.state[parameter]
                if state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(parameter)


def _tell_scaler(optimizer: torch.optim.Optimizer) -> None:
    """Let a gradient scaler leave overflowed steps to the optimizer only if its steps are fused."""
    fused = all(group["fused"] for group in optimizer.param_groups)
    optimizer._step_supports_amp_scaling = fused  # type: ignore[attr-defined]


class _EqualLayouts:
    """Before a fused step, gives gradients and moving averages the memory layout of the parameters.

    The kernels take the n-th number in memory of each of them for those of the same weight.
    Autograd gives gradients the layout of dense parameters, so that a copy is an exception.
    Averages may differ only before the first step: after a checkpoint was loaded.
    """

    def __init__(self) -> None:
        self.averages_may_differ = True

    def __call__(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"] if group["fused"] else ():
                if parameter.grad is None:
                    continue
                parameter.grad = _laid_out_as(parameter, parameter.grad)
                if self.averages_may_differ:
                    state = optimizer.state.get(parameter, {})
                    for key, value in state.items():
                        if isinstance(value, Tensor) and value.shape == parameter.shape:
                            state[key] = _laid_out_as(parameter, value)
        self.averages_may_differ = False


def _laid_out_as(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Return the tensor itself if it has the parameter's memory layout, else a copy that has it."""
    if tensor.stride() == parameter.stride() or _strides(tensor) == _strides(parameter):
        return tensor
    return torch.empty_like(parameter).copy_(tensor)


def _strides(tensor: Tensor) -> list[int]:
    """Return the strides of the axes that have more than one index."""
    pairs = zip(tensor.stride(), tensor.shape, strict=True)
    return [stride for stride, size in pairs if size > 1]


def lars(
    groups: Groups,
    *,
    lr: LearningRate,
    momentum: Decay = 0.9,
    weight_decay: NotNegative = 0.0,
    trust: Positive = 1e-3,
    exclude_bias_and_norm: bool = True,
    bias_lr: LearningRate | None = None,
) -> torch.optim.Optimizer:
    """Return LARS; excluded parameters are neither decayed nor scaled.

    ``bias_lr`` is their learning rate (``None``: that of the others).
    """
    excluded = {"adapt": False} | ({} if bias_lr is None else {"lr": bias_lr})
    split = _split(groups, exclude_bias_and_norm, **excluded)
    return LARS(split, lr=lr, momentum=momentum, weight_decay=weight_decay, trust=trust)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": sgd,
    "adam": adam,
    "adamw": adamw,
    "lars": lars,
}


def _split(groups: Groups, exclude: bool, **excluded: Any) -> Groups:
    """Move biases and norms (at most one axis) of each group to a group without weight decay."""
    parts = []
    for group in groups:
        if not group.pop("exclude_bias_and_norm", exclude):
            parts.append(group)
            continue
        weights = [p for p in group["params"] if p.ndim > 1]
        others = [p for p in group["params"] if p.ndim <= 1]
        parts.append({**group, "params": weights})
        parts.append({**group, "params": others, "weight_decay": 0.0, **excluded})
    return [part for part in parts if part["params"]]


def problems(config: Mapping[str, Any]) -> list[str]:
    """Return one message for each problem in an optimizer's mapping."""
    name = config.get("name")
    if name not in OPTIMIZERS:
        return [f"`optimizer.name` must be one of {list(OPTIMIZERS)}, but is {name!r}."]
    known = list(inspect.signature(OPTIMIZERS[name]).parameters)[1:]
    messages = [
        f"`optimizer.{key}` is not a key of {name}; known keys: {', '.join(known)}."
        for key in config
        if key not in ("name", *known)
    ]
    if "lr" not in config:
        messages.append("`optimizer.lr` must be given.")
    return messages + value_problems(config)


def value_problems(config: Mapping[str, Any]) -> list[str]:
    """Return one message for each value of an optimizer's mapping that is out of its range.

    Null values are skipped, since a grid sets them.
    """
    settings = {key: value for key, value in config.items() if value is not None}
    function = OPTIMIZERS.get(settings.pop("name", ""))
    by_name = {} if function is None else faults(function, settings)
    return [fault.sentence(f"optimizer.{name}") for name, fault in by_name.items()]


def build(config: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> torch.optim.Optimizer:
    """Return the optimizer that a mapping such as ``conf/optimizer/sgd.yaml`` describes.

    Args:
        config: ``name``, ``lr`` and the optimizer's other keys.
        groups: ``params`` of each group, and settings of the group, for example ``lr``,
            ``weight_decay``, or ``constant_lr=True`` (no schedule changes its learning rate).
            Frozen parameters are left out.

    Raises:
        ValueError: for an unknown name or key, here or in a group, or if nothing is trainable.
    """
    own = [key for group in groups for key in group if key not in ("params", "constant_lr")]
    messages = problems(config) or problems({**config, **dict.fromkeys(own, None)})
    if messages:
        raise ValueError(" ".join(messages))
    copies = [{**group, "params": _trainable(group["params"])} for group in groups]
    copies = [group for group in copies if group["params"]]
    if not copies:
        raise ValueError("An optimizer needs at least one trainable parameter, but all are frozen.")
    keys = {key: value for key, value in config.items() if key != "name"}
    optimizer = OPTIMIZERS[config["name"]](copies, **keys)
    for group in optimizer.param_groups:
        group["base_lr"] = group["lr"]
    return optimizer


def _trainable(parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    return [parameter for parameter in parameters if parameter.requires_grad]


def scale_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's learning rate to ``factor`` times the one it was built with."""
    for group in optimizer.param_groups:
        if not group.get("constant_lr", False):
            group["lr"] = group["base_lr"] * factor


def learning_rate(
    step: int,
    *,
    steps: float,
    base: float = 1.0,
    schedule: str = "cosine",
    warmup_steps: float = 0,
    final: float = 0.0,
    milestones: Sequence[float] | None = None,
    step_factor: float = _STEP_FACTOR,
    cycles: int = 1,
) -> float:
    """Return the learning rate of a step, a pure function of it.

    The warm-up is linear and reaches ``base`` in its last step (the first step already has a
    learning rate above 0); the schedule covers the steps after it. If the arguments count epochs
    instead of steps, the learning rate only changes at the start of an epoch.

    Args:
        step: from 0.
        steps: length of the training.
        base: the highest learning rate.
        schedule: ``cosine``, ``constant``, ``step``, ``exponential``, or ``cyclic``, which repeats
            the cosine (Huang et al. 2017, https://arxiv.org/abs/1704.00109, equation 2).
        warmup_steps: length of the warm-up.
        final: fraction of ``base`` that ``cosine`` and ``exponential`` end at; positive for the
            latter, which multiplies by the same factor after every step. Each cycle of ``cyclic``
            ends at it, too.
        milestones: steps of the whole training at which ``step`` multiplies by its factor once
            more (``None``: after 60 % and 80 % of the steps after the warm-up).
        step_factor: factor of ``step``.
        cycles: number of cycles of ``cyclic``, equally long and rounded up to whole steps.

    Raises:
        ValueError: for an unknown schedule.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"`schedule` must be one of {list(SCHEDULES)}, but is {schedule!r}.")
    if step < warmup_steps:
        return base * min(1.0, (step + 1) / warmup_steps)
    past, length = step - warmup_steps, max(1, steps - warmup_steps)
    progress = min(1.0, past / length)
    if schedule == "cyclic":
        cycle = math.ceil(length / cycles)
        progress = past % cycle / cycle
    if schedule in ("cosine", "cyclic"):
        share = 0.5 * (1.0 + math.cos(math.pi * progress))
        return base * (final + (1.0 - final) * share)
    if schedule == "exponential":
        return base * float(final**progress)
    if schedule == "step":
        time, borders = (progress, _MILESTONES) if milestones is None else (step, milestones)
        return base * step_factor ** sum(time >= border for border in borders)
    return base
