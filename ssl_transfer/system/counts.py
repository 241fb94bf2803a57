"""Counts that are saved with a module and read without waiting for its device."""

import torch
from torch import nn


class Count:
    """A buffer of a module that counts, with the same number on the host.

    ``int(buffer)`` would make the host wait for all work of a GPU. Only ``add`` and
    ``load_state_dict`` may change the buffer: the number would not follow other changes.

    Args:
        module: gets the buffer, an integer that starts at 0.
        name: the buffer's name.
    """

    def __init__(self, module: nn.Module, name: str) -> None:
        module.register_buffer(name, torch.zeros((), dtype=torch.int64))
        module.register_load_state_dict_post_hook(self._forget)  # type: ignore[no-untyped-call]
        self._module, self._name = module, name
        self._number: int | None = 0

    def __int__(self) -> int:
        if self._number is None:
            self._number = int(self._module.get_buffer(self._name))
        return self._number

    def add(self, amount: int) -> None:
        """Add to the count."""
        self._number = int(self) + amount
        self._module.get_buffer(self._name).add_(amount)

    def _forget(self, *_: object) -> None:
        """Let the next reader read the buffer, whose state was loaded."""
        self._number = None
