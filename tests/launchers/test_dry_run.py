"""What a sweep would cost, by finished runs of the same kind."""

from pathlib import Path

import pytest
from tiny_runs import METHOD, pretend_finished, tiny

from launchers import dry_run
from ssl_transfer.runs import Run


def finished(outputs: Path, *choices: str, seconds: float, processes: int = 1) -> Run:
    run = tiny(outputs, *choices, tuned="protocol=linear_probe" in choices)
    pretend_finished(run, duration_s=seconds, processes=processes, config=run.config)
    (run.folder / "large").write_bytes(b"0" * 1_000_000)
    return run


def new(outputs: Path, *choices: str) -> Run:
    return tiny(outputs, *choices, tuned="protocol=linear_probe" in choices)


def test_the_nearest_finished_runs_are_averaged(tmp_path: Path) -> None:
    finished(tmp_path, "protocol=knn", "seed=0", seconds=3600)
    finished(tmp_path, "protocol=knn", "seed=1", seconds=3600, processes=3)
    finished(tmp_path, "protocol=linear_probe", seconds=36000)
    runs = [
        new(tmp_path, "protocol=knn", "seed=2"),
        new(tmp_path, "protocol=linear_probe", "model.name=other"),
        new(tmp_path, "protocol=logistic_regression"),
    ]
    hours, disk, rest = dry_run.estimates(runs, tmp_path)
    assert hours == (
        "device hours  12 for 2 of 3 runs (1 from runs of the same protocol, data set and model, "
        "1 from runs of the same protocol and data set)"
    )
    assert disk.startswith("disk          0.002")
    assert rest == "not estimated 1 runs: none of their protocol has finished"


def test_pretrainings_count_by_their_method_and_nothing_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    required = new(tmp_path, *METHOD, "protocol=knn").requirements[0]
    pretend_finished(required, duration_s=7200.0, config=required.config)
    run = new(tmp_path, *METHOD, "protocol=knn", "method.seed=5")
    outcome = dry_run.show([run], tmp_path)
    text = capsys.readouterr().out
    assert "2 runs to execute, 0 finished before\n" in text
    assert "device hours  2 for 1 of 2 runs" in text
    assert text.endswith("nothing was started (dry_run=true)\n")
    assert outcome.folder is None
    assert not run.folder.exists()
    assert not (tmp_path / "sweeps").exists()


def test_without_finished_runs_there_is_no_estimate(tmp_path: Path) -> None:
    run = new(tmp_path, "protocol=knn")
    assert next(dry_run.estimates([run], tmp_path)).startswith("no estimate: no run")
    (tmp_path / "knn" / "odd").mkdir(parents=True)
    (tmp_path / "knn" / "odd" / "record.json").write_text("[")
    assert next(dry_run.estimates([run], tmp_path)).startswith("no estimate: no run")
    assert list(dry_run.estimates([], tmp_path)) == []
