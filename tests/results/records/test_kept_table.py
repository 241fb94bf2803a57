"""The long table of unchanged records is kept, and equals the one that is computed."""

import json
from pathlib import Path

import pandas as pd
import pytest

import results
from results.records import frames, kept_table
from results.records.store import stamps_of


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keep small tables of files that were written just now; count the tables that are computed."""
    monkeypatch.setattr(kept_table, "_WORTH_KEEPING", 1)
    monkeypatch.setattr(kept_table, "SETTLED_NS", 0)
    calls: list[str] = []
    whole = frames.long_table
    monkeypatch.setattr(frames, "long_table", lambda read: calls.append("table") or whole(read))
    return calls


def varied(write) -> None:
    write("a" * 16, protocol="finetune", config={"protocol": {"epochs": 10, "lr": None}})
    write("a" * 16, protocol="finetune", config={"protocol": {"epochs": 20.5, "lr": [0.1, 1]}})
    write("b" * 16, model="größe", value=0.25, config={"protocol": {"nested": {"on": True}}})
    write("b" * 16, error="no images", dataset="dtd")
    write("c" * 16, dataset=None, duration_s=2.5, device="cuda", started="2026-01-01T00:00:00")


def test_a_kept_table_is_the_computed_one(outputs: Path, write, computed: list[str]) -> None:
    varied(write)
    first = results.load(outputs)
    again = results.load(outputs)
    assert computed == ["table"]
    pd.testing.assert_frame_equal(again, first)
    assert len(first) == 5
    assert again["value"].is_monotonic_increasing is first["value"].is_monotonic_increasing
    again.loc[0, "value"] = 0.0  # what a caller changes is the caller's own
    pd.testing.assert_frame_equal(results.load(outputs), first)


def test_a_changed_added_or_removed_record_makes_another_table(
    outputs: Path, write, computed: list[str]
) -> None:
    folder = write(value=0.5)
    write(value=0.6, seed=1)
    assert results.load(outputs)["value"].tolist() == [0.5, 0.6]
    record = json.loads((folder / "record.json").read_text())
    record["scores"][0]["value"] = 0.9
    (folder / "record.json").write_text(json.dumps(record))
    assert results.load(outputs)["value"].tolist() == [0.9, 0.6]
    third = write(value=0.7, seed=2)
    assert results.load(outputs)["value"].tolist() == [0.9, 0.6, 0.7]
    (third / "record.json").unlink()
    assert results.load(outputs)["value"].tolist() == [0.9, 0.6]
    assert len(computed) == 4


def test_other_arguments_and_folders_have_another_table(
    outputs: Path, write, computed: list[str], tmp_path: Path
) -> None:
    write(config={"dataset": {"split": 1}})
    write(config={"dataset": {"split": 2}})
    assert results.load(outputs)["dataset"].nunique() == 2
    assert results.load(outputs, mean_over=["dataset.split"])["dataset"].nunique() == 1
    other = tmp_path / "other"
    outputs.rename(other)
    assert results.load(other)["folder"].str.startswith(str(other)).all()
    assert len(computed) == 3


def test_a_damaged_or_foreign_file_is_no_table(outputs: Path, write, computed: list[str]) -> None:
    varied(write)
    first = results.load(outputs)
    file = outputs / kept_table.CACHE
    block = file.read_bytes()
    damaged = bytearray(block)
    damaged[len(block) // 2] ^= 1
    for content in (bytes(damaged), block[:40], b"", b"another format", block[:-1]):
        file.write_bytes(content)
        pd.testing.assert_frame_equal(results.load(outputs), first)
    assert len(computed) == 6
    assert file.read_bytes() == block


def test_an_unusable_record_is_named_each_time(outputs: Path, write, computed: list[str]) -> None:
    write(value=0.5)
    (write(seed=1) / "record.json").write_text("{")
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"record\.json` was skipped: it is damaged"):
            assert results.load(outputs)["value"].tolist() == [0.5]
    assert len(computed) == 2
    assert not (outputs / kept_table.CACHE).exists()


def test_records_written_a_moment_ago_are_read_again(
    outputs: Path, write, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_table, "SETTLED_NS", 3600 * 10**9)
    write()
    assert kept_table.key_of({outputs: stamps_of(outputs)}, []) is None
    results.load(outputs)
    results.load(outputs)
    assert len(computed) == 2
