"""The feature store: files, verification, resumption, and several processes."""

import errno
import json
import multiprocessing
import os
import shutil
import time

import numpy as np
import pytest

from ssl_transfer.features import FeatureStore, array_file, partial_array, summarise
from ssl_transfer.features.array_file import stamp_file
from ssl_transfer.features.partial_array import TooLarge
from ssl_transfer.system import distributed

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
KEY = {"k": 1}


def giving(rows, batch=3, seen=None):
    """Return what computes these rows in batches and lists the samples it was asked for."""

    def compute(indices):
        if seen is not None:
            seen.extend(indices.tolist())
        for start in range(0, len(indices), batch):
            picked = indices[start : start + batch]
            yield picked, rows[picked]

    return compute


def never(indices):
    pytest.fail("the array is intact")
    yield


def get(folder, compute=None, rows=ROWS, **options):
    return FeatureStore(folder, **options).get(KEY, len(rows), compute or giving(rows))[0]


def test_a_file_says_what_it_holds_and_numpy_reads_it(tmp_path):
    rows = get(tmp_path)
    path = FeatureStore(tmp_path).path(KEY)
    assert isinstance(rows, np.memmap)
    assert np.array_equal(np.load(path), ROWS)
    assert json.loads(path.read_bytes().splitlines()[-1])["k"] == 1
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name, stamp_file(path).name}


@pytest.mark.parametrize("harm", ["truncated", "flipped", "no header", "empty"])
def test_a_damaged_file_is_computed_again(tmp_path, harm, caplog):
    get(tmp_path)
    path = FeatureStore(tmp_path).path(KEY)
    content = bytearray(path.read_bytes())
    content[130] ^= 1  # in the data, behind the header of 128 bytes
    damaged = {
        "truncated": content[:150],
        "flipped": content,
        "no header": b"?" * 300,
        "empty": b"",
    }
    path.write_bytes(bytes(damaged[harm]))
    assert np.array_equal(get(tmp_path, giving(ROWS + 1)), ROWS + 1)
    assert "is damaged" in caplog.text
    assert np.array_equal(get(tmp_path, never), ROWS + 1)


def test_features_of_other_weights_under_this_name_are_not_trusted(tmp_path, caplog):
    store = FeatureStore(tmp_path)
    store.get(KEY, 4, giving(ROWS))
    store.get({"k": 2}, 4, giving(ROWS + 1))
    store.path({"k": 2}).replace(store.path(KEY))
    assert np.array_equal(get(tmp_path, giving(ROWS)), ROWS)
    assert "it holds other features (k)" in caplog.text


def test_contents_are_verified_once_per_file_and_again_when_in_doubt(tmp_path, monkeypatch):
    digests = []
    actual = array_file.digest_of
    for module in (array_file, partial_array):
        monkeypatch.setattr(
            module, "digest_of", lambda rows: digests.append(len(rows)) or actual(rows)
        )
    get(tmp_path)
    assert digests == [4]  # while it was written
    for _ in range(2):
        monkeypatch.setattr(array_file, "_known", {})  # another process
        get(tmp_path, never)
    assert digests == [4]
    monkeypatch.setattr(array_file, "_known", {})
    get(tmp_path, never, doubt=True)
    get(tmp_path, never, doubt=True)
    assert digests == [4, 4]  # once in this process
    os.utime(FeatureStore(tmp_path).path(KEY))
    get(tmp_path, never)
    assert digests == [4, 4, 4]


def test_a_full_disk_is_one_sentence_and_features_are_computed_without_it(
    tmp_path, monkeypatch, caplog
):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(partial_array.os, "fsync", full)
    rows = get(tmp_path)
    assert np.array_equal(rows, ROWS)
    assert not rows.flags.writeable
    (said,) = [record.getMessage() for record in caplog.records]
    assert "features are not kept" in said
    assert "No space left on device" in said
    assert "\n" not in said


def test_a_disk_that_is_too_small_is_refused_before_much_was_computed(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(partial_array.shutil, "disk_usage", lambda folder: usage)
    monkeypatch.setattr(partial_array, "available_bytes", lambda device: 40)
    seen = []
    with pytest.raises(TooLarge, match=r"features need .* GiB .* free some space"):
        get(tmp_path, giving(ROWS, batch=1, seen=seen))
    monkeypatch.setattr(partial_array, "available_bytes", lambda device: 2**20)
    assert np.array_equal(get(tmp_path), ROWS)


class Killed(BaseException):
    """What ends an extraction."""


def test_an_interrupted_extraction_goes_on_with_the_missing_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(partial_array, "SYNC_SECONDS", -1.0)
    rows = np.random.default_rng(0).normal(size=(10, 5)).astype(np.float32)

    def dies(indices):
        for number, batch in enumerate(giving(rows)(indices)):
            if number == 2:
                raise Killed
            yield batch

    with pytest.raises(Killed):
        get(tmp_path, dies, rows)
    seen = []
    assert np.array_equal(get(tmp_path, giving(rows, seen=seen), rows), rows)
    assert seen == [6, 7, 8, 9]


def test_rows_that_never_reached_the_disk_are_computed_again(tmp_path):
    rows = np.random.default_rng(0).normal(size=(10, 5)).astype(np.float32)
    folder = FeatureStore(tmp_path).path(KEY).with_suffix(".partial")
    partial = partial_array.PartialArray(folder, KEY, 10)
    folder.mkdir(parents=True)
    partial.fill(lambda indices: giving(rows)(indices[[0, 3, 4, 9]]))
    (folder / "rows.npy").write_bytes((folder / "rows.npy").read_bytes()[:200])
    (folder / "done").write_bytes(b"\1" + bytes(9))
    seen = []
    assert np.array_equal(get(tmp_path, giving(rows, seen=seen), rows), rows)
    assert seen == list(range(1, 10))


def _slowly(folder, started, queue):
    seen = []

    def compute(indices):
        started.set()
        time.sleep(0.7)
        yield from giving(ROWS, seen=seen)(indices)

    queue.put((np.array_equal(get(folder, compute), ROWS), len(seen)))


def test_of_two_runs_that_need_the_same_features_one_extracts_them(tmp_path):
    fork = multiprocessing.get_context("fork")
    started, queue = fork.Event(), fork.Queue()
    runs = [fork.Process(target=_slowly, args=(tmp_path, started, queue)) for _ in range(2)]
    runs[0].start()
    assert started.wait(30)
    runs[1].start()
    results = sorted(queue.get(timeout=60) for _ in runs)
    for run in runs:
        run.join(10)
    assert results == [(True, 0), (True, 4)]
    assert not list(tmp_path.glob("*.partial"))


def _share(folder, count):
    seen = []
    rows = np.random.default_rng(0).normal(size=(count, 5)).astype(np.float32)
    found = get(folder, giving(rows, seen=seen), rows)
    return np.array_equal(found, rows), seen, distributed.rank()


def test_each_of_two_processes_writes_its_share(tmp_path, gloo_pool):
    (first, mine, _), (second, other, _) = gloo_pool.run(_share, tmp_path, 11)
    assert first
    assert second
    assert sorted(mine + other) == list(range(11))
    assert min(len(mine), len(other)) == 5


def test_a_summary_of_parts_is_that_of_the_whole(monkeypatch):
    rows = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    rows[[3, 17], 1] = np.nan
    monkeypatch.setattr(array_file, "CHUNK_BYTES", 50)
    assert summarise(rows) == (40, 2, False, False, None)
    assert summarise(np.ones((40, 3))) == (40, 0, True, False, 1)
    assert summarise(np.zeros((40, 3))) == (40, 0, True, True, 0)
