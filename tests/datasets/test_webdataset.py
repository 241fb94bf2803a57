import io
import json
import logging
import random
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.folder import image_folder
from ssl_transfer.datasets.tar_shards import index
from ssl_transfer.datasets.webdataset import webdataset

CLASSES = ("crow", "jay", "wren")
SPLITS = ("train", "val", "test")
Member = tuple[str, bytes]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of 60 images in three class folders."""
    chance = np.random.default_rng(0)
    for number in range(60):
        path = tmp_path / "photos" / CLASSES[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(chance.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    return folder


def samples_of(photos: Path) -> list[list[Member]]:
    """Return the members of each sample, in an order of chance."""
    samples = []
    for path in sorted(photos.rglob("*.png")):
        label = path.parent.name
        about = {"label": {"name": label, "all": [label, "bird"], "age": len(label)}}
        key = f"{label}/{path.stem}"
        samples.append(
            [(f"{key}.png", path.read_bytes()), (f"{key}.cls", label.encode()),
             (f"{key}.num", str(CLASSES.index(label)).encode() + b"\n"),
             (f"{key}.json", json.dumps(about).encode())]
        )  # fmt: skip
    random.Random(0).shuffle(samples)
    return samples


def write(path: Path, samples: Iterable[Iterable[Member]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in (member for sample in samples for member in sample):
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))


def read(root: Path, **keys: Any) -> Dataset:
    return webdataset(**{"name": "mine", "root": str(root)} | keys)


def pairs(dataset: Dataset) -> list[tuple[str, Any]]:
    return [
        pair for key in SPLITS
        for pair in zip(dataset[key].names, dataset[key].targets.tolist(), strict=True)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "keys", [{}, {"label_key": "label.name"}, {"label": "num", "classes": "names.txt"}]
)
def test_shards_in_any_order_are_the_dataset_of_their_class_folders(
    photos: Path, root: Path, keys: Any
) -> None:
    samples = samples_of(photos)
    for number in range(3):
        write(root / f"{number:06d}.tar", samples[20 * number : 20 * number + 20])
    (root / "names.txt").write_text("\n".join(CLASSES))
    dataset, folder = read(root, **keys), image_folder(name="mine", root=str(photos))
    assert dataset.fingerprint == folder.fingerprint
    assert dataset.classes == folder.classes
    for key in SPLITS:
        for one, other in zip(dataset[key].images, folder[key].images, strict=True):
            assert one.tobytes() == other.tobytes()


def write_splits(root: Path, names: Iterable[str], samples: list[list[Member]]) -> None:
    for name, start, end in zip(names, (0, 20, 30, 42), (20, 30, 42, 60), strict=True):
        write(root / name, samples[start:end])


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (("train-0.tar", "train-1.tar", "val-0.tar", "test-0.tar"), {}),
        (("train/0.tar", "train/1.tar", "validation/0.tar", "test/0.tar"), {}),
        (("a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"),
         {"train": "a-{08..09}.tar", "val": "a-10.tar", "test": "a-1[1].tar"}),
    ],
)  # fmt: skip
def test_splits_are_shards(photos: Path, root: Path, names: Any, keys: Any) -> None:
    write_splits(root, names, samples_of(photos))
    dataset = read(root, **keys)
    assert [len(dataset[key]) for key in SPLITS] == [30, 12, 18]
    assert all(name.startswith("test/") for name in dataset["test"].names)


def test_shards_that_are_not_read_are_told(
    photos: Path, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_splits(root, ("train-0.tar", "more.tar", "val-0.tar", "test-0.tar"), samples_of(photos))
    with caplog.at_level(logging.WARNING):
        dataset = read(root, val="none")
    assert [len(dataset[key]) for key in SPLITS] == [16, 4, 18]
    assert "the shards `more.tar`" in caplog.text
    assert "val-0.tar" in caplog.text


def test_several_labels_and_numbers_of_json(photos: Path, root: Path) -> None:
    write(root / "0.tar", samples_of(photos))
    several = read(root, label_key="label.all")
    assert (several.target, several.classes) == ("classes", ("bird", *CLASSES))
    assert {sum(target) for _, target in pairs(several)} == {2}
    values = read(root, label_key="label.age", target="values")
    assert values.target == "values"
    assert all(target == [len(name.split("/")[0])] for name, target in pairs(values))


def change(samples: list[list[Member]], drop: str = "", add: tuple[Member, ...] = ()) -> Any:
    first = [(name, data) for name, data in samples[0] if not (drop and name.endswith(drop))]
    return [[*first, *add], *samples[1:]]


def test_incomplete_samples_are_told(photos: Path, root: Path) -> None:
    samples = samples_of(photos)
    key = samples[0][0][0].removesuffix(".png")
    for changed, keys, sentence in (
        (change(samples, ".cls"), {}, rf"0\.tar: `{key}` has no label, `{key}\.cls`"),
        (change(samples, add=((f"{key}.left.png", b""),)), {}, "has several images .*`left.png`"),
        (
            change(samples),
            {"label_key": "label.size"},
            "the key `label.size` of its JSON cannot",
        ),
        (change(samples, add=((f"{key}.cls", b"\xff"),)), {}, "its label cannot be read"),
        (change(samples), {"label": "txt"}, "has no label"),
    ):
        write(root / "0.tar", changed)
        with pytest.raises(ValueError, match=f"the samples of `mine` .*{sentence}"):
            read(root, **keys)
    write(root / "0.tar", change(samples, add=((f"{key}.left.png", b""),)))
    assert len(pairs(read(root, image="png"))) == 60


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"train": "a-{0..1}.tar"}, r"`dataset\.train` must name tar files .* is no `a-0\.tar`"),
        ({"val": "0.tar"}, "must have shards to train on"),
        ({"classes": "gone.txt"}, r"`dataset\.classes` must be a text file"),
        ({"root": "gone"}, r"`dataset\.root` must be a folder of tar files"),
    ],
)
def test_wrong_keys_are_answered_in_a_sentence(
    photos: Path, root: Path, keys: Any, sentence: str
) -> None:
    write(root / "0.tar", samples_of(photos))
    with pytest.raises(ValueError, match=sentence):
        webdataset(**{"name": "mine", "root": str(root)} | keys)


def test_links_are_never_followed(photos: Path, root: Path, caplog: Any) -> None:
    secret = root.parent / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    write(root / "0.tar", samples_of(photos))
    with tarfile.open(root / "0.tar", "a") as tar:
        for name, kind in (("crow/x.png", tarfile.SYMTYPE), ("crow/y.png", tarfile.LNKTYPE)):
            about = tarfile.TarInfo(name)
            about.type, about.linkname = kind, str(secret)
            tar.addfile(about)
    with caplog.at_level(logging.WARNING):
        dataset = read(root)
    assert len(pairs(dataset)) == 60
    assert str(secret) not in dataset.inputs.paths
    assert "2 links and other special members of tar files are not read" in caplog.text


@pytest.mark.parametrize("place", ["header", "member", "half a header", "end", "start"])
def test_a_damaged_shard_is_told_in_one_sentence(photos: Path, root: Path, place: str) -> None:
    path = root / "0.tar"
    write(path, samples_of(photos))
    data = path.read_bytes()
    shard = index(path)
    start, size = shard.spans[40]
    whole = {
        "header": data[: start - 512] + b"damage" + data[start - 506 :],
        "member": data[: start + size // 2],
        "half a header": data[: start - 300],
        "end": data[: start - 512],  # a sample is missing, and so is the mark of the end
        "start": b"damage" + data[6:],
    }[place]
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"`.*0\.tar` must be a whole tar file without compr"):
        read(root)


def test_the_index_is_kept_until_the_shard_changes(
    photos: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root / "0.tar", samples_of(photos))
    first = index(root / "0.tar")
    content = dict(member for sample in samples_of(photos) for member in sample)
    with (root / "0.tar").open("rb") as file:
        for name, (start, size) in zip(first.names, first.spans, strict=True):
            file.seek(start)
            assert file.read(size) == content[name]
    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "open", None)
        assert index(root / "0.tar") == first
    write(root / "0.tar", samples_of(photos)[:30])
    assert len(index(root / "0.tar").names) == 120


def test_names_that_two_shards_have_are_told_apart(photos: Path, root: Path) -> None:
    samples = samples_of(photos)
    plain = [[(f"{n % 20}.{name.split('.')[1]}", data) for name, data in sample]
             for n, sample in enumerate(samples)]  # fmt: skip
    for number in range(3):
        write(root / f"{number}.tar", plain[20 * number : 20 * number + 20])
    names = [name for name, _ in pairs(read(root))]
    assert len(set(names)) == 60
    assert any(name.endswith(" (2)") for name in names)
