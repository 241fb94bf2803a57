"""Copies on a node's own disk change where a run reads, and nothing else."""

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny_runs import run_all, tiny

from ssl_transfer import datasets, runs
from ssl_transfer.datasets import files
from ssl_transfer.runs import builders, preflight
from ssl_transfer.system import signals, staging

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(staging, "_copies", {})
    builders.read.cache_clear()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for target, name in enumerate(("ant", "bee")):
        for number in range(10):
            path = root / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (200 * target, 20 * number, 0)).save(path)
    return root


def node(root: Path, **keys: Any) -> dict[str, Any]:
    target = "ssl_transfer.datasets.folder.image_folder"
    return {"_target_": target, "name": "mine", "root": str(root), **keys}


def stage(root: Path, place: Path, **keys: Any) -> Path:
    return Path(staging.staged(node(root, **keys), str(place))["root"])


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    found = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in found}


def whatever_is_left(place: Path) -> list[str]:
    return [p.name for p in place.rglob("*") if p.name.startswith(".") or p.name == "claim.json"]


def spied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the roots that datasets are read from, as they come."""
    roots: list[str] = []
    build = datasets.build

    def noting(config: dict[str, Any]) -> datasets.Dataset:
        dataset = build(config)
        roots.append(config["root"])
        return dataset

    monkeypatch.setattr(datasets, "build", noting)
    return roots


def what_counts(run: runs.Run) -> dict[str, Any]:
    record = run.record()
    for key in ("started", "duration_s"):
        del record[key]
    paths = record["config"].pop("paths")
    assert paths["data"] == "${oc.env:SSL_TRANSFER_DATA,data}"
    del record["overrides"]["paths"]
    # A pre-trained encoder lies in the output folder of its own run; `weights_sha256` is compared.
    record["inputs"].pop("weights", None)
    return record


# ---- records ------------------------------------------------------------------------------------


def test_a_record_is_the_same_wherever_its_images_were_read(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = spied(monkeypatch)
    data = ["dataset=image_folder", f"dataset.root={photos}", "protocol=linear_probe"]
    method = ["method=supervised", "method.epochs=1", "method.warmup_epochs=0"]
    method += ["dataset@method.pretrain_on=image_folder", f"method.pretrain_on.root={photos}"]
    method += ["method.batch_size=4", "method.pretrain_on.name=mine"]
    tuning = ["protocol.epochs=1", "protocol.batch_size=4", "protocol.grid.lr=[0.1]"]
    place = tmp_path / "disk"
    read, records = {}, {}
    for key, staging_keys in (("source", []), ("copy", [f"paths.stage={place}"])):
        builders.read.cache_clear()
        run = tiny(tmp_path / key, *data, *method, *tuning, *staging_keys, tuned=False, data=False)
        roots.clear()
        assert preflight.check(run) is None
        assert set(roots) == {str(photos)}
        assert not place.exists()  # a submission looks at the source
        roots.clear()
        assert run_all(run).failures == {}
        read[key], (pretraining,) = set(roots), run.requirements
        records[key] = [what_counts(pretraining), what_counts(run)]
    assert records["copy"] == records["source"]
    assert read["source"] == {str(photos)}
    (copy,) = place.glob("ssl_transfer/*/photos")  # one for both nodes of the configuration
    assert read["copy"] == {str(photos), str(copy)}
    assert content(copy) == content(photos)
    assert whatever_is_left(place) == []


def test_the_images_that_a_run_trains_on_lie_in_the_copy(tmp_path: Path, photos: Path) -> None:
    keys = ["dataset=image_folder", f"dataset.root={photos}", f"paths.stage={tmp_path / 'disk'}"]
    run = tiny(tmp_path, "protocol=knn", *keys, tuned=False, data=False)
    plain = builders.dataset_of(run)
    copied = builders.dataset_of(run, stage=True)
    shutil.rmtree(photos)
    assert copied["train"].images[0].size == (8, 8)
    with pytest.raises(ValueError, match="No such file"):
        plain["train"].images[0]
    assert (copied.fingerprint, copied.facts) == (plain.fingerprint, plain.facts)


def test_a_configuration_from_before_there_was_a_stage_is_carried_out(tmp_path: Path) -> None:
    config = tiny(tmp_path, "protocol=knn", tuned=False).config
    del config["paths"]["stage"], config["paths"]["group_writable"]
    assert run_all(runs.Run(config)).failures == {}


def test_neither_key_enters_a_runs_identity(tmp_path: Path) -> None:
    keys = [f"paths.stage={tmp_path}", "paths.group_writable=true"]
    assert tiny(tmp_path, *keys).id == tiny(tmp_path).id


def test_the_images_are_not_looked_at_again_in_the_copy(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets.build(node(photos))
    monkeypatch.setattr(files, "_look", lambda path, **_: pytest.fail(f"{path} was looked at"))
    copy = datasets.build(staging.staged(node(photos), str(tmp_path / "disk")))
    assert len(copy["train"]) > 0


# ---- what is copied -----------------------------------------------------------------------------


def test_a_changed_dataset_is_copied_anew_and_an_unchanged_one_is_not(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = stage(photos, tmp_path / "disk")
    shutil.copy(photos / "ant" / "0.png", photos / "bee" / "10.png")
    second = stage(photos, tmp_path / "disk")
    assert first != second
    assert content(second) == content(photos)
    monkeypatch.setattr(staging, "_fill", lambda *a, **k: pytest.fail("copied again"))
    assert stage(photos, tmp_path / "disk") == second


@pytest.mark.parametrize("harm", [lambda p: p.unlink(), lambda p: p.write_bytes(b"")])
def test_a_copy_that_a_clean_up_or_a_crash_bit_into_is_made_again(
    tmp_path: Path, photos: Path, harm: Callable[[Path], object]
) -> None:
    copy = stage(photos, tmp_path / "disk")
    harm(copy / "bee" / "3.png")
    assert stage(photos, tmp_path / "disk") == copy
    assert content(copy) == content(photos)
    assert whatever_is_left(tmp_path / "disk") == []


def test_links_lead_in_the_copy_to_what_they_led_to(tmp_path: Path, photos: Path) -> None:
    outside = tmp_path / "outside"
    shutil.copytree(photos / "bee", outside / "deep")
    (photos / "cat").symlink_to(outside)
    (photos / "dog").mkdir()
    (photos / "dog" / "0.png").symlink_to(outside / "deep" / "0.png")
    (photos / "dog" / "round").symlink_to(photos)
    (photos / "dog" / "nowhere").symlink_to(tmp_path / "missing")
    copy = stage(photos, tmp_path / "disk")
    shutil.rmtree(outside)
    assert (copy / "cat" / "deep" / "0.png").read_bytes() == (copy / "bee" / "0.png").read_bytes()
    assert (copy / "dog" / "0.png").samefile(copy / "cat" / "deep" / "0.png")
    assert (copy / "dog" / "round").samefile(copy)
    assert sorted(p.name for p in (copy / "dog").iterdir()) == ["0.png", "round"]


def test_a_root_that_is_a_file_is_copied(tmp_path: Path) -> None:
    archive = tmp_path / "images.bin"
    archive.write_bytes(b"x" * 100)
    copy = stage(archive, tmp_path / "disk")
    assert copy.name == "images.bin"
    assert copy.read_bytes() == b"x" * 100


def test_what_has_no_root_or_lies_on_the_stage_is_left_alone(tmp_path: Path, photos: Path) -> None:
    bare = {"_target_": "ssl_transfer.datasets.embedded.digits", "name": "digits"}
    assert staging.staged(bare, str(tmp_path / "disk")) == bare
    missing = node(tmp_path / "missing")
    assert staging.staged(missing, str(tmp_path / "disk")) == missing
    assert not (tmp_path / "disk").exists()
    assert stage(photos, tmp_path) == photos


def test_a_copy_fetches_nothing_from_the_network(tmp_path: Path, photos: Path) -> None:
    copied = staging.staged(node(photos, download=True), str(tmp_path / "disk"))
    assert copied["download"] is False


def test_data_that_refer_to_something_outside_of_their_root_are_read_where_they_lie(
    tmp_path: Path, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    for key, numbers in (("train", range(7)), ("test", range(7, 10))):
        rows = [f"{c}/{n}.png {t}" for t, c in enumerate(("ant", "bee")) for n in numbers]
        (lists / f"{key}.txt").write_text("\n".join(rows))
    keys = ["dataset=image_list", f"dataset.root={lists}", "dataset.images=../photos"]
    keys += [f"paths.stage={tmp_path / 'disk'}"]
    run = tiny(tmp_path, "protocol=knn", *keys, tuned=False, data=False)
    dataset = builders.dataset_of(run, stage=True)
    assert dataset.fingerprint == builders.dataset_of(run).fingerprint
    assert "is read from its original folder, because its copy cannot be used" in caplog.text


def test_a_problem_of_the_data_names_their_source(tmp_path: Path, photos: Path) -> None:
    (photos / "ant" / "0.png").write_bytes(b"no image")
    keys = ["dataset=image_folder", f"dataset.root={photos}", f"paths.stage={tmp_path / 'disk'}"]
    run = tiny(tmp_path, "protocol=knn", *keys, tuned=False, data=False)
    with pytest.raises(ValueError, match="every image of") as caught:
        builders.dataset_of(run, stage=True)
    assert str(photos / "ant" / "0.png") in str(caught.value)


# ---- several processes, and accidents -----------------------------------------------------------


def slowly(monkeypatch: pytest.MonkeyPatch, copies: Any) -> None:
    fill = staging._fill

    def noting(*arguments: Any, **keys: Any) -> None:
        copies.put(os.getpid())
        FORK.Event().wait(0.3)
        fill(*arguments, **keys)

    monkeypatch.setattr(staging, "_fill", noting)


@pytest.mark.parametrize("job", [None, "12"])
def test_of_several_processes_even_of_one_job_one_copies(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, job: str | None
) -> None:
    if job:
        monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
        monkeypatch.setenv("SLURM_JOB_ID", job)
    copies, found = FORK.Queue(), FORK.Queue()
    slowly(monkeypatch, copies)

    def work() -> None:
        copy = stage(photos, tmp_path / "disk")
        found.put((str(copy), len(content(copy))))

    workers = [FORK.Process(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    answers = {found.get(timeout=30) for _ in workers}
    for worker in workers:
        worker.join()
    ((_, files_seen),) = answers
    assert files_seen == 20
    copies.get(timeout=5)
    assert copies.empty()
    assert whatever_is_left(tmp_path / "disk") == []


def test_a_copy_whose_process_was_killed_is_never_taken_for_whole(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_file = staging._copy_file

    def killed(source: Path, target: Path, *others: Any) -> None:
        if source.name == "7.png":
            os._exit(9)
        copy_file(source, target, *others)

    with monkeypatch.context() as patch:
        patch.setattr(staging, "_copy_file", killed)
        victim = FORK.Process(target=stage, args=(photos, tmp_path / "disk"))
        victim.start()
        victim.join()
    assert victim.exitcode == 9
    assert set(whatever_is_left(tmp_path / "disk")) > {"claim.json"}
    assert list((tmp_path / "disk").glob("ssl_transfer/*/photos")) == []
    copy = stage(photos, tmp_path / "disk")
    assert content(copy) == content(photos)
    assert whatever_is_left(tmp_path / "disk") == []


def test_what_cannot_be_copied_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(staging, "_copy_file", full)
    with pytest.raises(OSError, match=r"but copying failed .*No space left.* set paths.stage=null"):
        stage(photos, tmp_path / "disk")
    assert [p for p in (tmp_path / "disk").rglob("*") if p.is_file()] == []
    assert whatever_is_left(tmp_path / "disk") == []


def test_a_signal_stops_a_copy_soon_and_leaves_nothing(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "CHUNK", 1)
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")  # whose claims on runs outlive a signal
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    (photos / "bee" / "large.bin").write_bytes(bytes(20_000_000))  # a minute, byte by byte
    sent: list[float] = []  # in processor time, which other programs do not lengthen

    def send() -> None:
        sent.append(time.process_time())
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Timer(0.5, send).start()
    with pytest.raises(signals.Interrupted), signals.stoppable():
        stage(photos, tmp_path / "disk")
    assert time.process_time() - sent[0] < 2
    assert [p for p in (tmp_path / "disk").rglob("*") if p.is_file()] == []
    assert whatever_is_left(tmp_path / "disk") == []


def test_a_file_that_changes_while_it_is_copied_is_noticed(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = staging.look(photos)
    monkeypatch.setattr(staging, "look", lambda source: tree)
    (photos / "ant" / "0.png").write_bytes(b"something else")
    with pytest.raises(OSError, match=r"`.*ant/0.png` changed while"):
        stage(photos, tmp_path / "disk")


def test_too_little_space_is_told_before_anything_is_copied_and_sticks_to_nothing(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ["dataset=image_folder", f"dataset.root={photos}", f"paths.stage={tmp_path / 'disk'}"]
    run = tiny(tmp_path, "protocol=knn", *keys, tuned=False, data=False)
    with monkeypatch.context() as patch:
        patch.setattr(staging, "_fill", lambda *a, **k: pytest.fail("copied"))
        usage = types.SimpleNamespace(free=50_000)
        patch.setattr(staging.shutil, "disk_usage", lambda folder: usage)
        (told,) = run_all(run).failures.values()
    # 20 files and 3 folders, at least 4 KiB each.
    assert told == (
        f"`paths.stage` must have room for `{photos}` (94.2kB), but the disk of "
        f"`{tmp_path / 'disk' / 'ssl_transfer'}` has 50.0kB free; remove older copies there, "
        "choose a larger disk, or set paths.stage=null."
    )
    assert json.loads((run.folder / "failure.json").read_text())["stage"] == "check"
    assert run_all(run).failures == {}  # without retry=true


def test_a_stage_inside_of_the_data_is_refused(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(OSError, match="must not lie inside the data"):
        stage(photos, photos / "ant")
