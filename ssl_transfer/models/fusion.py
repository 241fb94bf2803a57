"""Several encoders as one: their features side by side, summed or averaged."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssl_transfer.errors import NotApplicable
from ssl_transfer.models.encoder import Encoder
from ssl_transfer.preprocessing import Preprocessing

Inputs = TypeVar("Inputs")
Fuse = Literal["concatenate", "add", "mean"]


class Fusion(nn.Module):
    """The backbones of several encoders, applied to the same images.

    Args:
        backbones: modules from images to features.
        fuse: how their features become one.
    """

    fuse_number: Tensor

    def __init__(self, backbones: Sequence[nn.Module], fuse: Fuse) -> None:
        super().__init__()
        self.members = nn.ModuleList(backbones)
        self.fuse = fuse
        self.alone: str | None = None
        """Why the members cannot take one batch of images together (``None``: they can)."""
        # The same members fused in another way are another encoder: a buffer is part of the hash.
        self.register_buffer("fuse_number", torch.tensor(get_args(Fuse).index(fuse)))

    def forward(self, *images: Float[Tensor, "batch 3 _ _"]) -> Float[Tensor, "batch dim"]:
        """Return the fused features of images.

        Args:
            images: one batch that all members see, or the same batch as each member sees it.

        Raises:
            NotApplicable: if there is one batch, but the members' preprocessing differs.
        """
        if len(images) == 1 < len(self.members):
            if self.alone is not None:
                raise NotApplicable(self.alone)
            images *= len(self.members)
        features = [member(seen) for member, seen in zip(self.members, images, strict=True)]
        if self.fuse == "concatenate":
            return torch.cat(features, dim=1)
        total = torch.stack(features).sum(0)
        return total / len(features) if self.fuse == "mean" else total


class FusedEncoder(Encoder):
    """Several encoders as one, each of which sees images with its own preprocessing.

    Features are neither normalised nor scaled before they are fused, as in Ericsson et al. 2021
    (https://arxiv.org/abs/2111.11398, ``model_utils.py``): a member with larger features dominates
    a regularised classifier.

    Args:
        encoders: the members.
        fuse: ``concatenate``, or ``add`` or ``mean`` of features of one width.

    Raises:
        ValueError: if there are no members, or features of different widths are added.
    """

    def __init__(self, encoders: Sequence[Encoder], fuse: Fuse) -> None:
        if not encoders:
            raise ValueError("`method.members` must name at least one encoder, but is empty.")
        dims = [encoder.feature_dim for encoder in encoders]
        if fuse != "concatenate" and len(set(dims)) > 1:
            raise ValueError(
                f"`method.fuse={fuse}` must be given members with equally many features, but they "
                f"have {dims}; use `method.fuse=concatenate`."
            )
        super().__init__(
            Fusion([encoder.backbone for encoder in encoders], fuse),
            sum(dims) if fuse == "concatenate" else dims[0],
            encoders[0].preprocessing,
            "+".join(encoder.name for encoder in encoders),
        )
        # Not a ModuleList: the backbones are registered once, inside of the fusion.
        self.encoders = tuple(encoders)
        self.fuse = fuse
        self.prepare_each([encoder.preprocessing for encoder in encoders])

    @property
    def shares_preprocessing(self) -> bool:
        """Whether all members see images with the same preprocessing."""
        return len({encoder.preprocessing for encoder in self.encoders}) == 1

    def preprocessing_identity(self) -> dict[str, Any]:
        """Return the members' preprocessing as plain values."""
        if self.shares_preprocessing:
            return super().preprocessing_identity()
        return {"members": [encoder.preprocessing_identity() for encoder in self.encoders]}

    def prepare(self, size: int | None, values: Mapping[str, Any] | None) -> None:
        """Replace values of the preprocessing, of each member's own."""
        self.prepare_each([one.preprocessing.replaced(size, values) for one in self.encoders])

    def prepare_each(self, preprocessings: Sequence[Preprocessing]) -> None:
        """Set the preprocessing of each member."""
        for encoder, preprocessing in zip(self.encoders, preprocessings, strict=True):
            encoder.preprocessing = preprocessing
        self.preprocessing = preprocessings[0]
        fusion = self.backbone
        assert isinstance(fusion, Fusion)
        problem = (
            f"the members of `{self.name}` must share one preprocessing for a protocol that passes "
            "one batch of images through all of them, but theirs differ; set "
            "`model.preprocessing` of the members, or use another protocol, such as linear_probe "
            "or logistic_regression."
        )
        fusion.alone = None if self.shares_preprocessing else problem

    def take(self, others: Sequence[Encoder]) -> None:
        """Take weights, their number type and preprocessing from encoders of equal architectures.

        Args:
            others: one encoder per member, in the order of the members; not changed.
        """
        for member, other in zip(self.encoders, others, strict=True):
            dtypes = [p.dtype for p in other.parameters() if p.is_floating_point()]
            member.to(dtypes[0] if dtypes else torch.float32)
            member.backbone.load_state_dict(other.backbone.state_dict())
        self.prepare_each([other.preprocessing for other in others])

    def forward(self, *images: Float[Tensor, "batch 3 _ _"]) -> Float[Tensor, "batch dim"]:
        """Return the fused features of images (see ``Fusion.forward``)."""
        features: Tensor = self.backbone(*images)
        return features


class Preparations(NamedTuple):
    """The ways in which an encoder's images are prepared, each of which is carried out once.

    Args:
        distinct: the preprocessing of each batch of images.
        places: for each input of the encoder, the number of its batch.
    """

    distinct: tuple[Preprocessing, ...]
    places: tuple[int, ...] = (0,)

    @classmethod
    def of(
        cls,
        encoder: Encoder,
        size: int | None = None,
        values: Mapping[str, Any] | None = None,
    ) -> "Preparations":
        """Return those of an encoder; each member of several has its own.

        Args:
            encoder: the encoder.
            size: another size of all images, in pixels (``None``: each preprocessing's own).
            values: see ``Preprocessing.replaced``.
        """
        if not isinstance(encoder, FusedEncoder) or encoder.shares_preprocessing:
            return cls((encoder.preprocessing.replaced(size, values),))
        each = [member.preprocessing.replaced(size, values) for member in encoder.encoders]
        distinct = tuple(dict.fromkeys(each))
        return cls(distinct, tuple(map(distinct.index, each)))

    def inputs(self, batches: Sequence[Inputs]) -> list[Inputs]:
        """Return the encoder's inputs from one batch for each distinct preprocessing."""
        return [batches[place] for place in self.places]


def fused(
    features: Sequence[Float[np.ndarray, "samples _"]], fuse: Fuse
) -> Float[np.ndarray, "samples dim"]:
    """Return the features of several encoders as one array.

    Args:
        features: one array per encoder, with the same samples.
        fuse: see ``FusedEncoder``.
    """
    if fuse == "concatenate":
        return np.concatenate(features, axis=1)
    total: Float[np.ndarray, "samples dim"] = np.sum(features, axis=0)
    return total / total.dtype.type(len(features)) if fuse == "mean" else total
