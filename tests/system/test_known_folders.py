"""Folders of many images: what is looked at again, what is kept, and what is noticed when."""

import os
import pickle
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
from folders import fill, noise
from tiny_runs import tiny

from ssl_transfer.context import Context
from ssl_transfer.datasets.base import Dataset
from ssl_transfer.datasets.class_folders import imagenet
from ssl_transfer.datasets.decoded import decode_once, require_unchanged
from ssl_transfer.datasets.folder import image_folder
from ssl_transfer.datasets.loading import load
from ssl_transfer.datasets.transforms import Pipeline, ViewDataset
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.runs import preflight
from ssl_transfer.system import inputs, known_folders, stamps
from ssl_transfer.system.texts import Texts, joined, pieces


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def unchecked() -> Iterator[None]:
    """Check no types: that of a sequence of images is checked by decoding one at random."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that has been quiet for long enough, on a file system that is known."""
    monkeypatch.setattr(known_folders, "_QUIET_NS", -(10**18))
    monkeypatch.setattr(known_folders, "_filesystem", lambda device: "ext4")
    fill(tmp_path / "photos", 6)
    return tmp_path / "photos"


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of the files whose stamps are taken by listing folders."""
    names: list[str] = []
    take = known_folders._stamp

    def noted(path: str, name: str, errors: dict[str, str]) -> tuple[int, ...]:
        names.append(name)
        return take(path, name, errors)

    monkeypatch.setattr(known_folders, "_stamp", noted)
    return names


def mine(root: Path, **options: object) -> Dataset:
    return image_folder(name="mine", root=str(root), **options)


def first(dataset: Dataset) -> Path:
    """Return the file of the first training image."""
    return Path(image_of(dataset, 0))


def image_of(dataset: Dataset, index: int) -> str:
    images = dataset["train"].images
    while not hasattr(images, "paths"):
        index, images = int(images.indices[index]), images.images
    return images.paths[index]


def overwrite(path: Path) -> None:
    """Put another image of the same size into a file, with the old modification time."""
    before = path.stat()
    noise(f"another {path}").save(path)
    with path.open("ab") as file:
        file.write(b"\0" * max(0, before.st_size - path.stat().st_size))
    os.truncate(path, before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def pixels(dataset: Dataset) -> dict[str, bytes]:
    return {
        name: image.tobytes()
        for split in dataset.splits.values()
        for name, image in zip(split.names, split.images, strict=True)
    }


# ---- what is listed again ------------------------------------------------------------------------


def test_files_of_unchanged_folders_are_not_looked_at_again(
    photos: Path, looked_at: list[str]
) -> None:
    before = mine(photos)
    assert len(looked_at) == 12
    again = mine(photos)
    assert len(looked_at) == 12
    assert again.fingerprint == before.fingerprint
    assert again.inputs.identity == before.inputs.identity
    assert again.inputs.stamps == before.inputs.stamps
    assert pixels(again) == pixels(before)


def test_imagenet_is_listed_as_class_folders_are(photos: Path, looked_at: list[str]) -> None:
    root = photos.with_name("imagenet")
    for part in ("train", "val"):
        shutil.copytree(photos, root / part)
    fill(root / "val", 8)  # other images than those of train
    for path in root.glob("val/*/?.png"):
        overwrite(path)
    options = {"name": "imagenet", "root": str(root), "sizes": "warn"}
    before = imagenet(**options)
    assert len(looked_at) == 28
    assert imagenet(**options).fingerprint == before.fingerprint
    assert len(looked_at) == 28
    overwrite(first(before))
    with pytest.raises(OSError, match="changed in place"):
        batches(imagenet(**options), 0)
    assert imagenet(**options).fingerprint != before.fingerprint


def replaced(path: Path) -> None:
    """Put another file in a file's place, as ``rsync`` does."""
    copy = shutil.copy2(path.with_name("1.png"), path.with_name("x"))
    Path(copy).replace(path)


@pytest.mark.parametrize(
    "change",
    [
        replaced,
        Path.unlink,
        lambda path: shutil.copy(path, path.with_name("new.png")),
        lambda path: path.rename(path.with_name("renamed.png")),
    ],
)
def test_only_folders_with_other_times_are_listed_again(
    photos: Path, looked_at: list[str], change: Callable[[Path], object]
) -> None:
    before = mine(photos)
    looked_at.clear()
    change(photos / "ant" / "0.png")
    assert mine(photos).fingerprint != before.fingerprint
    assert 5 <= len(looked_at) <= 7


def test_what_times_do_not_prove_is_looked_at_each_time(
    photos: Path, looked_at: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = photos.parent / "elsewhere.png"
    noise("elsewhere").save(elsewhere)
    (photos / "ant" / "link.png").symlink_to(elsewhere)
    before = mine(photos)
    looked_at.clear()
    overwrite(elsewhere)
    assert mine(photos).fingerprint != before.fingerprint
    assert looked_at == ["link.png"]

    monkeypatch.setattr(known_folders, "_filesystem", lambda device: "fuse.s3fs")
    fill(photos, 7)
    for _ in range(2):
        looked_at.clear()
        mine(photos)
        assert len(looked_at) == 15


def test_a_folder_that_changed_just_now_is_not_kept(
    photos: Path, looked_at: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_folders, "_QUIET_NS", 10**12)
    for _ in range(2):
        looked_at.clear()
        mine(photos)
        assert len(looked_at) == 12
    past = time.time_ns() - 10**13
    status = stamps.of

    def long_ago(about: os.stat_result) -> stamps.Stamp:
        return status(about)._replace(modified=past, changed=past)

    monkeypatch.setattr(stamps, "of", long_ago)
    mine(photos)
    looked_at.clear()
    mine(photos)
    assert not looked_at


@pytest.mark.parametrize("cut", [0, 20, -3])
def test_a_damaged_list_is_made_again(photos: Path, looked_at: list[str], cut: int) -> None:
    before = mine(photos).fingerprint
    (kept,) = (photos.parent / "cache" / "ssl_transfer" / "folders").iterdir()
    kept.write_bytes(kept.read_bytes()[:cut])
    looked_at.clear()
    assert mine(photos).fingerprint == before
    assert len(looked_at) == 12
    mine(photos)
    assert len(looked_at) == 12


def test_force_looks_at_every_file(photos: Path, looked_at: list[str]) -> None:
    before = mine(photos)
    overwrite(first(before))
    looked_at.clear()
    with inputs.doubting():
        after = mine(photos)
    assert len(looked_at) == 12
    assert after.fingerprint != before.fingerprint


# ---- what is overwritten in place ----------------------------------------------------------------


def batches(dataset: Dataset, workers: int) -> None:
    data = ViewDataset(dataset["train"], [Pipeline(Preprocessing(size=4, resize=None))], 0)
    items = [[(0, index) for index in range(len(dataset["train"]))]]
    list(load(data, items, Context(Path(), Path(), workers=workers)))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_overwritten_in_place_is_noticed_when_it_is_read(photos: Path, workers: int) -> None:
    mine(photos)
    known = mine(photos)
    overwrite(first(known))
    stale = mine(photos)
    assert stale.fingerprint == known.fingerprint  # its folder has not changed
    with pytest.raises(OSError, match=rf"^`{first(known)}` must stay .* changed in place"):
        batches(stale, workers)
    anew = mine(photos)  # the same command again
    assert anew.fingerprint != known.fingerprint
    batches(anew, workers)


def test_it_is_noticed_before_stored_pixels_or_features_are_used(photos: Path) -> None:
    store = photos.parent / "store"
    known = decode_once(mine(photos), store)
    before = pixels(known)
    require_unchanged(known["train"].images)
    path = first(mine(photos))
    overwrite(path)
    stale = decode_once(mine(photos), store)
    with pytest.raises(OSError, match="changed in place"):
        require_unchanged(stale["train"].images)
    with pytest.raises(OSError, match="changed in place"):
        decode_once(stale, store)["train"].images[0]
    after = pixels(decode_once(mine(photos), store))
    name = f"{path.parent.name}/{path.name}"
    assert after.pop(name) != before.pop(name)
    assert after == before


def test_another_time_of_the_same_content_is_no_change(photos: Path) -> None:
    mine(photos)
    dataset = mine(photos)
    first(dataset).chmod(0o600)
    assert pixels(dataset)
    require_unchanged(dataset["train"].images)
    dataset = mine(photos, verify="off")  # where only the time is known
    first(dataset).chmod(0o644)
    with pytest.raises(OSError, match="changed in place"):
        pixels(dataset)
    assert pixels(mine(photos, verify="off"))


# ---- how much is verified ------------------------------------------------------------------------


def spoil_content(path: Path) -> None:
    """Damage an image behind its header."""
    noise(str(path)).resize((64, 64)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("verify", ["headers", "off"])
def test_a_corrupt_image_that_was_not_looked_for_is_named_when_it_is_needed(
    photos: Path, verify: str, workers: int
) -> None:
    spoil_content(photos / "ant" / "0.png")
    with pytest.raises(ValueError, match=r"1 of 12 do not: `\S+ant/0.png"):
        mine(photos)
    dataset = mine(photos, verify=verify, split_seed=1)
    assert dataset.facts["verify"] == verify
    index = list(dataset["train"].names).index("ant/0.png")
    assert index >= 0
    with pytest.raises(ValueError, match=r"^`\S+ant/0.png` must be an image that decodes"):
        batches(dataset, workers)


def test_headers_are_read_and_nothing_behind_them(photos: Path) -> None:
    (photos / "bee" / "0.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"1 of 12 do not: `\S+bee/0.png"):
        mine(photos, verify="headers")
    assert len(mine(photos, verify="off").splits) == 3


def test_sets_that_were_verified_less_share_no_features_with_others(photos: Path) -> None:
    prints = {verify: mine(photos, verify=verify).fingerprint for verify in ("full", "headers")}
    assert len(set(prints.values())) == 2
    copy = photos.parent / "copy"
    shutil.copytree(photos, copy)
    assert mine(copy).fingerprint == prints["full"]
    assert mine(copy, verify="off").fingerprint != mine(photos, verify="off").fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"verify": "some"}, r"verify` must be one of \['full', 'headers', 'off'\]"),
        ({"verify": "off", "on_corrupt": "skip"}, "must be full where `dataset.on_corrupt` is"),
        ({"verify": "headers", "on_duplicates": "drop"}, "full where `dataset.on_duplicates` is"),
    ],
)
def test_what_needs_all_bytes_is_refused_without_them(
    photos: Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        mine(photos, **options)


def test_a_submission_looks_at_no_image_where_nothing_is_verified(
    photos: Path, looked_at: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ["dataset=image_folder", f"dataset.root={photos}", "dataset.name=mine"]
    outputs = photos.parent / "outputs"
    run = tiny(outputs, *overrides, "dataset.verify=off", "protocol=knn", data=False, tuned=False)
    opened: list[str] = []
    monkeypatch.setattr("ssl_transfer.datasets.files.read_bytes", opened.append)
    for name in ("stamp", "of_file"):  # a stamp of a path, and the hash of its content
        look = getattr(stamps, name)
        monkeypatch.setattr(stamps, name, lambda path, look=look: opened.append(path) or look(path))
    assert preflight.check(run) is None
    assert not looked_at
    assert not [path for path in opened if path.endswith(".png")]


# ---- columns of texts ----------------------------------------------------------------------------


def test_texts_are_a_sequence_of_text() -> None:
    plain = ["a/ü.png", "b", "", "c\udcff", "dd/e"] * 2000
    table = Texts.of(plain, "root/")
    whole = [f"root/{text}" for text in plain]
    assert (len(table), list(table), table[1], table[-1]) == (10_000, whole, "root/b", "root/dd/e")
    assert table == whole
    assert whole == table
    assert table != whole[1:]
    assert list(table[1:9:2]) == whole[1:9:2]
    picked = np.array([3, 0, 9_999])
    assert table.pick(picked) == [whole[index] for index in picked]
    assert table.pick(picked).data is table.data
    assert pickle.loads(pickle.dumps(table)) == whole
    both = joined([table.pick(picked), Texts.of(["x"], "root/")])
    assert isinstance(both, Texts)
    assert both == [*(whole[index] for index in picked), "root/x"]
    splits = joined([Texts.of(["x"], "root/train/"), Texts.of(["y", "z"], "root/test/")])
    assert isinstance(splits, Texts)
    assert splits.prefix == "root/"
    assert list(splits) == ["root/train/x", "root/test/y", "root/test/z"]
    assert "".join(pieces(table, "|")) == "|".join(whole)
