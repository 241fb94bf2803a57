"""Records of many folders: each run once, contradictions named, documents read when needed."""

import json
import shutil
from pathlib import Path

import pytest

from results import ResultsError, read


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
