"""Arrays and torch datasets of a script as datasets."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_transfer.datasets import Dataset, in_memory

GENERATOR = np.random.default_rng(0)
PIXELS = GENERATOR.integers(0, 256, (20, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(20) % 2


class Pairs:
    """A torch dataset of images and labels, as torchvision's are."""

    classes = ("cat", "dog")

    def __init__(self, labels: Any = LABELS, image: Any = Image.fromarray) -> None:
        self.labels, self.image = labels, image

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.image(PIXELS[index]), self.labels[index]


def contents(dataset: Dataset) -> dict[bytes, str]:
    """Return the class of every image by its pixels."""
    return {
        np.asarray(image).tobytes(): dataset.classes[label]
        for split in dataset.splits.values()
        for image, label in zip(split.images, split.targets.tolist(), strict=True)
    }


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ((PIXELS, LABELS), ("0", "1")),
        ((torch.from_numpy(PIXELS), torch.from_numpy(LABELS)), ("0", "1")),
        ((PIXELS, LABELS + 4), ("4", "5")),
        ((PIXELS, ["ab"[label] for label in LABELS]), ("a", "b")),
        (Pairs(), ("cat", "dog")),
        (Pairs(torch.from_numpy(LABELS)), ("cat", "dog")),
        ({"train": (PIXELS[:12], LABELS[:12]), "test": (PIXELS[12:], LABELS[12:])}, ("0", "1")),
    ],
)
def test_every_image_keeps_its_label(data: Any, names: tuple[str, ...]) -> None:
    dataset = in_memory(data)
    expected = {
        pixels.tobytes(): names[label]
        for pixels, label in zip(PIXELS, LABELS.tolist(), strict=True)
    }
    assert contents(dataset) == expected
    assert (dataset.classes, dataset.target) == (names, "class")
    given = isinstance(data, dict)
    assert dataset.facts["sizes"] == {"train": 10 if given else 12, "val": 2 if given else 4,
                                      "test": 8 if given else 4}  # fmt: skip


def test_rows_are_several_classes_per_image() -> None:
    rows = np.stack([LABELS, 1 - LABELS, LABELS - (np.arange(20) % 4 == 0)], axis=1)
    parts = {"train": (PIXELS[:9], rows[:9]), "val": (PIXELS[9:14], rows[9:14]),
             "test": (PIXELS[14:], rows[14:])}  # fmt: skip
    dataset = in_memory(parts, classes=["x", "y", "z"])
    assert (dataset.target, dataset.classes) == ("classes", ("x", "y", "z"))
    assert dataset["val"].targets.tolist() == rows[9:14].tolist()
    with pytest.raises(ValueError, match="must come with a test split"):
        in_memory((PIXELS, rows))
    with pytest.raises(ValueError, match="rows of 1, 0 and -1 for 2 classes"):
        in_memory(parts, classes=["x", "y"])


def test_other_pixels_are_another_dataset() -> None:
    changed = PIXELS.copy()
    changed[3, 2, 2, 1] ^= 1
    one, other = in_memory((PIXELS, LABELS)), in_memory((changed, LABELS))
    assert one.fingerprint != other.fingerprint
    assert one.fingerprint == in_memory((PIXELS.copy(), LABELS)).fingerprint


class Flipping(Pairs):
    """As with a random transform, every reading gives another image."""

    reading = 0

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        self.reading += 1
        return Image.fromarray(PIXELS[index] ^ np.uint8(self.reading)), LABELS[index]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, r"must be a `Dataset`, .* but train is a int"),
        ("digits.zip", "but train is a str"),
        ((PIXELS / 255, LABELS), r"uint8 \[N, H, W, 3\], but are float64 \[20, 6, 5, 3\]"),
        ((PIXELS.transpose(0, 3, 1, 2), LABELS), r"are \[20, 3, 6, 5\]; .* channels last"),
        ((PIXELS[..., 0], LABELS), r"are uint8 \[20, 6, 5\]"),
        ((PIXELS, LABELS[:7]), r"20 images and labels \[7\]"),
        ((PIXELS, LABELS / 2), "class numbers or class names, but are float64"),
        ({"train": (PIXELS, LABELS)}, "must be train, test and perhaps val, but are `train`"),
        (Flipping(), "item 0 of train changes; remove its random transform"),
        (Pairs(image=torch.from_numpy), "item 0 of train is .'Tensor', '.*'.; leave out its `tran"),
        (list(PIXELS), "item 0 of train is ndarray"),
    ],
)
def test_other_data_are_refused_in_one_sentence(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        in_memory(data)
    assert "\n" not in str(caught.value)


def test_names_must_fit_the_labels() -> None:
    with pytest.raises(ValueError, match="from 0 to 0, one number per name"):
        in_memory((PIXELS, LABELS), classes=["only"])
    with pytest.raises(ValueError, match="must be among `classes`, but `b` are not"):
        in_memory((PIXELS, ["ab"[label] for label in LABELS]), classes=["a"])


def test_copies_in_train_and_test_and_a_single_class_are_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3), dtype=np.uint8)
    labels = ["cat", "dog"] * 4
    in_memory({"train": (pixels[:4], labels[:4]), "test": (pixels[4:], labels[4:])})
    assert not caplog.text
    in_memory({"train": (pixels, labels), "test": (pixels[:2], labels[:2])}, name="mine")
    assert "`mine`: 2 of 2 test images are in train, too" in caplog.text
    caplog.clear()
    in_memory((np.repeat(pixels[:1], 10, axis=0), ["cat", "dog"] * 5))
    assert "2 of 2 test images are in train" in caplog.text
    caplog.clear()
    in_memory({"train": Pairs(), "test": (PIXELS[:3], LABELS[:3])})
    assert "3 of 3 test images are in train" in caplog.text
    caplog.clear()
    in_memory((pixels, ["cat"] * 8), name="mine")
    assert "`mine`: all images are of one class" in caplog.text
