"""Images decoded once are the images that the files hold, or are not used at all."""

import dataclasses
import multiprocessing
import os
import pickle
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
from PIL import Image
from tiny_runs import run_all, tiny

from ssl_transfer.datasets import Dataset, decoded
from ssl_transfer.datasets.base import Split, concatenate
from ssl_transfer.datasets.decoded import DATASET, DecodedImages, decode_once
from ssl_transfer.datasets.decoding import Decoding
from ssl_transfer.datasets.folder import image_folder
from ssl_transfer.datasets.images import CroppedImages, FileImages, SizedImages
from ssl_transfer.datasets.transforms import CROP_FLIP, Batch, Pipeline, ViewDataset
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.runs import builders, preflight

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of JPEG, PNG and grey files of different sizes, one of them lying."""
    generator = np.random.default_rng(0)
    root = tmp_path / "photos"
    for name in ("ant", "bee"):
        for number in range(10):
            path = root / name / f"{number}.{'jpg' if number % 2 else 'png'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            shape = (8 + number, 20 - number, 3) if number % 3 else (8 + number, 20 - number)
            image = Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8))
            exif = Image.Exif()
            exif[0x0112] = 6 if number == 1 else 1
            image.save(path, exif=exif)
    return root


def mine(root: Path) -> Dataset:
    return image_folder(name="mine", root=str(root))


def pixels(dataset: Dataset) -> list[bytes]:
    images = [image for split in dataset.splits.values() for image in split.images]
    assert {image.mode for image in images} == {"RGB"}
    return [repr(image.size).encode() + image.tobytes() for image in images]


def is_decoded(dataset: Dataset) -> bool:
    found = list(decoded.in_files(dataset["train"].images))
    return not found


def stores(folder: Path) -> list[Path]:
    return list(folder.rglob("pixels"))


def left_over(folder: Path) -> list[str]:
    names = [path.name for path in folder.rglob("*") if path.is_file()]
    return [name for name in names if name != "pixels" and not name.startswith(DATASET)]


def batch(dataset: Dataset) -> Batch:
    data = ViewDataset(dataset["train"], [Pipeline(Preprocessing(8, None), CROP_FLIP)], seed=3)
    return data.__getitems__([(epoch, index) for epoch in (0, 1) for index in range(len(data))])


# ---- equal ---------------------------------------------------------------------------------------


def test_batches_are_the_same_to_the_last_bit(tmp_path: Path, photos: Path) -> None:
    plain, once = mine(photos), decode_once(mine(photos), tmp_path / "store")
    assert is_decoded(once)
    assert not is_decoded(plain)
    expected, found = batch(plain), batch(once)
    assert found.views[0].equal(expected.views[0])
    assert found.targets.equal(expected.targets)
    assert pixels(once) == pixels(plain)
    assert (once.fingerprint, once.facts) == (plain.fingerprint, plain.facts)
    assert left_over(tmp_path / "store") == []


@pytest.mark.parametrize("padded", [False, True])
def test_images_cut_to_boxes_are_decoded_once_too(
    tmp_path: Path, photos: Path, padded: bool
) -> None:
    side = 100 if padded else 7  # larger than the images, or inside of them

    def cut(dataset: Dataset) -> Dataset:
        splits = {}
        for key, split in dataset.splits.items():
            boxes = np.tile([1, 2, side - 1, side], (len(split), 1))
            sizes = boxes[:, 2:] - boxes[:, :2]
            images = SizedImages(CroppedImages(split.images, boxes, padded=padded), sizes)
            splits[key] = dataclasses.replace(split, images=images)
        return dataclasses.replace(dataset, splits=splits)

    plain, once = cut(mine(photos)), decode_once(cut(mine(photos)), tmp_path / "store")
    assert is_decoded(once)
    assert once["train"].images[0].size == (side - 2, side - 2)
    assert pixels(once) == pixels(plain)


def test_the_store_is_read_instead_of_the_files(tmp_path: Path, photos: Path) -> None:
    expected = pixels(mine(photos))
    once = decode_once(mine(photos), tmp_path / "store")
    shutil.rmtree(photos)
    assert pixels(once) == expected


def test_a_worker_process_gets_the_path_and_not_the_pixels(tmp_path: Path, photos: Path) -> None:
    once = decode_once(mine(photos), tmp_path / "store")
    (store,) = stores(tmp_path / "store")
    sent = pickle.dumps(once["train"].images)
    assert len(sent) < store.stat().st_size
    assert [i.tobytes() for i in pickle.loads(sent)] == [i.tobytes() for i in once["train"].images]


def test_other_splits_of_the_same_files_share_a_store(tmp_path: Path, photos: Path) -> None:
    for seed in (0, 1):
        dataset = image_folder(name="mine", root=str(photos), split_seed=seed)
        assert is_decoded(decode_once(dataset, tmp_path / "store"))
    few = image_folder(name="mine", root=str(photos), labels_per_class=2)
    assert pixels(decode_once(few, tmp_path / "store")) == pixels(few)
    assert len(stores(tmp_path / "store")) == 1


def test_joined_splits_and_images_in_memory_keep_their_places(tmp_path: Path, photos: Path) -> None:
    dataset = mine(photos)
    memory = Split([Image.new("RGB", (4, 4), "red")], np.zeros(1, np.int64), ["red"])
    joined = concatenate(dataset["test"], memory, dataset["train"].subset([3, 1]))
    dataset = dataclasses.replace(dataset, splits={**dataset.splits, "train": joined})
    once = decode_once(dataset, tmp_path / "store")
    assert is_decoded(once)
    assert pixels(once) == pixels(dataset)


def test_upright_and_lying_images_of_one_file_are_different(tmp_path: Path, photos: Path) -> None:
    path = str(photos / "ant" / "1.jpg")
    splits = {
        key: Split(FileImages([path], Decoding(upright=upright)), np.zeros(1, np.int64), [key])
        for key, upright in (("train", True), ("test", False))
    }
    once = decode_once(dataclasses.replace(mine(photos), splits=splits), tmp_path / "store")
    assert is_decoded(once)
    assert (once["train"].images[0].size, once["test"].images[0].size) == ((9, 19), (19, 9))


# ---- when ----------------------------------------------------------------------------------------


def test_big_images_are_decoded_once_only_if_asked(tmp_path: Path, photos: Path) -> None:
    for path in photos.rglob("*.png"):
        Image.new("RGB", (200, 120), "blue").save(path)
    dataset = mine(photos)
    assert decode_once(dataset, tmp_path / "store") is dataset
    assert not (tmp_path / "store").exists()
    once = decode_once(dataset, tmp_path / "store", "always")
    assert is_decoded(once)
    assert pixels(once) == pixels(dataset)


def test_many_small_images_are_too_large_together(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = mine(photos)
    total = sum(3 * i.width * i.height for s in dataset.splits.values() for i in s.images)
    monkeypatch.setattr(decoded, "AUTO_BYTES", total - 1)
    assert decode_once(dataset, tmp_path / "store") is dataset
    monkeypatch.setattr(decoded, "AUTO_BYTES", total)
    assert is_decoded(decode_once(dataset, tmp_path / "store"))


def test_never_means_never(tmp_path: Path, photos: Path) -> None:
    dataset = mine(photos)
    assert decode_once(dataset, tmp_path / "store", "never") is dataset
    assert not (tmp_path / "store").exists()


def test_a_full_disk_is_left_alone(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    dataset = mine(photos)
    assert decode_once(dataset, tmp_path / "store") is dataset
    assert "1.00MB free" in caplog.text
    assert not stores(tmp_path / "store")
    assert not left_over(tmp_path / "store")


def test_a_folder_that_cannot_be_written_changes_nothing(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "store").write_text("a file")
    dataset = mine(photos)
    assert decode_once(dataset, tmp_path / "store") is dataset


# ---- out of date or broken -----------------------------------------------------------------------


def test_changed_files_get_another_store(tmp_path: Path, photos: Path) -> None:
    decode_once(mine(photos), tmp_path / "store")
    path = photos / "ant" / "2.png"
    before = path.stat()
    Image.new("RGB", (9, 9), "green").save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    once = decode_once(mine(photos), tmp_path / "store")
    assert pixels(once) == pixels(mine(photos))
    assert len(stores(tmp_path / "store")) == 2


def test_files_that_change_while_they_are_decoded_leave_no_store(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dataset, decode = mine(photos), decoded._decoded

    def changing(sources: Any) -> Any:
        os.utime(photos / "ant" / "2.png", ns=(1, 1))
        return decode(sources)

    monkeypatch.setattr(decoded, "_decoded", changing)
    assert decode_once(dataset, tmp_path / "store") is dataset
    assert "changed while" in caplog.text
    assert not stores(tmp_path / "store")
    assert not left_over(tmp_path / "store")


@pytest.mark.parametrize("cut", [0, 40, 200, -1])
def test_a_store_that_lacks_its_end_is_made_again(tmp_path: Path, photos: Path, cut: int) -> None:
    decode_once(mine(photos), tmp_path / "store")
    (store,) = stores(tmp_path / "store")
    whole = store.read_bytes()
    store.unlink()  # writing into it would change what is mapped
    store.write_bytes(whole[:cut])
    once = decode_once(mine(photos), tmp_path / "store")
    assert pixels(once) == pixels(mine(photos))
    assert store.read_bytes() == whole


@pytest.mark.parametrize("place", [-1, "table"])
def test_a_wrong_byte_is_noticed_and_the_file_decoded(
    tmp_path: Path, photos: Path, place: Any, caplog: pytest.LogCaptureFixture
) -> None:
    decode_once(mine(photos), tmp_path / "store")
    (store,) = stores(tmp_path / "store")
    content = bytearray(store.read_bytes())
    position = len(content) + place if place == -1 else content.index(b"\n") + 1
    content[position] ^= 1
    store.write_bytes(content)
    once = decode_once(mine(photos), tmp_path / "store")
    assert pixels(once) == pixels(mine(photos))
    assert "damaged" in caplog.text
    again = decode_once(mine(photos), tmp_path / "store")
    assert is_decoded(again)
    assert pixels(again) == pixels(mine(photos))


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Check no types: that of a sequence of images is checked by decoding one at random."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
def test_an_image_that_does_not_decode_is_named_when_it_is_needed(
    tmp_path: Path, photos: Path
) -> None:
    paths = [str(p) for p in sorted(photos.rglob("*.png"))]
    split = Split(FileImages(paths), np.zeros(len(paths), np.int64), paths)
    dataset = dataclasses.replace(mine(photos), splits={"train": split})
    Path(paths[1]).write_bytes(b"no image")  # after all have been looked at
    once = decode_once(dataset, tmp_path / "store")
    assert is_decoded(once)
    assert once["train"].images[0].tobytes() == split.images[0].tobytes()
    with pytest.raises(ValueError, match=paths[1]):
        once["train"].images[1]


# ---- several processes ---------------------------------------------------------------------------


def _decode(root: Path, folder: Path, slow: float) -> None:
    """Decode, with a trace of who really did; ``slow`` seconds go by before."""
    fill = decoded._fill

    def traced(*arguments: Any) -> None:
        (folder.parent / f"decoded_by_{os.getpid()}").touch()
        time.sleep(slow)
        fill(*arguments)

    decoded._fill = traced  # type: ignore[assignment] # in this child alone
    assert is_decoded(decode_once(mine(root), folder, progress_bar=False))


def test_of_several_processes_one_decodes(tmp_path: Path, photos: Path) -> None:
    folder = tmp_path / "store"
    children = [FORK.Process(target=_decode, args=(photos, folder, 0.5)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert len(list(tmp_path.glob("decoded_by_*"))) == 1
    assert left_over(folder) == []
    assert pixels(decode_once(mine(photos), folder)) == pixels(mine(photos))


def test_what_a_killed_process_leaves_is_cleared_away(tmp_path: Path, photos: Path) -> None:
    folder = tmp_path / "store"
    child = FORK.Process(target=_decode, args=(photos, folder, 60.0))
    child.start()
    end = time.monotonic() + 20
    while not any(name.endswith(".tmp") and "pixels" in name for name in left_over(folder)):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert stores(folder) == []
    assert "claim.json" in left_over(folder)
    once = decode_once(mine(photos), folder)
    assert is_decoded(once)
    assert pixels(once) == pixels(mine(photos))
    assert left_over(folder) == []


# ---- in a run ------------------------------------------------------------------------------------


def test_a_run_has_the_same_id_and_scores_with_and_without(tmp_path: Path, photos: Path) -> None:
    data = ["dataset=image_folder", f"dataset.root={photos}", "protocol=linear_probe"]
    tuning = ["protocol.epochs=1", "protocol.batch_size=4", "protocol.grid.lr=[0.1]"]
    found = []
    for choice in ("never", "auto"):
        keys = [*data, *tuning, f"trainer.decode_once={choice}"]
        run = tiny(tmp_path / choice, *keys, tuned=False, data=False)
        assert preflight.check(run) is None
        assert not (tmp_path / choice / "decoded").exists()  # a submission decodes nothing
        assert run_all(run).failures == {}
        record = run.record()
        found.append((run.id, record["scores"], record["data"]))
        assert is_decoded(builders.dataset_of(run, stage=True)) == (choice == "auto")
        assert len(stores(tmp_path / choice / "decoded")) == (choice == "auto")
    assert found[0] == found[1]


def test_pixels_lie_on_the_nodes_own_disk_where_the_copy_does(tmp_path: Path, photos: Path) -> None:
    place = tmp_path / "disk"
    keys = ["dataset=image_folder", f"dataset.root={photos}", f"paths.stage={place}"]
    run = tiny(tmp_path, "protocol=knn", *keys, tuned=False, data=False)
    dataset = builders.dataset_of(run, stage=True)
    assert stores(tmp_path) == stores(place / "ssl_transfer" / "decoded")
    assert pixels(dataset) == pixels(mine(photos))
    images: Any = dataset["train"].images
    while not isinstance(images, DecodedImages):
        images = images.images
    assert [images.store] == stores(tmp_path)
    # The key is that of the source: who reads that finds the same store.
    assert is_decoded(decode_once(mine(photos), place / "ssl_transfer" / "decoded"))
    assert [images.store] == stores(tmp_path)


def test_a_wrong_choice_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    from ssl_transfer.runs.signature import problems

    (found,) = problems(tiny(tmp_path, "trainer.decode_once=maybe").config)
    assert found == (
        "`trainer.decode_once` must be one of ['auto', 'always', 'never'], but is 'maybe'."
    )
