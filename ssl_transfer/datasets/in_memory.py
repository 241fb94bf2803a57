"""Datasets from a user's own script: arrays of pixels, or torch datasets of images and labels."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
from jaxtyping import Int64, Shaped
from PIL import Image

from ssl_transfer import randomness
from ssl_transfer.config.ranges import ProperFraction, Seed
from ssl_transfer.datasets.base import Dataset, Split, Targets
from ssl_transfer.datasets.decoding import to_rgb
from ssl_transfer.datasets.images import ArrayImages, Images
from ssl_transfer.datasets.reader import Options, assemble, some
from ssl_transfer.datasets.splitting import hold_out

log = logging.getLogger(__name__)

ACCEPTED = (
    "a `Dataset`, (images uint8 [N, H, W, 3], labels [N]), a torch Dataset of (Pillow image, "
    "label), or a mapping of train, test and perhaps val to one of the last two"
)
_SPLITS = ("train", "val", "test")
_PROBED = 8
"""Number of items of a torch dataset that are read twice, to detect a random transform."""

Labels = Shaped[np.ndarray, " samples"] | Shaped[np.ndarray, "samples classes"]


class _ItemImages(Images):
    """The images of a torch dataset, which are read on access."""

    def __init__(self, items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def load(self, index: int) -> Image.Image:
        """Return one image as RGB."""
        image, _ = self.items[index]
        return to_rgb(image)


@randomness.preserved()
def in_memory(
    data: object,
    *,
    name: str = "data",
    classes: Sequence[str] | None = None,
    test_fraction: Annotated[float, ProperFraction] = 0.2,
    val_fraction: float = 0.2,
    split_seed: Seed = 0,
    flip: bool = True,
) -> Dataset:
    """Return a dataset of images that a script holds, for ``evaluate``.

    Args:
        data: pixels and labels ``(images uint8 [N, H, W, 3], labels)``, or a torch dataset whose
            items are ``(Pillow image, label)``; or a mapping of ``train``, ``test`` and, if there
            is one, ``val`` to such data. Labels are class numbers, class names, or rows of 1, 0
            and -1 (not known) per image. A torch dataset is read once as a whole.
        name: name in messages and in the feature store.
        classes: names of the classes, in the order of class numbers (``None``: a torch dataset's
            attribute ``classes``, or the labels as text).
        test_fraction: share of every class that is tested, if there is no test split.
        val_fraction: share of every class's training images that validates, if there is no
            validation split.
        split_seed: seed of both choices.
        flip: whether a mirrored image still shows the same class.

    Raises:
        ValueError: if the data are of another kind, or contradict each other.

    Example:
        >>> pixels = np.zeros((20, 8, 8, 3), dtype=np.uint8)
        >>> in_memory((pixels, ["cat", "dog"] * 10)).facts["sizes"]
        {'train': 12, 'val': 4, 'test': 4}
    """
    parts = _parts(data)
    read = {key: _read(part, key) for key, part in parts.items()}
    names = classes or next(
        (part.classes for part in parts.values() if hasattr(part, "classes")), None
    )
    numbers, names = _numbered({key: part.labels for key, part in read.items()}, names)
    if len(names) < 2:
        log.warning("`%s`: all images are of one class, so that no classifier can be wrong", name)
    splits = {
        key: Split(part.images, numbers[key], [f"{key}/{i}" for i in range(len(part.images))])
        for key, part in read.items()
    }
    pixels = {key: part.pixels for key, part in read.items()}
    content = hashlib.sha256("".join(part.digest for part in read.values()).encode())
    options = Options(name=name, val_fraction=val_fraction, split_seed=split_seed, flip=flip)
    train, test, facts = splits["train"], splits.get("test"), {}
    if test is None:
        if train.targets.ndim == 2:
            raise ValueError(
                "images of several classes must come with a test split, but there is only one "
                "split; give a mapping of train, val and test."
            )
        kept, held = hold_out(train.targets, test_fraction, split_seed, "test")
        train, test = train.subset(kept), train.subset(held)
        pixels = {key: pixels["train"][part] for key, part in (("train", kept), ("test", held))}
        facts["test"] = f"seeded, {test_fraction}"
    if copies := int(np.isin(pixels["test"], pixels["train"]).sum()):
        log.warning(
            "`%s`: %d of %d test images are in train, too, so that scores are too good; remove the "
            "copies", name, copies, len(test),
        )  # fmt: skip
    return assemble(
        options,
        classes=names,
        train=train,
        test=test,
        val=splits.get("val"),
        content=content.hexdigest(),
        metric="map_11_point" if train.targets.ndim == 2 else None,
        facts=facts,
    )


def _parts(data: object) -> dict[str, Any]:
    """Return the given data by split."""
    if not isinstance(data, Mapping):
        return {"train": data}
    unknown = sorted(set(map(str, data)) - set(_SPLITS))
    if unknown or not {"train", "test"} <= set(data):
        raise ValueError(
            f"the splits of a dataset must be train, test and perhaps val, but are "
            f"{some(list(map(str, data)))}."
        )
    return {key: data[key] for key in _SPLITS if key in data}


class _Part(NamedTuple):
    """What a user gave as one split.

    Args:
        images: its images.
        labels: their labels, as given.
        digest: a hash of all pixels.
        pixels: a number for the pixels of each image, equal for copies within one process.
    """

    images: Images
    labels: Labels
    digest: str
    pixels: Int64[np.ndarray, " samples"]


def _read(part: Any, key: str) -> _Part:
    """Return a split's images and labels, and hashes of its pixels."""
    if isinstance(part, tuple | list) and len(part) == 2:
        pixels, labels = (_as_array(values) for values in part)
        if isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.ndim == 4:
            return _arrays(pixels, labels, key)
        if hasattr(part[0], "shape"):
            raise ValueError(
                f"the images of {key} must be uint8 [N, H, W, 3], but are {pixels.dtype} "
                f"{list(pixels.shape)}; scale them to 0 … 255 and move the channels last."
            )
    if hasattr(part, "__getitem__") and hasattr(part, "__len__") and not isinstance(part, str):
        return _items(part, key)
    raise ValueError(f"`dataset` must be {ACCEPTED}, but {key} is a {type(part).__name__}.")


def _as_array(values: Any) -> Any:
    """Return a tensor, list or array as an array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    try:
        return np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"`dataset` must be {ACCEPTED}, but its values are ragged.") from error


def _arrays(pixels: Any, labels: Any, key: str) -> _Part:
    if pixels.shape[3] != 3:
        raise ValueError(
            f"the images of {key} must be uint8 [N, H, W, 3], but are {list(pixels.shape)}; "
            "repeat a grey channel three times, or move the channels last."
        )
    if labels.ndim not in (1, 2) or len(labels) != len(pixels):
        raise ValueError(
            f"there must be one label per image, but {key} has {len(pixels)} images and labels "
            f"{list(labels.shape)}."
        )
    content = hashlib.sha256(np.ascontiguousarray(pixels).data)
    height, width = pixels.shape[1:3]
    each = [hash(_whole((width, height), image)) for image in pixels]
    hashes = np.array(each, dtype=np.int64)
    return _Part(ArrayImages(pixels), labels, content.hexdigest(), hashes)


def _whole(size: tuple[int, int], pixels: Any) -> bytes:
    """Return what identifies an image, whether it comes from an array or from a torch dataset."""
    return f"{size}".encode() + bytes(pixels.tobytes())


def _items(items: Any, key: str) -> _Part:
    """Return the images and labels of a torch dataset, after reading all of its items."""
    labels, content, each = [], hashlib.sha256(), []
    for place in range(len(items)):
        image, label = _item(items, place, key)
        pixels = to_rgb(image)
        if place < _PROBED and pixels.tobytes() != to_rgb(_item(items, place, key)[0]).tobytes():
            raise ValueError(
                f"the items of a torch dataset must be the same in each reading, but item {place} "
                f"of {key} changes; remove its random transform: the protocol augments."
            )
        whole = _whole(pixels.size, pixels)
        content.update(whole)
        each.append(hash(whole))
        labels.append(label)
    hashes = np.array(each, dtype=np.int64)
    return _Part(_ItemImages(items), np.asarray(labels), content.hexdigest(), hashes)


def _item(items: Any, place: int, key: str) -> tuple[Image.Image, Any]:
    item = items[place]
    pair = isinstance(item, tuple | list) and len(item) == 2
    if not pair or not isinstance(item[0], Image.Image):
        kinds = [type(value).__name__ for value in item] if pair else type(item).__name__
        raise ValueError(
            f"the items of a torch dataset must be (Pillow image, label), but item {place} of "
            f"{key} is {kinds}; leave out its `transform`: the encoder's preprocessing is applied."
        )
    label = item[1]
    return item[0], label.item() if hasattr(label, "item") and np.ndim(label) == 0 else label


def _numbered(
    labels: Mapping[str, Labels], classes: Sequence[str] | None
) -> tuple[dict[str, Targets], tuple[str, ...]]:
    """Return class numbers (or rows of them) by split, and the names of the classes."""
    every = list(labels.values())
    if any(part.ndim != every[0].ndim for part in every):
        raise ValueError("all splits must have labels of the same kind, but some have rows.")
    if every[0].ndim == 2:
        return _rows(labels, classes)
    if any(part.dtype.kind not in "iuUb" for part in every):
        raise ValueError(f"labels must be class numbers or class names, but are {every[0].dtype}.")
    values = np.unique(np.concatenate(every))
    if values.dtype.kind == "U":
        names = tuple(classes or values.tolist())
        number = {name: place for place, name in enumerate(names)}
        unknown = sorted(set(values.tolist()) - set(names))
        if unknown:
            raise ValueError(f"labels must be among `classes`, but {some(unknown)} are not.")
        return {
            key: np.array([number[label] for label in part.tolist()], dtype=np.int64)
            for key, part in labels.items()
        }, names
    if classes is not None:
        if values[0] < 0 or values[-1] >= len(classes):
            raise ValueError(
                f"labels must lie from 0 to {len(classes) - 1}, one number per name of `classes`, "
                f"but lie from {values[0]} to {values[-1]}."
            )
        return {key: part.astype(np.int64) for key, part in labels.items()}, tuple(classes)
    numbered = {key: np.searchsorted(values, part).astype(np.int64) for key, part in labels.items()}
    return numbered, tuple(str(value) for value in values.tolist())


def _rows(
    labels: Mapping[str, Labels], classes: Sequence[str] | None
) -> tuple[dict[str, Int64[np.ndarray, "samples classes"]], tuple[str, ...]]:
    width = {part.shape[1] for part in labels.values()}
    names = tuple(classes or map(str, range(max(width))))
    wrong = any(not np.isin(part, (-1, 0, 1)).all() for part in labels.values())
    if width != {len(names)} or wrong:
        raise ValueError(
            f"labels of several classes must be rows of 1, 0 and -1 for {len(names)} classes, but "
            f"{'have other values' if wrong else f'have {sorted(width)} columns'}."
        )
    return {key: part.astype(np.int64) for key, part in labels.items()}, names
