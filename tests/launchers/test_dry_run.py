"""What a sweep would cost, by finished runs of the same kind."""

from pathlib import Path

import pytest
from tiny_runs import METHOD, pretend_finished, tiny

from launchers import dry_run
from ssl_transfer.runs import Run


def new(outputs: Path, *choices: str) -> Run:
    return tiny(outputs, *choices, tuned="protocol=linear_probe" in choices)


def finished(outputs: Path, *choices: str, seconds: float, **facts: object) -> Run:
    run = new(outputs, *choices)
    pretend_finished(run, duration_s=seconds, config=run.config, **{"device": "cpu"} | facts)
    return run


def test_the_nearest_finished_runs_are_averaged(tmp_path: Path) -> None:
    whole = {"resumed_at": [["grid", 1]], "attempts": 2}
    card = {"device": "cuda", "device_name": "H100"}
    finished(tmp_path, "protocol=knn", "seed=0", seconds=3600, **whole)
    finished(tmp_path, "protocol=knn", "seed=1", seconds=3600, processes=3, **card)
    finished(tmp_path, "protocol=knn", "seed=9", seconds=9e9, resumed_at=[["grid", 1]])
    finished(tmp_path, "protocol=linear_probe", seconds=36000)  # of one epoch
    runs = [
        new(tmp_path, "protocol=knn", "seed=2", "model.name=same_architecture"),
        new(tmp_path, "protocol=linear_probe", "model.width=8", "protocol.epochs=3"),
        new(tmp_path, "protocol=logistic_regression"),
    ]
    *hours, disk = dry_run.estimates(runs, tmp_path, at_once=2)
    assert hours == [
        "device time   32 h, estimated for 2 of 3 runs",
        "  1 run by 2 finished runs of the same protocol, data set and architecture (H100, cpu)",
        "  1 run by 1 finished run of the same protocol and data set (cpu)",
        "  no estimate for 1 run: none of the same protocol has finished",
    ]
    assert disk.endswith("(2 runs at once)")


def test_pretrainings_count_by_their_method_and_nothing_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    required = new(tmp_path, *METHOD, "protocol=knn").requirements[0]
    pretend_finished(required, duration_s=7200.0, config=required.config)
    run = new(tmp_path, *METHOD, "protocol=knn", "method.seed=5")
    outcome = dry_run.show([run], tmp_path)
    text = capsys.readouterr().out
    assert "2 runs to execute, 0 finished before\n" in text
    assert "device time   2 h, estimated for 1 of 2 runs" in text
    assert text.endswith("nothing was started (dry_run=true)\n")
    assert outcome.folder is None
    assert not run.folder.exists()
    assert not (tmp_path / "sweeps").exists()


def test_refused_runs_are_named_once_with_those_that_require_them_and_leave_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = [*METHOD, "protocol=knn", "model.weights.path=/nowhere.pth"]
    runs = [new(tmp_path, *wrong, f"seed={seed}") for seed in (0, 1)]
    dry_run.show(runs, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    (refused,) = [line for line in lines if line.startswith("refused")]
    assert refused.startswith("refused  3 runs: The weights of `small_resnet` must exist")
    assert "0 runs to execute, 0 finished before" in lines
    assert list(tmp_path.rglob("failure.json")) == []


def test_without_finished_runs_there_is_no_estimate_of_time(tmp_path: Path) -> None:
    run = new(tmp_path, "protocol=knn")
    unknown = "device time   unknown, estimated for 0 of 1 run"
    assert next(dry_run.estimates([run], tmp_path, 1)) == unknown
    (tmp_path / "knn" / "odd").mkdir(parents=True)
    (tmp_path / "knn" / "odd" / "record.json").write_text("[")
    assert next(dry_run.estimates([run], tmp_path, 1)) == unknown
    assert list(dry_run.estimates([], tmp_path, 1)) == []
