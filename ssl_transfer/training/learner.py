"""The contract between the training loop and what it trains and tells."""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from ssl_transfer.datasets.transforms import Batch

Parts = dict[str, Tensor]
"""A loss and named parts of it, all scalars."""


class Learner(nn.Module):
    """What ``fit`` trains: ``forward`` returns the loss and named parts of it."""

    separable: bool = True
    """Whether the loss is a mean over samples, so that gradient accumulation is exact."""

    minimum_batch: int = 1

    maximum_batch: int | None = None
    """What a queue has room for in one step (``None``: any batch)."""

    def forward(self, views: tuple[Tensor, ...], targets: Tensor) -> Parts:
        """Return ``{"loss": …}`` and other scalars worth logging."""
        raise TypeError(f"{type(self).__name__} must define `forward`.")

    def before_step(self, progress: float) -> None:
        """Change or drop gradients that the optimizer is about to use; ``progress`` in [0, 1)."""

    def after_step(self, progress: float) -> None:
        """Update what gradients do not: momentum encoders, queues. ``progress`` is in (0, 1]."""

    def after_epoch(self, passes: float) -> None:
        """Do what is due after the step that completes an epoch, and after the last step.

        What it keeps for later belongs in ``state_dict``; it must leave the train mode on.

        Args:
            passes: how often the samples were seen by then.
        """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's groups: ``params``, and what each sets differently."""
        return [{"params": list(self.parameters())}]

    def clip_groups(self) -> list[list[nn.Parameter]]:
        """Return the sets of parameters whose gradient norms are clipped separately."""
        return [[parameter for parameter in self.parameters() if parameter.requires_grad]]

    def constant(self) -> frozenset[str]:
        """Return the names in ``state_dict`` that training never changes."""
        return frozenset()


@runtime_checkable
class Observer(Protocol):
    """Looks on while ``fit`` trains, and changes nothing; what it keeps is saved with the rest."""

    def after_step(self, step: int, progress: float, batch: Batch) -> None:
        """Look at this process's share of the ``step``-th batch, counted from 1."""
        ...

    def after_epoch(self, step: int, passes: float, *, last: bool) -> None:
        """Look after the learner's own ``after_epoch``; the train mode stays on."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return everything that changes."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        ...
