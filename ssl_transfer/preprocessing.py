"""Preprocessing of images for a set of weights; it is stored with the encoder."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from ssl_transfer.config.ranges import Positive, Range, Side, checked

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
ChannelOrder = Literal["rgb", "bgr"]
Level = Annotated[float, Range(-1e6, cap=1e6)]

TRANSFORMERS_FILE, TIMM_FILE = "preprocessor_config.json", "config.json"
"""Files beside weights that state their preprocessing; ``models.published_preprocessing`` reads
them."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@checked("preprocessing.")
@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The preprocessing from an image to the encoder's input.

    Args:
        size: side of the square the encoder sees, in pixels.
        resize: length the shorter side is scaled to before the centre crop, in pixels
            (``None``: the same as ``size``).
        interpolation: interpolation of every resize, in evaluation and in random crops.
        mean: per channel in the encoder's order, for pixels in ``[0, 1]``.
        std: likewise; ``mean`` 0 and ``std`` 1 leave the pixels in ``[0, 1]``.
        square: whether the whole image is resized to the square without keeping its aspect ratio,
            instead of being cropped; ``resize`` is then ignored.
        squash: whether both sides are scaled to ``resize`` before the centre crop, without keeping
            the aspect ratio.
        channel_order: order of the encoder's input channels. Weights from code that read images
            with OpenCV and treated them as RGB need ``bgr``, with red's statistics for blue.

    Raises:
        ValueError: if a value is out of its range.
    """

    size: Side = 224
    resize: Side | None = 256
    interpolation: Interpolation = "bilinear"
    mean: tuple[Level, Level, Level] = IMAGENET_MEAN
    std: tuple[Positive, Positive, Positive] = IMAGENET_STD
    channel_order: ChannelOrder = "rgb"
    square: bool = False
    squash: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        if self.shorter_side < self.size:
            raise ValueError(
                f"`preprocessing.resize` must be at least `preprocessing.size` ({self.size}), "
                f"but is {self.resize}; leave it null to use the size."
            )
        if self.square and self.squash:
            raise ValueError(
                "`preprocessing.square` and `preprocessing.squash` must not both be true, but "
                "are: the first resizes to `size`, the second to `resize` before a crop; set one "
                "to false."
            )
        for key, kind in (("interpolation", Interpolation), ("channel_order", ChannelOrder)):
            if getattr(self, key) not in get_args(kind):
                raise ValueError(
                    f"`preprocessing.{key}` must be one of {list(get_args(kind))}, but is "
                    f"{getattr(self, key)!r}."
                )

    @property
    def shorter_side(self) -> int:
        """Length of the shorter side before the centre crop, in pixels."""
        return self.size if self.resize is None else self.resize

    def at_size(self, size: int | None) -> "Preprocessing":
        """Return the same preprocessing for another input size; the crop keeps its share."""
        if size is None or size == self.size:
            return self
        resize = None if self.resize is None else round(self.resize * size / self.size)
        return dataclasses.replace(self, size=size, resize=resize)

    def replaced(
        self, size: int | None = None, values: Mapping[str, Any] | None = None
    ) -> "Preprocessing":
        """Return the same preprocessing with some values replaced.

        Args:
            size: another input size (``None``: the same); unless ``values`` has ``resize``, the
                crop keeps its share of the image.
            values: fields as in YAML; ``size`` may be among them instead.

        Raises:
            ValueError: for an unknown key, a value out of its range, or two sizes.
        """
        if size is not None and "size" in (values or {}):
            raise ValueError(
                "the image size must be given once, but both `image_size` and "
                "`preprocessing.size` are; remove one."
            )
        values = {**({} if size is None else {"size": size}), **(values or {})}
        known = [field.name for field in dataclasses.fields(self)]
        unknown = [key for key in values if key not in known]
        if unknown:
            raise ValueError(
                f"The keys of `preprocessing` must be among {known}, but are {unknown}."
            )
        base = self if "resize" in values else self.at_size(values.get("size"))
        # YAML and JSON have lists only, and write 1.0 as 1.
        fields: dict[str, Any] = {
            key: tuple(map(float, value)) if isinstance(value, list) else value
            for key, value in values.items()
        }
        return dataclasses.replace(base, **fields)

    def identity(self) -> dict[str, Any]:
        """Return the fields that identify the preprocessing, as plain values."""
        values = dataclasses.asdict(self)
        # Left out if they have the values from before these fields existed, so that ids stay.
        for key, earlier in (("channel_order", "rgb"), ("square", False), ("squash", False)):
            if values[key] == earlier:
                del values[key]
        return values
