"""The interfaces between the training loop, the learner that it trains, and observers."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from ssl_transfer.datasets.transforms import Batch

Parts = dict[str, Tensor]
"""A loss and named parts of it, all scalars."""


class Learner(nn.Module):
    """A module that ``fit`` trains: ``forward`` returns the loss and named parts of it."""

    separable: bool = True
    """Whether the loss is a mean over samples, so that gradient accumulation is exact."""

    minimum_batch: int = 1

    maximum_batch: int | None = None
    """Largest global batch, limited by a queue (``None``: no limit)."""

    def forward(self, views: tuple[Tensor, ...], targets: Tensor) -> Parts:
        """Return ``{"loss": …}`` and other scalars worth logging."""
        raise TypeError(f"{type(self).__name__} must define `forward`.")

    def before_pass(self, samples: int) -> None:
        """Prepare the next forward pass by what ``torch.compile`` cannot trace.

        Numbers on the host that change in every step belong here: a compiled ``forward`` that reads
        one is compiled again for each value.

        Args:
            samples: images of this process's next micro-batch.
        """

    def starts_anew(self, step: int) -> bool:
        """Return whether the optimizer forgets its momenta before a step, counted from 0."""
        return False

    def after_loss(self, values: Mapping[str, float]) -> None:
        """Look at the loss and its parts, averaged over the processes; the loss is finite."""

    def before_step(self, progress: float) -> None:
        """Change or drop gradients before the optimizer's step; ``progress`` is in [0, 1)."""

    def after_step(self, progress: float) -> None:
        """Update momentum encoders and queues after the step; ``progress`` is in (0, 1]."""

    def after_epoch(self, passes: float) -> None:
        """Run after the step that completes an epoch, and after the last step.

        State of this method belongs in ``state_dict``; the method must leave the learner in train
        mode.

        Args:
            passes: completed passes over the samples.
        """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's groups: ``params``, and the settings of each group."""
        return [{"params": list(self.parameters())}]

    def clip_groups(self) -> list[list[nn.Parameter]]:
        """Return the sets of parameters whose gradient norms are clipped separately."""
        return [[parameter for parameter in self.parameters() if parameter.requires_grad]]

    def constant(self) -> frozenset[str]:
        """Return the names in ``state_dict`` that training never changes."""
        return frozenset()


@runtime_checkable
class Observer(Protocol):
    """Observes a training without changing it; its state is saved with the training."""

    def after_step(self, step: int, progress: float, batch: Batch) -> None:
        """Process this process's share of the ``step``-th batch, counted from 1."""
        ...

    def after_epoch(self, step: int, passes: float, *, last: bool) -> None:
        """Run after the learner's ``after_epoch``; leave the learner in train mode."""
        ...

    def misfit(self, passes: float) -> str | None:
        """Return why a training cannot continue after so many passes (``None``: it can)."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return everything that changes."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of ``state_dict``."""
        ...
