"""The multi-layer perceptron between features and embeddings."""

from collections.abc import Sequence
from typing import Annotated

from torch import nn

from ssl_transfer.config.ranges import NotEmpty, Width, checked


class Projector(nn.Sequential):
    """Linear layers with BatchNorm and ReLU between them.

    Args:
        in_dim: width of the features.
        dims: width of each linear layer's output; the last is the embedding's.
        batch_norm: whether a BatchNorm follows each linear layer except the last.
        hidden_bias: whether the linear layers except the last have a bias (redundant before a
            BatchNorm, but some published networks have it).
        last_bias: whether the last linear layer has a bias.
        last_batch_norm: whether an affine BatchNorm follows the last linear layer, too.

    Raises:
        ValueError: if ``dims`` is empty or not positive.
    """

    @checked("projector.")
    def __init__(
        self,
        in_dim: int,
        dims: Annotated[Sequence[Width], NotEmpty()],
        *,
        batch_norm: bool = True,
        hidden_bias: bool = False,
        last_bias: bool = True,
        last_batch_norm: bool = False,
    ) -> None:
        layers: list[nn.Module] = []
        for width in dims[:-1]:
            layers.append(nn.Linear(in_dim, width, bias=hidden_bias))
            layers += [nn.BatchNorm1d(width)] if batch_norm else []
            layers.append(nn.ReLU())
            in_dim = width
        layers.append(nn.Linear(in_dim, dims[-1], bias=last_bias))
        layers += [nn.BatchNorm1d(dims[-1])] if last_batch_norm else []
        super().__init__(*layers)
