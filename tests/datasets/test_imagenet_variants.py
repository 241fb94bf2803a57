"""Layouts: the READMEs of the sets' own repositories and archives.

https://huggingface.co/datasets/vaishaal/ImageNetV2 (class numbers as folders),
https://github.com/HaohanWang/ImageNet-Sketch, https://github.com/hendrycks/imagenet-r,
https://github.com/hendrycks/natural-adv-examples (WordNet ids as folders).
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from miniatures import draw

from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets import imagenet_variants as variants
from ssl_transfer.protocols.base import require
from ssl_transfer.protocols.knn import KNN


@pytest.mark.parametrize(
    ("read", "folder"),
    [
        (variants.imagenet_sketch, "sketch"),
        (variants.imagenet_r, "imagenet-r"),
        (variants.imagenet_a, "imagenet-a"),
    ],
)
def test_folders_of_wordnet_ids_are_a_test_set(
    tmp_path: Path, read: Callable[..., Dataset], folder: str
) -> None:
    draw(tmp_path / folder, "n01443537/a.jpg", "n15075141/b.jpg", "n15075141/c.jpg")
    dataset = read(name="set", root=str(tmp_path), sizes="warn")
    assert dataset.classes == ("n01443537", "n15075141")
    assert dataset["test"].targets.tolist() == [0, 1, 1]
    assert list(dataset["test"].names) == ["n01443537/a.jpg", "n15075141/b.jpg", "n15075141/c.jpg"]
    assert read(name="set", root=str(tmp_path), sizes="warn", test_per_class=1).facts["sizes"] == {
        "train": 0, "val": 0, "test": 2
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"but has {'classes': 2}|'test': 3"):
        read(name="set", root=str(tmp_path))
    with pytest.raises(ValueError, match="with training images, but `set` has none"):
        require(KNN(), dataset)
    with pytest.raises(ValueError, match=r"must be 1 for `set`, which has test images only"):
        read(name="set", root=str(tmp_path), sizes="warn", label_fraction=0.1)
    draw(tmp_path / folder, "n00000000/d.jpg")
    with pytest.raises(ValueError, match="named like n01440764, but has `n00000000`"):
        read(name="set", root=str(tmp_path), sizes="warn")


def test_the_folders_of_v2_are_class_numbers(tmp_path: Path) -> None:
    # In the order of their names, folder 10 would be the class after 1.
    names = [f"{number}/image.jpg" for number in range(1000)]
    draw(tmp_path / "imagenetv2-top-images-format-val", *names)
    dataset = variants.imagenet_v2(
        name="v2", root=str(tmp_path), version="top-images", sizes="warn"
    )
    assert dataset.classes == variants.imagenet_classes()
    numbers = [int(Path(name).parent.name) for name in dataset["test"].names]
    assert dataset["test"].targets.tolist() == numbers
    with pytest.raises(ValueError, match="imagenetv2-matched-frequency-format-val"):
        variants.imagenet_v2(name="v2", root=str(tmp_path), sizes="warn")
