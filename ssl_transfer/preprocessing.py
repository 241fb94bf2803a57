"""What a set of weights expects of its input images; it travels with the encoder."""

import dataclasses
from typing import Literal, get_args

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the encoder's input.

    Args:
        size: side of the square the encoder sees, in pixels.
        resize: length the shorter side is scaled to before the centre crop, in pixels
            (``None``: the same as ``size``).
        interpolation: of every resize, in evaluation and in random crops.
        mean: per channel (RGB), of pixels in ``[0, 1]``.
        std: likewise; ``mean`` 0 and ``std`` 1 leave the pixels in ``[0, 1]``.

    Raises:
        ValueError: if a value is out of its range.
    """

    size: int = 224
    resize: int | None = 256
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        if self.size < 1 or self.shorter_side < self.size:
            raise ValueError(
                f"`preprocessing.resize` must be at least `preprocessing.size` ({self.size}), "
                f"but is {self.resize}; leave it null to use the size."
            )
        if self.interpolation not in get_args(Interpolation):
            raise ValueError(
                f"`preprocessing.interpolation` must be one of {list(get_args(Interpolation))}, "
                f"but is {self.interpolation!r}."
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                "`preprocessing.mean` and `.std` must have three numbers each, those of std "
                f"positive, but are {self.mean} and {self.std}."
            )

    @property
    def shorter_side(self) -> int:
        """Length of the shorter side before the centre crop, in pixels."""
        return self.size if self.resize is None else self.resize

    def at_size(self, size: int | None) -> "Preprocessing":
        """Return the same preprocessing for another input size, the crop's share kept."""
        if size is None or size == self.size:
            return self
        resize = None if self.resize is None else round(self.resize * size / self.size)
        return dataclasses.replace(self, size=size, resize=resize)
