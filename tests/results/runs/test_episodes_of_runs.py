import hashlib
from pathlib import Path

import numpy as np
import pytest

from results.commands.main import main
from results.errors import ResultsError
from results.records.episodes import read_episodes
from results.runs.episodes import compared, to_csv_rows, to_table
from results.runs.folder import SingleRun

FIRST, SECOND = [0.5, 0.6, 0.9, 0.8], [0.6, 0.6, 0.95, 0.85]


def run(folder: Path, accuracies: list[float], drawn: str = "abc", **changes: object) -> SingleRun:
    folder.mkdir()
    path = folder / "episodes.npz"
    np.savez(path, accuracies=np.array(accuracies), drawn=np.array(drawn))
    files = {"episodes.npz": hashlib.sha256(path.read_bytes()).hexdigest()}
    document = {"run_id": "1234567890", "encoder": {"label": folder.name}, "dataset": "digits"}
    return SingleRun(folder, {**document, "files": files, **changes})


def test_runs_are_compared_episode_by_episode(tmp_path: Path) -> None:
    runs = [run(tmp_path / "a", FIRST), run(tmp_path / "b", SECOND)]
    rows = compared([read_episodes(one.folder, one.document) for one in runs])
    assert [label for label, *_ in rows] == ["a digits 12345678", "b digits 12345678"]
    assert (rows[0][2].mean, rows[0][2].interval) == (0, 0)
    gains = np.array([0.1, 0, 0.05, 0.05])
    assert rows[1][1].mean == pytest.approx(0.75)
    assert rows[1][2].mean == pytest.approx(0.05)
    assert rows[1][2].interval == pytest.approx(1.96 * np.sqrt(((gains - 0.05) ** 2).mean() / 4))
    # The pairs are closer to each other than the intervals of both runs tell.
    assert rows[1][2].interval < rows[1][1].interval / 2


def test_a_single_episode_has_no_interval(tmp_path: Path) -> None:
    runs = [run(tmp_path / name, [value]) for name, value in (("a", 0.5), ("b", 0.75))]
    rows = compared([read_episodes(one.folder, one.document) for one in runs])
    table = to_table(rows)
    assert [list(row[1:]) for row in table.rows] == [["50.00", "–"], ["75.00", "+25.00"]]
    assert "±" not in " ".join(table.notes)
    assert to_csv_rows(rows).splitlines()[2] == "b digits 12345678,75.0,,25.0,"


def test_other_episodes_are_not_compared(tmp_path: Path) -> None:
    runs = [run(tmp_path / "a", FIRST), run(tmp_path / "b", SECOND, drawn="other")]
    with pytest.raises(ResultsError, match="runs must share their episodes to be compared"):
        compared([read_episodes(one.folder, one.document) for one in runs])


def test_missing_changed_and_damaged_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"must hold `episodes\.npz`, which a finished run of"):
        read_episodes(tmp_path, {})
    one = run(tmp_path / "a", FIRST, files={"episodes.npz": "0" * 64})
    with pytest.raises(ResultsError, match="its sha256 differs"):
        read_episodes(one.folder, one.document)
    (tmp_path / "a" / "episodes.npz").write_bytes(b"PK")
    with pytest.raises(ResultsError, match="must hold the arrays accuracies and drawn"):
        read_episodes(tmp_path / "a", {})
    with pytest.raises(ResultsError, match="accuracies are not a list of numbers"):
        read_episodes(tmp_path / "b", run(tmp_path / "b", []).document)


def test_the_command_prints_the_difference(write, outputs: Path, capsys) -> None:
    folders = []
    for number, accuracies in enumerate((FIRST, SECOND)):
        folder = write(run_id=str(number) * 16)
        np.savez(folder / "episodes.npz", accuracies=np.array(accuracies), drawn=np.array("x"))
        folders.append(str(folder))
    assert main(["episodes", *folders, "--outputs", str(outputs)]) == 0
    printed = capsys.readouterr().out
    assert "+5.00 ± 3.46" in printed
    assert main(["episodes", *folders, "--outputs", str(outputs), "--format", "csv"]) == 0
    assert ",75.0,15.1028,5.0,3.4648" in capsys.readouterr().out
