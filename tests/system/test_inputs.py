"""A score belongs to the files that were read: what counts as a change, and what does not."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_runs import run_all, tiny

from launchers import currency
from ssl_transfer import datasets
from ssl_transfer.context import Context
from ssl_transfer.datasets.base import Dataset
from ssl_transfer.datasets.decoded import decode_once
from ssl_transfer.datasets.folder import image_folder
from ssl_transfer.datasets.lists import image_list
from ssl_transfer.runs import builders
from ssl_transfer.system import inputs, manifests, stamps
from ssl_transfer.system.inputs import Inputs
from ssl_transfer.system.manifests import Comparer, Comparison


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    chance = np.random.default_rng(0)
    for name in ("ant", "bee"):
        for number in range(6):
            path = root / name / f"{number}.bmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(chance.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(path)
    return root


def mine(root: Path) -> Dataset:
    return image_folder(name="mine", root=str(root))


def kept(root: Path) -> str:
    """Keep the inputs of the data set as a run does."""
    outputs = root.parent / "outputs"
    return manifests.save(mine(root).inputs, outputs)


def compared(root: Path, identity: str) -> Comparison:
    return Comparer(root.parent / "outputs").compare(identity)


def swap(first: Path, second: Path) -> None:
    """Exchange the contents of two files of one size, and hide it as ``cp -p`` would."""
    contents, times = [], []
    for path in (first, second):
        contents.append(path.read_bytes())
        times.append(path.stat())
    assert len(contents[0]) == len(contents[1])
    for path, content, time in zip((first, second), reversed(contents), times, strict=True):
        path.write_bytes(content)
        os.utime(path, ns=(time.st_atime_ns, time.st_mtime_ns))


# ---- what is a change ----------------------------------------------------------------------------


def test_files_as_they_were_are_current_without_being_read(photos: Path, monkeypatch) -> None:
    identity = kept(photos)
    monkeypatch.setattr(stamps, "of_file", lambda path: pytest.fail("read"))
    assert compared(photos, identity) == Comparison()


@pytest.mark.parametrize(("most", "looks"), [(100, 1), (0, 2)])
def test_a_file_of_two_lists_is_looked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, looks: int
) -> None:
    shared, identities = tmp_path / "shared.txt", []
    for name in ("a", "b"):
        own = tmp_path / name
        for path in (shared, own):
            path.write_text("text")
        with inputs.collected() as listed:
            inputs.note_file(shared)
            inputs.note_file(own)
        identities.append(manifests.save(listed, tmp_path / "outputs"))
    looked, of = [], os.stat
    monkeypatch.setattr(manifests, "MOST_SEEN", most)
    monkeypatch.setattr(
        os, "stat", lambda path, **keys: looked.append(str(path)) or of(path, **keys)
    )
    comparer = Comparer(tmp_path / "outputs")
    assert [comparer.compare(identity).changed for identity in identities] == [[], []]
    assert looked.count(str(shared)) == looks


def restored(root: Path) -> None:
    away = root.with_name("away")
    shutil.copytree(root, away)
    shutil.rmtree(root)
    shutil.copytree(away, root)


@pytest.mark.parametrize(
    "touch",
    [
        restored,
        lambda root: [path.chmod(0o600) for path in root.rglob("*.bmp")],
        lambda root: os.utime(root / "ant" / "0.bmp", ns=(1, 1)),
        lambda root: (root / "ant" / "Thumbs.db").write_bytes(b"x"),
        lambda root: (root / "ant" / ".hidden.bmp").write_bytes(b"x"),
        lambda root: shutil.copytree(root / "ant", root / "@eaDir"),
    ],
)
def test_what_leaves_the_samples_as_they_were_is_no_change(
    photos: Path, touch: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = kept(photos)
    before = mine(photos).fingerprint
    touch(photos)
    assert not compared(photos, identity).stale
    assert mine(photos).fingerprint == before
    # The new stamps were kept: nothing is read a second time.
    monkeypatch.setattr(stamps, "of_file", lambda path: pytest.fail("read again"))
    assert not compared(photos, identity).stale


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda root: swap(root / "ant" / "0.bmp", root / "bee" / "0.bmp"), "2 changed"),
        (lambda root: shutil.copy(root / "ant" / "0.bmp", root / "ant" / "new.bmp"), "1 changed"),
        (lambda root: shutil.copytree(root / "ant", root / "cat"), "1 changed"),
        (lambda root: (root / "ant" / "0.bmp").unlink(), "1 changed, 1 gone"),
        (lambda root: (root / "ant").rename(root / "ape"), "gone"),
    ],
)
def test_another_content_is_a_change(
    photos: Path, change: Callable[[Path], object], told: str
) -> None:
    identity = kept(photos)
    change(photos)
    comparison = compared(photos, identity)
    assert comparison.stale
    assert told in comparison.describe()


def test_data_that_cannot_be_reached_are_not_compared(photos: Path) -> None:
    identity = kept(photos)
    photos.rename(photos.with_name("elsewhere"))
    assert compared(photos, identity) == Comparison(unreachable=True)
    photos.mkdir()  # where nothing is mounted
    assert compared(photos, identity) == Comparison(unreachable=True)
    photos.rmdir()
    photos.with_name("elsewhere").rename(photos)
    assert compared(photos, identity) == Comparison()


@pytest.mark.parametrize("cut", [0, 30, -4])
def test_a_damaged_or_lost_list_is_not_compared(photos: Path, cut: int) -> None:
    identity = kept(photos)
    path = photos.parent / "outputs" / "inputs" / identity
    path.write_bytes(path.read_bytes()[:cut])
    assert compared(photos, identity).unreachable
    assert kept(photos) == identity  # a later run on the same data heals it
    assert compared(photos, identity) == Comparison()
    path.unlink()
    assert compared(photos, identity).unreachable


def test_what_lies_in_the_outputs_may_be_moved_with_them(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    weights = outputs / "pretrain" / "one" / "encoder.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"tensors")
    with inputs.collected() as found:
        inputs.note_file(weights)
    identity = manifests.save(found, outputs)
    moved = outputs.rename(tmp_path / "moved")
    assert Comparer(moved).compare(identity) == Comparison()
    (moved / "pretrain" / "one" / "encoder.safetensors").write_bytes(b"others!")
    assert Comparer(moved).compare(identity).changed


def test_stamps_of_a_list_survive_the_file(tmp_path: Path) -> None:
    listed = Inputs()
    listed.add("/data/ü \udcff.png", stamps.Stamp(3, -1, 2**62, 2**63 - 1), b"d" * 16)
    listed.add("/data", stamps.Stamp(1, 2, 3, 4), b"e" * 16, (".png", ".jpg"))
    again = manifests.load(manifests.save(listed, tmp_path), tmp_path)
    assert again is not None
    assert (again.paths, again.stamps, again.rules) == (listed.paths, listed.stamps, listed.rules)
    assert again.digests == listed.digests
    assert again.identity == listed.identity


# ---- who reads what ------------------------------------------------------------------------------


def test_annotations_are_inputs(photos: Path, tmp_path: Path) -> None:
    lines = [f"{name}/{number}.bmp {label}" for label, name in enumerate(("ant", "bee"))
             for number in range(6)]  # fmt: skip
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train.txt").write_text("\n".join(lines[:5] + lines[6:11]))
    (lists / "test.txt").write_text("\n".join(lines[5:6] + lines[11:]))
    keys = {key: str(lists / f"{key}.txt") for key in ("train", "test")}
    found = image_list(name="it", root=str(photos), **keys).inputs
    assert {*keys.values(), str(photos / "ant" / "0.bmp")} <= set(found.paths)


def own(root: str, name: str) -> Dataset:
    """Stand for a user's reader, which knows nothing of inputs."""
    table = np.loadtxt(Path(root) / "labels.csv", delimiter=",")
    dataset = image_folder(name=name, root=str(Path(root) / "photos"))
    assert len(table) == 2
    return dataset


def test_what_a_users_reader_opens_below_its_root_is_an_input(photos: Path) -> None:
    root = photos.parent
    (root / "labels.csv").write_text("1,2\n3,4\n")
    node = {"_target_": f"{__name__}.own", "root": str(root), "name": "own"}
    found = datasets.build(node).inputs
    assert str(root / "labels.csv") in found.paths
    assert str(photos / "ant" / "0.bmp") in found.paths
    assert len(set(found.paths)) > 12


def test_a_file_that_would_be_read_if_it_were_there_is_an_input(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("x")
    with inputs.collected() as found:
        assert not inputs.is_file(tmp_path / "train_labeled.txt")
        assert inputs.is_file(tmp_path / "train.txt")
    identity = manifests.save(found, tmp_path / "outputs")
    assert Comparer(tmp_path / "outputs").compare(identity) == Comparison()
    (tmp_path / "train_labeled.txt").write_text("y")
    assert Comparer(tmp_path / "outputs").compare(identity).changed


# ---- pixels and verdicts -------------------------------------------------------------------------


def pixels(dataset: Dataset) -> dict[str, bytes]:
    return {
        name: image.tobytes()
        for split in dataset.splits.values()
        for name, image in zip(split.names, split.images, strict=True)
    }


def test_files_replaced_by_others_of_equal_size_and_time_get_their_own_pixels(
    photos: Path, tmp_path: Path
) -> None:
    before = mine(photos)
    first = pixels(decode_once(before, tmp_path / "store"))
    swap(photos / "ant" / "0.bmp", photos / "bee" / "0.bmp")
    after = mine(photos)
    second = pixels(decode_once(after, tmp_path / "store"))
    assert after.fingerprint != before.fingerprint
    assert second["ant/0.bmp"] == first["bee/0.bmp"] != first["ant/0.bmp"]


def test_copies_of_the_same_files_share_a_store(photos: Path, tmp_path: Path) -> None:
    decode_once(mine(photos), tmp_path / "store")
    shutil.copytree(photos, tmp_path / "copy" / "photos")
    decode_once(mine(tmp_path / "copy" / "photos"), tmp_path / "store")
    assert len(list((tmp_path / "store").rglob("pixels"))) == 1


def test_contents_are_read_again_where_stamps_deceive(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system without ``ctime`` and numbers, with ``force=true``."""
    monkeypatch.setattr(
        stamps, "of", lambda about: stamps.Stamp(about.st_size, about.st_mtime_ns, 0, 0)
    )
    before = mine(photos)
    old = pixels(decode_once(before, tmp_path / "store"))
    swap(photos / "ant" / "0.bmp", photos / "bee" / "0.bmp")
    assert mine(photos).fingerprint == before.fingerprint
    with inputs.doubting():
        after = mine(photos)
    assert after.fingerprint != before.fingerprint
    found = pixels(decode_once(after, tmp_path / "store"))
    assert found["ant/0.bmp"] == old["bee/0.bmp"]
    assert mine(photos).fingerprint == after.fingerprint  # the new verdict was kept


# ---- runs ----------------------------------------------------------------------------------------


def test_a_finished_run_on_changed_data_is_said_and_force_computes_it_again(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ["protocol=knn", "protocol.k=1", "dataset=image_folder", f"dataset.root={photos}"]

    def asked(*more: str):
        return tiny(tmp_path / "out", *keys, *more, tuned=False, data=False)

    assert not run_all(asked()).failures
    record = asked().record()
    assert set(record["inputs"]) == {"data"}
    assert record["inputs"]["data"]["files"] >= 12
    assert not currency.complaints([asked()])
    capsys.readouterr()
    swap(photos / "ant" / "0.bmp", photos / "bee" / "0.bmp")
    assert run_all(asked()).computed == 0
    told = capsys.readouterr().err
    assert told.startswith(
        "warning: data changed since knn of small_resnet on image_folder, seed 0"
    )
    assert "2 changed, first" in told
    assert told.count("\n") == 1
    builders.read.cache_clear()  # as in another process
    builders._decoded.cache_clear()
    assert run_all(asked("force=true")).computed == 1
    again = asked().record()
    assert again["data"]["fingerprint"] != record["data"]["fingerprint"]
    capsys.readouterr()
    run_all(asked())
    assert capsys.readouterr().err == ""


def test_a_reused_pre_training_on_changed_data_is_said(photos: Path, tmp_path: Path) -> None:
    chance = np.random.default_rng(1)
    for name in ("ant", "bee"):
        for number in range(10, 30):
            picture = chance.integers(0, 256, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(picture).save(photos / name / f"{number}.bmp")
    keys = ["protocol=knn", "method=supervised", "method.epochs=1", "method.warmup_epochs=0"]
    keys += ["dataset@method.pretrain_on=image_folder", f"method.pretrain_on.root={photos}"]
    run = tiny(tmp_path / "out", *keys, "method.batch_size=16", "model.width=8", tuned=False)
    assert not run_all(run).failures
    (pretraining,) = run.requirements
    assert set(run.record()["inputs"]) == {"weights"}
    assert not currency.complaints([pretraining, run])
    (photos / "ant" / "0.bmp").unlink()
    told = " ".join(currency.complaints([pretraining, run]))
    assert told.startswith("data changed since pretrain of small_resnet-supervised")
    (tmp_path / "other").write_bytes(b"another one's")
    (tmp_path / "other").replace(pretraining.folder / "encoder.safetensors")
    told = " ".join(currency.complaints([run]))
    assert told.startswith("weights changed since knn of small_resnet-supervised")


def test_progress_of_other_data_is_computed_anew(tmp_path: Path) -> None:
    def context(started_from: str) -> Context:
        return Context(tmp_path, tmp_path / "features", run_id="a", inputs=started_from)

    assert context("old").once("step", lambda: 1) == 1
    assert context("old").once("step", lambda: 2) == 1
    assert context("new").once("step", lambda: 2) == 2
