"""The loss of a step on its way from the device to the host, which acts on it."""

import torch

from ssl_transfer.system import distributed
from ssl_transfer.training.learner import Parts


class StepOutcome:
    """The loss of a step and its parts, averaged over processes, and whether a signal arrived.

    It is made between the forward and the backward pass and read after the backward pass was
    launched: the values then arrive while a GPU still computes the backward pass. Waiting for the
    whole pass would leave the GPU without work at the beginning of every step. One small reduction
    serves the values and the signals, so that all processes stop at the same step.

    Args:
        parts: the loss of this process's share of the batch, and named parts of it.
        stopping: whether this process received a signal.
    """

    def __init__(self, parts: Parts, *, stopping: bool) -> None:
        self.names = (*parts, "stopping")
        values = torch.stack([part.detach().double() for part in parts.values()])
        values = torch.cat([values, values.new_full((1,), float(stopping))])
        if distributed.world_size() > 1:
            torch.distributed.all_reduce(values)
            values /= distributed.world_size()
        self._values = values.to("cpu", non_blocking=True)
        self._arrived: torch.cuda.Event | None = None
        if values.is_cuda:
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record(torch.cuda.current_stream(values.device))

    def read(self) -> tuple[dict[str, float], bool]:
        """Return loss and parts by name, and whether any process received a signal."""
        if self._arrived is not None:
            self._arrived.synchronize()
        values = dict(zip(self.names, self._values.tolist(), strict=True))
        return values, values.pop("stopping") > 0
