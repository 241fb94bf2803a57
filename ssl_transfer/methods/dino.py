"""DINO: self-distillation with no labels (Caron et al. 2021, https://arxiv.org/abs/2104.14294)."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_transfer.config.ranges import Fraction, Positive, Range, Width, checked
from ssl_transfer.datasets.transforms import Augmentation
from ssl_transfer.methods.base import Method, full_precision
from ssl_transfer.methods.momentum import cosine_momentum, follow, target_of
from ssl_transfer.methods.multi_crop import Views, cross_entropy_between_views, encode
from ssl_transfer.models import Encoder
from ssl_transfer.system import distributed

Keep = Literal["teacher", "student"]
TAUGHT = 2
"""Number of views that the teacher sees: the first two, which are the large ones."""


def dino(
    student: Float[Tensor, "batch views dim"],
    teacher: Float[Tensor, "batch teacher_views dim"],
    centre: Float[Tensor, " dim"],
    *,
    student_temperature: float | Float[Tensor, ""],
    teacher_temperature: float | Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy between the networks' outputs for different views.

    Equations 1 to 3 of the paper: each of the teacher's views is a target for the student's other
    views. A student with uniform outputs has the loss ``log(dim)``; the minimum is the entropy of
    the teacher's distribution.

    Args:
        student: outputs for all views; gradients only flow into these.
        teacher: outputs for the first views (the large crops), in the same order.
        centre: subtracted from the teacher's outputs.
        student_temperature: divides the student's outputs.
        teacher_temperature: divides the teacher's outputs; lower than the student's, so that its
            distribution is sharper.
    """
    targets = ((teacher.detach() - centre) / teacher_temperature).softmax(dim=-1)
    # Loop over the views: smaller blocks of memory are faster to allocate and to free.
    log_probabilities = [(s / student_temperature).log_softmax(dim=1) for s in student.unbind(1)]
    return cross_entropy_between_views(targets.unbind(1), log_probabilities)


def warmed_up(start: float, end: float, share: float, progress: float) -> float:
    """Return a value that rises linearly from ``start`` to ``end`` over a ``share`` of training."""
    return end if progress >= share else start + (end - start) * progress / share


class Head(nn.Module):
    """The layers after the encoder: a perceptron, normalisation, and a linear layer of unit rows.

    The last layer has ``weight_norm`` with the length fixed to 1, as the published
    ``norm_last_layer``.

    Args:
        in_dim: width of the features.
        hidden_dims: widths of the hidden layers, with GELU.
        bottleneck_dim: width of the normalised vectors.
        out_dim: width of the output.
        batch_norm: whether a BatchNorm follows each hidden layer.

    Raises:
        ValueError: if a width is not positive.
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dims: Sequence[int],
        bottleneck_dim: int,
        out_dim: int,
        batch_norm: bool,
    ) -> None:
        super().__init__()
        if min(widths := [*hidden_dims, bottleneck_dim, out_dim]) < 1:
            raise ValueError(f"the widths of DINO's head must be positive, but are {widths}.")
        layers: list[nn.Module] = []
        for width in hidden_dims:
            layers.append(nn.Linear(in_dim, width, bias=not batch_norm))
            layers += [nn.BatchNorm1d(width)] if batch_norm else []
            layers.append(nn.GELU())
            in_dim = width
        self.mlp = nn.Sequential(*layers, nn.Linear(in_dim, bottleneck_dim))
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        self.last_layer = nn.Linear(bottleneck_dim, out_dim, bias=False)

    def forward(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch out_dim"]:
        """Return the outputs, cosines of the bottleneck with the last layer's rows."""
        directions = F.normalize(full_precision(self.mlp(features)))
        return F.linear(directions, F.normalize(self.last_layer.weight))


def outputs(network: nn.Sequential, views: Views) -> Float[Tensor, "batch views out_dim"]:
    """Return the outputs of an encoder and a head for all views; the head takes them together."""
    encoder, head = network
    features = encode(encoder, views)
    result: Tensor = head(features.flatten(0, 1)).unflatten(0, features.shape[:2])
    return result


class DINO(Method):
    """Predict the output of a teacher, a moving average of the student, for another view.

    The teacher sees the first two views ("global crops"), the student all. As in the original code,
    batch statistics are joint over the views of one size, and ``clip_grad_norm`` clips the gradient
    of each parameter separately. Schedules that the original code gives in epochs are shares of the
    training here.

    Args:
        encoder: the student's encoder, trained in place; at the end it gets the weights to keep.
        num_classes: not used.
        views: two or more augmentations.
        momentum: momentum of the teacher at the start; rises to 1 along half a cosine.
        hidden_dims: see ``Head``.
        bottleneck_dim: see ``Head``.
        out_dim: see ``Head``.
        batch_norm: see ``Head``.
        student_temperature: see ``dino``.
        teacher_temperature: see ``dino``, after its warm-up.
        teacher_temperature_start: the temperature at the beginning of the warm-up.
        teacher_temperature_warmup: length of the linear warm-up, a share of the training.
        centre_momentum: momentum of the centre of the teacher's outputs (equation 4).
        frozen_last_layer: share of the training, from its beginning, in which the last layer is
            frozen.
        keep: which network's encoder to keep after the training: ``teacher`` (as published) or
            ``student``.
    """

    separable = True
    minimum_batch = 2
    more_views = True
    smaller_views = True

    centre: Float[Tensor, " dim"]
    temperature: Float[Tensor, ""]

    @checked("method.")
    def __init__(
        self,
        encoder: Encoder,
        num_classes: int | None,
        views: Sequence[Augmentation],
        *,
        momentum: Fraction,
        hidden_dims: list[Width],
        bottleneck_dim: Width,
        out_dim: Annotated[int, Range(2, cap=10**6)],
        batch_norm: bool,
        student_temperature: Positive,
        teacher_temperature: Positive,
        teacher_temperature_start: Positive,
        teacher_temperature_warmup: Fraction,
        centre_momentum: Fraction,
        frozen_last_layer: Fraction,
        keep: Keep = "teacher",
    ) -> None:
        super().__init__(encoder, num_classes, views)
        self.momentum = momentum
        self.student_temperature = student_temperature
        self.warmup: dict[str, Any] = {
            "start": teacher_temperature_start,
            "end": teacher_temperature,
            "share": teacher_temperature_warmup,
        }
        self.centre_momentum = centre_momentum
        self.frozen_last_layer = frozen_last_layer
        self.keep = keep
        self.head = Head(encoder.feature_dim, hidden_dims, bottleneck_dim, out_dim, batch_norm)
        self.teacher = target_of(self.student)
        self.register_buffer("centre", torch.zeros(out_dim))
        # A buffer, so that a resumed training restores it.
        self.register_buffer("temperature", torch.tensor(warmed_up(**self.warmup, progress=0.0)))
        self.fresh: list[Tensor] = []  # mean outputs of the teacher in this step
        self.step_momentum = momentum  # of this step, counted from 0 as in the published code

    @property
    def student(self) -> nn.Sequential:
        """Encoder and head."""
        return nn.Sequential(self.encoder, self.head)

    def forward(
        self, views: tuple[Float[Tensor, "batch 3 _ _"], ...], targets: Int64[Tensor, " batch"]
    ) -> dict[str, Tensor]:
        """Return the loss of this process's share, and the entropy of the teacher's mean output."""
        student = outputs(self.student, views)
        with torch.no_grad():
            teacher = outputs(self.teacher, views[:TAUGHT])
        with torch.autocast(student.device.type, enabled=False):
            student, teacher = full_precision(student), full_precision(teacher)
            loss = dino(
                student,
                teacher,
                self.centre,
                student_temperature=self.student_temperature,
                teacher_temperature=self.temperature,
            )
            return {"loss": loss, "teacher_entropy": self._observe(teacher)}

    @torch.no_grad()
    def _observe(self, teacher: Float[Tensor, "batch views dim"]) -> Float[Tensor, ""]:
        """Store the mean output for the centre; return the entropy of the mean distribution.

        It is ``log(out_dim)`` if the teacher uses all outputs equally, 0 if it uses only one.
        """
        outputs = teacher.flatten(0, 1)
        shares = ((outputs - self.centre) / self.temperature).softmax(dim=-1)
        means = torch.stack([outputs.mean(dim=0), shares.mean(dim=0)])
        output, share = (distributed.all_reduce_sum(means) / distributed.world_size()).unbind()
        self.fresh.append(output)
        entropy: Tensor = torch.special.entr(share).sum()
        return entropy

    def before_step(self, progress: float) -> None:
        """Set the momentum of this step; in the beginning, drop the last layer's gradient."""
        self.step_momentum = cosine_momentum(self.momentum, progress)
        if progress < self.frozen_last_layer:
            self.head.last_layer.weight.grad = None

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Update teacher, centre and temperature; at the end, copy the weights to keep."""
        follow(self.teacher, self.student, self.step_momentum)
        self.centre.lerp_(torch.stack(self.fresh).mean(dim=0), 1.0 - self.centre_momentum)
        self.fresh = []
        self.temperature.fill_(warmed_up(**self.warmup, progress=progress))
        if progress >= 1.0 and self.keep == "teacher":
            self.encoder.load_state_dict(self.teacher[0].state_dict())

    def scheduled(self, progress: float) -> dict[str, float]:
        """Return the teacher's momentum and temperature."""
        return {
            "momentum": cosine_momentum(self.momentum, progress),
            "teacher_temperature": float(self.temperature),
        }

    def clip_groups(self) -> list[list[nn.Parameter]]:
        """Return one group per parameter."""
        return [[parameter] for parameter in self.parameters() if parameter.requires_grad]
