"""A dataset: splits of images with targets, and the facts that tables and records show."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int64
from PIL import Image

from ssl_transfer.datasets.images import JoinedImages, PickedImages
from ssl_transfer.errors import refuse_former_keys
from ssl_transfer.system import texts
from ssl_transfer.system.inputs import Inputs

Targets = (
    Int64[np.ndarray, " samples"]
    | Int64[np.ndarray, "samples classes"]
    | Float64[np.ndarray, "samples values"]
)
"""One class number per image; or, for several classes per image, one value per class: 1 (shown),
0 (not shown) or -1 (ignored in training and in scores); or numbers to regress."""

Target = Literal["class", "classes", "values", "landmarks", "views", "none"]
"""The kinds of target, see ``Dataset``."""

_FURTHER = ("groups", "sizes", "domains")
"""Further arrays of a split with a row per sample, all of them optional."""


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images, their targets and their names, in one fixed order.

    Args:
        images: ``images[i]`` is decoded on access, and always RGB.
        targets: see ``Targets``.
        names: stable names of the samples, for messages and fingerprints.
        groups: number of each sample's group. The samples of a group show one object and stay
            together when a split is made; equal numbers in two splits mean the same group
            (``None``: no groups).
        sizes: width and height of each image in pixels; needed if targets are places in the image
            (``None``: unknown).
        domains: number of each sample's domain, such as the hospital that it comes from; see
            ``Dataset.domains`` (``None``: no domains).
    """

    images: Sequence[Image.Image]
    targets: Targets
    names: Sequence[str]
    groups: Int64[np.ndarray, " samples"] | None = None
    sizes: Int64[np.ndarray, "samples 2"] | None = None
    domains: Int64[np.ndarray, " samples"] | None = None

    def __post_init__(self) -> None:
        assert len(self.images) == len(self.targets) == len(self.names)
        for key in _FURTHER:
            rows = getattr(self, key)
            assert rows is None or len(rows) == len(self.targets), key

    def __len__(self) -> int:
        return len(self.targets)

    def subset(self, indices: Sequence[int] | Int64[np.ndarray, " picked"]) -> "Split":
        """Return the samples at ``indices``, in that order."""
        picked = np.asarray(indices, dtype=np.int64)
        further = {key: getattr(self, key) for key in _FURTHER}
        return Split(
            images=PickedImages(self.images, picked),
            targets=self.targets[picked],
            names=texts.pick(self.names, picked),
            **{key: None if rows is None else rows[picked] for key, rows in further.items()},
        )

    def __add__(self, other: "Split") -> "Split":
        return concatenate(self, other)


def concatenate(*splits: Split) -> Split:
    """Return one split with the samples of all splits, in the order of the arguments."""
    further: dict[str, Any] = {}
    for key in _FURTHER:
        rows = [getattr(split, key) for split in splits]
        further[key] = None if any(part is None for part in rows) else np.concatenate(rows)
    return Split(
        images=JoinedImages([split.images for split in splits]),
        targets=np.concatenate([split.targets for split in splits]),
        names=texts.joined([split.names for split in splits]),
        **further,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset for evaluating or pre-training encoders.

    Args:
        name: its name in tables.
        classes: names of the classes, whose order is the order of class numbers; with other kinds
            of target, names of the values or of the landmarks.
        target: kind of target.

            * ``class``: one class number per image.
            * ``classes``: any number of classes per image.
            * ``values``: float64, one column per number to regress, all finite.
            * ``landmarks``: float64, two columns per landmark: its x and y in pixels of the image,
              from the left and the top edge; NaN where it is unknown. Splits have ``sizes``.
            * ``views``: several images of every object; the images of an object have the same group
              number, and targets are the objects' classes (0 where they have none). All samples are
              in ``test``.
            * ``none``: for pre-training only.
        metric: the primary score of classification, a name of ``metrics.CLASSIFICATION``; another
            protocol names its own.
        splits: ``train``, ``val`` and ``test`` at least. If ``train`` and ``test`` are of different
            domains, there may be two validation splits instead of ``val``: ``id_val`` of the
            domains of ``train``, which ``val`` then stands for, and ``ood_val`` of another domain.
        flip: whether a mirrored image still shows the same class.
        fingerprint: hash that changes when samples, targets or splits change.
        facts: description of the data in the record, plain JSON.
        extra_metrics: further scores of the test split, by name; ``metrics.standard`` are always
            recorded.
        inputs: the files that it was built from.
        split_seed: seed of every choice of samples, episodes and views on it; it does not depend on
            the run's seed, so that all encoders are compared on the same ones.
        periods: for values on a circle, such as angles: name of the value -> the difference after
            which it means the same again, e.g. ``2 * pi``.
        domains: names of the domains, whose order is the order of their numbers (empty: none).
    """

    name: str
    classes: tuple[str, ...]
    target: Target
    metric: str
    splits: Mapping[str, Split]
    flip: bool
    fingerprint: str
    facts: dict[str, object]
    extra_metrics: tuple[str, ...] = ()
    inputs: Inputs = dataclasses.field(default_factory=Inputs, repr=False)
    split_seed: int = 0
    periods: Mapping[str, float] = dataclasses.field(default_factory=dict)
    domains: tuple[str, ...] = ()

    def __getitem__(self, split: str) -> Split:
        if split == "val" and split not in self.splits and "id_val" in self.splits:
            split = "id_val"
        if split not in self.splits:
            raise ValueError(
                f"the split must be one of {sorted(self.splits)} of `{self.name}`, but is "
                f"{split!r}."
            )
        return self.splits[split]

    def summary(self) -> str:
        """Return one line with the number of images and classes, and the source of each split."""
        folders = self.facts.get("folders")
        sources = dict(folders) if isinstance(folders, Mapping) else {}
        for key, fact in (("val", "validation"), ("test", "test")):
            sources.setdefault(key, self.facts.get(fact))
        sizes = [
            f"{key} {len(split)}{f' ({sources[key]})' if sources.get(key) else ''}"
            for key, split in self.splits.items()
        ]
        total = sum(len(split) for split in self.splits.values())
        first = ", ".join(f"`{name}`" for name in self.classes[:5])
        more = ", …" * (len(self.classes) > 5)
        noun = self.target if self.target in ("values", "landmarks") else "classes"
        classes = f"{len(self.classes)} {noun} ({first}{more})" if self.classes else "no labels"
        return f"`{self.name}`: {total} images, {classes}: {', '.join(sizes)}"


Dataset.__init__ = refuse_former_keys(Dataset.__init__)  # type: ignore[method-assign]


def fingerprint(classes: Sequence[str], splits: Mapping[str, Split], content: str) -> str:
    """Return a hash of classes, of every split's names, targets and domains, and of ``content``.

    Args:
        classes: names of the classes.
        splits: by name.
        content: represents the pixels, e.g. a hash of them, or of names and sizes of files.
    """
    digest = hashlib.sha256()
    for part in (content, *classes):
        digest.update(part.encode(errors="surrogateescape") + b"\0")
    for key in sorted(splits):
        digest.update(f"\1{key}\0".encode())
        for piece in texts.pieces(splits[key].names, "\0"):
            digest.update(piece.encode(errors="surrogateescape"))
        targets = splits[key].targets
        digest.update(targets.astype("<f8" if targets.dtype.kind == "f" else "<i8").tobytes())
        if (domains := splits[key].domains) is not None:
            digest.update(b"\2" + domains.astype("<i8").tobytes())
    return digest.hexdigest()
