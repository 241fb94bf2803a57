"""What is asked of torchvision, and what is said where data are missing."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torchvision

from ssl_transfer import datasets
from ssl_transfer.config import compose, plain
from ssl_transfer.datasets import Options
from ssl_transfer.datasets.layout import require
from ssl_transfer.runs import Run
from ssl_transfer.runs.signature import problems

TEST_AND_TRAIN = ({"split": "train"}, {"split": "test"})
# Per option: torchvision's class, and the arguments of its calls beside the folder and `download`.
FETCHED: dict[str, tuple[str, tuple[dict[str, str], ...]]] = {
    "aircraft": ("FGVCAircraft", ({},)),
    "caltech101": ("Caltech101", ({},)),
    "cifar10": ("CIFAR10", ({},)),
    "cifar100": ("CIFAR100", ({},)),
    "dtd": ("DTD", ({},)),
    "eurosat": ("EuroSAT", ({},)),
    "fashionmnist": ("FashionMNIST", ({},)),
    "flowers": ("Flowers102", ({},)),
    "food101": ("Food101", ({},)),
    "gtsrb": ("GTSRB", TEST_AND_TRAIN),
    "mnist": ("MNIST", ({},)),
    "omniglot": ("Omniglot", ({"background": True}, {"background": False})),
    "pcam": ("PCAM", ({"split": "train"}, {"split": "val"}, {"split": "test"})),
    "pets": ("OxfordIIITPet", ({},)),
    "stl10": ("STL10", ({},)),
    "sun397": ("SUN397", ({},)),
    "svhn": ("SVHN", TEST_AND_TRAIN),
    "voc2007": (
        "VOCDetection",
        ({"year": "2007", "image_set": "trainval"}, {"year": "2007", "image_set": "test"}),
    ),
}
BY_HAND = (
    "aloi", "aloi_illumination", "aloi_temperature", "alot", "alot_illumination",
    "alot_temperature", "coil100", "dali", "exposure_errors", "flickr1024", "realblur",
    "cars", "chestx", "cropdiseases", "cub200", "imagenet", "isic", "mhist", "miniimagenet",
    "plantvillage", "tiny_imagenet", "traffic_sign",
)  # fmt: skip


def build(option: str, root: Path, **keys: object) -> datasets.Dataset:
    node = plain(compose([f"dataset={option}"]))["dataset"]
    return datasets.build(node | {"root": str(root)} | keys)


@pytest.mark.parametrize("option", FETCHED)
def test_torchvision_is_asked_for_what_is_missing(option: str, tmp_path: Path, monkeypatch) -> None:
    name, expected = FETCHED[option]
    signature = inspect.signature(getattr(torchvision.datasets, name))
    calls: list[dict[str, Any]] = []

    def fetch(*arguments: object, **keys: object) -> None:
        calls.append(signature.bind(*arguments, **keys).arguments)

    monkeypatch.setattr(torchvision.datasets, name, fetch)
    with pytest.raises(ValueError, match=r"dataset\.download=true"):
        build(option, tmp_path)
    assert not calls
    with pytest.raises(ValueError, match=rf"`{option}` must lie in `.*does not exist"):
        build(option, tmp_path, download=True)
    assert calls == [{"root": str(tmp_path), "download": True, **keys} for keys in expected]


@pytest.mark.parametrize("option", FETCHED)
def test_a_failed_download_is_one_sentence(option: str, tmp_path: Path, monkeypatch) -> None:
    def fail(*arguments: object, **keys: object) -> None:
        raise OSError("<urlopen error [Errno -3] Temporary failure in name resolution>")

    monkeypatch.setattr(torchvision.datasets, FETCHED[option][0], fail)
    with pytest.raises(ValueError, match=rf"`{option}` must be downloaded, but that f") as caught:
        build(option, tmp_path, download=True)
    told = str(caught.value)
    assert "name resolution" in told
    assert "\n" not in told
    assert told.endswith("or fetch the archive elsewhere and set dataset.root.")


@pytest.mark.parametrize("option", BY_HAND)
@pytest.mark.parametrize("download", [False, True])
def test_sets_to_fetch_by_hand_say_where(option: str, download: bool, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"`{option}` must lie in .*download it by hand, or set d"
                                         r"ataset\.root \(") as told:  # fmt: skip
        build(option, tmp_path, download=download)
    assert "download=true" not in str(told.value)
    assert "\n" not in str(told.value)


def test_nothing_is_fetched_where_everything_lies(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    options = Options(name="it")
    assert require(options, str(tmp_path), ["images"], download=True, source="us") == tmp_path


@pytest.mark.parametrize("option", [*FETCHED, *BY_HAND])
def test_every_published_set_can_stand_in_a_sweep_that_downloads(option: str) -> None:
    asked = [
        Run(plain(compose([f"dataset={option}", f"dataset.download={value}"])))
        for value in ("true", "false")
    ]
    assert not problems(asked[0].config)
    assert asked[0].id == asked[1].id
