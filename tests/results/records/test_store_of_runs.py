"""Records of many folders: each run once, contradictions named, documents read when needed."""

import json
import random
import shutil
import zlib
from pathlib import Path
from typing import Any

import pytest

from results import ResultsError, read
from results.records import store
from results.records.descriptions import Run, run_of
from results.records.finished_records import FinishedRecords
from results.records.store import load_document
from ssl_transfer.system.files import write_json


def copied(folder: Path, outputs: Path, **changes: object) -> Path:
    """Copy a run's folder to another outputs folder, with changes in its record."""
    target = outputs / folder.parent.name / folder.name
    shutil.copytree(folder, target)
    record = json.loads((target / "record.json").read_text())
    (target / "record.json").write_text(json.dumps(record | changes))
    return target


def test_a_copy_of_a_run_counts_once_without_a_complaint(
    write, outputs: Path, tmp_path: Path
) -> None:
    copied(write(), tmp_path / "other")
    results = read([outputs, tmp_path / "other"])
    assert len(results.rows) == 1
    assert results.problems == []


def test_of_two_different_results_of_a_run_the_latest_counts_in_any_order(
    write, outputs: Path, tmp_path: Path
) -> None:
    folder = write(value=0.5, started="2026-01-02T00:00:00+00:00")
    scores = json.loads((folder / "record.json").read_text())["scores"]
    scores[0]["value"] = 0.75
    later = {"scores": scores, "started": "2026-01-03T00:00:00+00:00"}
    newest = copied(folder, tmp_path / "other", **later)
    for order in ([outputs, tmp_path / "other"], [tmp_path / "other", outputs]):
        results = read(order)
        assert [row.value for row in results.rows] == [0.75]
        assert results.problems == [
            f"`{folder}` was skipped: `{newest}` holds the same run with other scores; remove one "
            "of them."
        ]


def test_a_finished_run_counts_rather_than_its_failure_elsewhere(
    write, outputs: Path, tmp_path: Path
) -> None:
    folder = write(value=0.5)
    record = json.loads((folder / "record.json").read_text())
    failure = {key: record[key] for key in ("schema", "run_id", "model", "method", "protocol")}
    place = tmp_path / "other" / "linear_probe" / "x"
    place.mkdir(parents=True)
    (place / "failure.json").write_text(json.dumps({**failure, "error": "It broke."}))
    results = read([tmp_path / "other", outputs])
    assert [row.value for row in results.rows] == [0.5]
    assert results.gaps == []


def test_documents_are_read_when_they_are_asked_for(write, outputs: Path) -> None:
    kept, replaced = write(value=0.5), write(value=0.25)
    results = read(outputs)
    first, second = (row.run_id for row in results.rows)
    assert results.documents[first] == json.loads((kept / "record.json").read_text())
    assert list(results.documents) == [first, second]
    assert results.documents.get("unknown") is None
    shutil.copy(kept / "record.json", replaced / "record.json")
    with pytest.raises(ResultsError, match="its files were replaced"):
        results.documents[second]


def test_a_folder_that_does_not_exist_is_named(outputs: Path) -> None:
    with pytest.raises(ResultsError, match=r"`.*nowhere` is no folder"):
        read([outputs, outputs / "nowhere"])


def sealed(write, count: int) -> list[Path]:
    """Write records as runs do, with few different configurations."""
    folders = []
    for number in range(count):
        axes = {"model": "small_resnet", "method": "simclr", "protocol": "linear_probe"}
        identity: dict[str, Any] = {axis: {"name": name} for axis, name in axes.items()}
        identity |= {"precision": "fp32", "dataset": {"name": "digits", "size": number % 3}}
        identity["protocol"]["lrs"] = [1e-05, 3e-4, {"deep": [1, "ü", -0.5]}]
        score = {"metric": "top1", "value": number / 100, "split": "test", "unit": "fraction",
                 "higher_is_better": True, "primary": True}  # fmt: skip
        other = {
            **score,
            "metric": "loss",
            "unit": "nats",
            "primary": False,
            "value": 1e-7 * number,
        }
        folder = write(
            seed=number, identity={**identity, "seed": number}, scores=[score, other],
            config={"method": {"epochs": number % 3}}, duration_s=1.5 * number, device="cpu",
            started=f"2026-01-01T00:00:{number % 60:02}+00:00", data={"fingerprint": "d"},
            files={"b.csv": f"{number:064x}", "a.npz": f"{number + 1:064x}"}, weights_sha256="w",
        )  # fmt: skip
        record = json.loads((folder / "record.json").read_text())
        record["config"]["seed"] = number
        write_json(folder / "record.json", record)
        folders.append(folder)
    return folders


def slowly(folder: Path) -> Run | None:
    """Return a run as ``load_document`` reads it; None if it refuses the record."""
    try:
        document = load_document(folder)
    except ResultsError:
        return None
    return None if document is None else run_of(document, str(folder))


def test_a_record_read_fast_is_the_same_run(write) -> None:
    reader = FinishedRecords()
    for folder in sealed(write, 12):
        run = reader.read((folder / "record.json").read_bytes(), str(folder))
        assert run == slowly(folder)
        assert run is not None
        assert run.description.parts is not None


def test_no_change_of_a_record_is_overlooked_when_it_is_read_fast(write) -> None:
    first, other, _, second = sealed(write, 4)  # the first one is the template of the last
    reader, chance = FinishedRecords(), random.Random(0)
    for folder in (first, other):
        assert reader.read((folder / "record.json").read_bytes(), str(folder)) is not None
    path = second / "record.json"
    content = path.read_bytes()
    for _ in range(400):
        place = chance.randrange(len(content))
        changed = bytearray(content)
        changed[place] = chance.choice(b'0195ea"{}[],: \n\\\xff')
        path.write_bytes(bytes(changed))
        run = reader.read(bytes(changed), str(second))
        if run is not None:  # e.g. another space
            assert run == slowly(second), changed[place - 20 : place + 20]
    for text, other in ((b'"value": 0.03', b'"value": 0.99'), (b'"seed": 3', b'"seed": 2'),
                        (b"fp32", b"bf16"), (b"b.csv", b"c.csv")):  # fmt: skip
        assert text in content
        assert reader.read(content.replace(text, other), str(second)) is None


@pytest.mark.parametrize("change", [
    {"scores": []}, {"scores": None}, {"status": "not_applicable", "scores": []}, {"seed": None},
    {"schema": 2}, {"run_id": " "}, {"encoder": {"id": 3}}, {"duration_s": None}, {"started": 5},
    {"seed": True}, {"identity": None}, {"config": 3}, {"stage": "check"}, {"method": ""},
    {"text": "\ud800"}, {"text": "ü\n \"a\": \\u0000"}, {"deep": [[[[[[["x"]]]]]]]}, {"files": {}},
    {"run_id": "a" * 16}, {"seed": 2**70}, {"duration_s": 1e300}, {"files": {"a": {"b": 1}}},
])  # fmt: skip
def test_odd_records_are_read_or_refused_as_before(write, change: dict[str, Any]) -> None:
    folders = sealed(write, 4)
    path = folders[1] / "record.json"
    record = json.loads(path.read_text()) | change
    write_json(path, {key: value for key, value in record.items() if key != "checksum"})
    for order in (folders, folders[::-1]):
        reader = FinishedRecords()
        for folder in order:
            run = reader.read((folder / "record.json").read_bytes(), str(folder))
            assert run is None or run == slowly(folder)


def forgetful(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the cache be written for any number of files of any age; return the files read."""
    read_files: list[str] = []
    original = store._read

    def reading(outputs: str, files: Any) -> Any:
        read_files.extend(file for file, _ in files)
        return original(outputs, files)

    monkeypatch.setattr(store, "_WORTH_KEEPING", 1)
    monkeypatch.setattr(store, "SETTLED_NS", 0)
    monkeypatch.setattr(store, "_read", reading)
    return read_files


def test_unchanged_files_are_not_read_again(
    write, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_files = forgetful(monkeypatch)
    folders = sealed(write, 6)
    (folders[5] / "record.json").write_text("{}")
    write("b" * 16, error="It broke.")
    first = read(outputs)
    assert len(read_files) == 7
    read_files.clear()
    again = read(outputs)
    assert read_files == [f"linear_probe/{folders[5].name}/record.json"]
    assert (again.rows, again.gaps, again.problems) == (first.rows, first.gaps, first.problems)
    assert again.versions == first.versions
    assert repr(again.runs) == repr(first.runs)  # an unknown duration is NaN
    # A new, a changed and a removed record.
    read_files.clear()
    record = json.loads((folders[2] / "record.json").read_text())
    record["scores"][0]["value"] = 0.875
    write_json(folders[2] / "record.json", record)
    (folders[3] / "record.json").unlink()
    sealed(write, 1)
    changed = read(outputs)
    assert len(read_files) == 3
    assert 0.875 in [row.value for row in changed.rows]
    assert len(changed.rows) == 10


@pytest.mark.parametrize("how", ["cut", "flipped", "foreign", "empty", "older", "forged"])
def test_a_cache_that_cannot_be_used_is_made_anew(
    write, outputs: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    read_files = forgetful(monkeypatch)
    sealed(write, 3)
    expected = read(outputs)
    cache = outputs / store.CACHE
    sound = cache.read_bytes()
    forged = sound[:24] + sound[24:].replace(b'"run_ids":["', b'"run_ids":[3,"')
    length = int.from_bytes(forged[24:32], "little") + 2
    body = length.to_bytes(8, "little") + forged[32:]
    contents = {
        "cut": sound[:-9],
        "flipped": sound[:99] + bytes([sound[99] ^ 1]) + sound[100:],
        "foreign": b"\x80\x04pickle",
        "empty": b"",
        "older": sound.replace(b"runs 1\n", b"runs 0\n"),
        "forged": sound[:20] + zlib.crc32(body).to_bytes(4, "little") + body,
    }
    cache.write_bytes(contents[how])
    read_files.clear()
    assert read(outputs).rows == expected.rows
    assert len(read_files) == 3
    read_files.clear()
    assert read(outputs).rows == expected.rows
    assert read_files == []


def test_a_folder_that_cannot_be_written_has_its_cache_at_the_user(
    write, outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_files = forgetful(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sealed(write, 2)
    (outputs / store.CACHE).mkdir()  # nothing can be renamed to a folder, even by root
    rows = read(outputs).rows
    read_files.clear()
    assert read(outputs).rows == rows
    assert read_files == []
    assert len(list((tmp_path / "cache").rglob("*.cache"))) == 1
    assert [path.name for path in outputs.iterdir() if path.suffix == ".tmp"] == []
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert read(outputs).rows == rows


def test_few_records_leave_no_cache(write, outputs: Path) -> None:
    sealed(write, 2)
    read(outputs)
    assert not (outputs / store.CACHE).exists()


@pytest.mark.parametrize("fails", [False, True])
def test_a_second_process_reads_the_same(
    write, outputs: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    folders = sealed(write, 6)
    (folders[5] / "record.json").write_text("{}")
    expected = read(outputs)
    monkeypatch.setattr(store, "_WORTH_A_PROCESS", 1)
    monkeypatch.setattr(store.os, "cpu_count", lambda: 2)
    if fails:
        monkeypatch.setattr(store.sys, "executable", "/bin/false")
    results = read(outputs)
    assert results.rows == expected.rows
    assert results.problems == expected.problems
    assert len(results.problems) == 1
