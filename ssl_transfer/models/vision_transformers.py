"""Vision transformers with a class token; released files may have another image size."""

import dataclasses
import logging
import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_transfer.config.ranges import Range, checked
from ssl_transfer.models.backbones import timm_backbone
from ssl_transfer.models.reading import State

log = logging.getLogger(__name__)


@checked("model.")
def vision_transformer(
    arch: str,
    image_size: Annotated[int, Range(1, cap=8192)] = 224,
    prenorm: bool = False,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return a vision transformer that ends in its class token.

    Weights of another image size load into it: their position embeddings are interpolated.

    Args:
        arch: timm's name, e.g. ``vit_base_patch16_224``.
        image_size: side of the images, in pixels.
        prenorm: whether the features are the class token before the final LayerNorm, which is left
            out of the network (``prenorm`` of TjuJianyu/RRL, ``src/models.py``).
        options: further keyword arguments of ``timm.create_model``.

    Raises:
        ValueError: for an unknown name or option, or for a network without class token.
    """
    module = timm_backbone(arch, options={**(options or {}), "img_size": image_size})
    positions, norm = getattr(module, "pos_embed", None), getattr(module, "norm", None)
    if getattr(module, "cls_token", None) is None or positions is None or norm is None:
        raise ValueError(
            "`model.arch` must be a vision transformer of timm with a class token and learnt "
            f"positions, but is {arch!r}; use `model=timm` for others."
        )
    if prenorm:
        module.norm = nn.Identity()
    adaptation = _Adaptation(positions.shape[1], prenorm)
    module.adapt_weights = adaptation  # type: ignore[assignment]  # `load_weights` calls it
    return module


@dataclasses.dataclass(frozen=True)
class _Adaptation:
    """The conversion of a file's tensors to those of a vision transformer.

    Args:
        tokens: number of its position embeddings, that of the class token included.
        prenorm: whether it lacks the final LayerNorm.
    """

    tokens: int
    prenorm: bool

    def __call__(self, state: State) -> State:
        adapted = dict(state)
        positions = adapted.get("pos_embed")
        if positions is not None and positions.ndim == 3 and positions.shape[1] != self.tokens:
            adapted["pos_embed"] = resized_positions(positions, self.tokens)
        if self.prenorm:
            adapted = {n: tensor for n, tensor in adapted.items() if not n.startswith("norm.")}
        return adapted


def resized_positions(
    positions: Float[Tensor, "1 tokens dim"], tokens: int
) -> Float[Tensor, "1 _ dim"]:
    """Return position embeddings for another number of patches, interpolated linearly.

    The corners of both grids coincide, as in ``interpolate_posembed`` of the models' authors
    (``vit_jax/checkpoint.py`` of google-research/vision_transformer: ``scipy.ndimage.zoom`` of
    order 1) and in TjuJianyu/RRL. The class token's embedding, the first one, does not change.

    Args:
        positions: those of the class token and of a square grid of patches.
        tokens: the new number, that of the class token included.

    Returns:
        The new embeddings; those given if either grid is not square.
    """
    old, new = (math.isqrt(count - 1) for count in (positions.shape[1], tokens))
    if old**2 + 1 != positions.shape[1] or new**2 + 1 != tokens:
        return positions
    log.info("position embeddings of %d x %d patches are interpolated to %d x %d",
             old, old, new, new)  # fmt: skip
    grid = positions[:, 1:].mT.reshape(1, -1, old, old)
    grid = F.interpolate(grid, size=(new, new), mode="bilinear", align_corners=True)
    return torch.cat([positions[:, :1], grid.flatten(2).mT], dim=1)
