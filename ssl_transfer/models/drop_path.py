"""Drop path (stochastic depth), drawn for the images of the global batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_transfer import randomness
from ssl_transfer.models.encoder import Encoder
from ssl_transfer.models.fusion import FusedEncoder
from ssl_transfer.system.devices import to_device

_SLOTS = ("drop_path", "drop_path1", "drop_path2")
"""Names of timm's layers behind the residual branches of a block."""


class DropPath(nn.Module):
    """Drop a residual branch of random images in train mode, and scale it up for the others.

    Huang et al. 2016 (https://arxiv.org/abs/1603.09382), in timm's form: what is kept is divided by
    its probability, so that nothing changes in eval mode.

    Args:
        rate: probability of dropping the branch of an image.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.kept: Tensor | None = None

    def forward(self, branch: Tensor) -> Tensor:
        """Return the branch, zero for the dropped images."""
        if not self.training:
            return branch
        assert self.kept is not None, "`DropPaths.draw` comes before each forward pass"
        shape = (-1, *(1 for _ in branch.shape[1:]))
        return branch * (self.kept.to(branch) / (1 - self.rate)).view(shape)


class DropPaths:
    """All drop paths of an encoder, and what is drawn for them in a step of a training.

    Args:
        layers: the drop paths.
        seed: seed of the run.
    """

    def __init__(self, layers: Sequence[DropPath], seed: int) -> None:
        self.layers, self.seed = tuple(layers), seed

    def draw(self, step: int, positions: range, device: torch.device) -> None:
        """Draw which branches of a micro-batch are kept, as a function of seed, step and position.

        Args:
            step: step of the training, counted from 0.
            positions: the positions of the micro-batch's images in the global batch.
            device: device of the encoder.
        """
        numbers = np.asarray(positions, dtype=np.int64)
        drawn = randomness.uniforms(
            self.seed, "drop path", np.full_like(numbers, step), numbers, draws=len(self.layers)
        )
        rates = [layer.rate for layer in self.layers]
        kept = to_device(torch.from_numpy((drawn >= rates).T), device)
        for layer, row in zip(self.layers, kept.unbind(), strict=True):
            layer.kept = row


def set_drop_path(encoder: Encoder, rate: float) -> list[DropPath]:
    """Give the residual blocks of an encoder drop paths, in place, and return them.

    Rates rise linearly from 0 in the first block to ``rate`` in the last one, as in timm (whose
    EfficientNets alone end one block's step lower). They replace those of ``model.options``.

    Args:
        encoder: an encoder of timm; of several, each member has its own blocks.
        rate: rate of the last block, in ``[0, 1)``.

    Raises:
        ValueError: if the encoder's blocks have no place for drop paths.
    """
    members = encoder.encoders if isinstance(encoder, FusedEncoder) else (encoder,)
    layers: list[DropPath] = []
    for member in members:
        blocks = [block for block in member.backbone.modules() if _slots(block)]
        if not blocks:
            raise ValueError(
                "`drop_path` must be null for a network whose blocks have none, but is "
                f"{rate:g} for `{member.name}`; use a network of timm, such as a ViT or ConvNeXt."
            )
        for block, own in zip(blocks, np.linspace(0, rate, len(blocks)).tolist(), strict=True):
            for slot in _slots(block):
                layer = DropPath(own) if own > 0 else nn.Identity()
                setattr(block, slot, layer)
                layers += [layer] if isinstance(layer, DropPath) else []
    return layers


def _slots(block: Any) -> list[str]:
    """Return the names of a block's layers behind its residual branches; timm may leave None."""
    return [
        slot
        for slot in _SLOTS
        if hasattr(block, slot) and isinstance(getattr(block, slot), nn.Module | None)
    ]
