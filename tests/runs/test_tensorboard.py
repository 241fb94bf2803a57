"""``logger=tensorboard``: the numbers of ``metrics.jsonl`` in event files, once per step."""

import importlib.util
import json
import warnings
from pathlib import Path

import pytest
from tiny_runs import run_all, tiny

from ssl_transfer.runs import Run, logging_services
from ssl_transfer.runs.logging_services import EVENTS, TensorBoard

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None,
    reason="needs tensorboard (pip install 'ssl_transfer[tensorboard]')",
)


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the steps and values of each tag, as TensorBoard reads them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def lines(run: Run) -> list[dict]:
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


@needs_tensorboard
def test_the_event_file_holds_the_numbers_of_the_lines_and_the_scores(tmp_path: Path) -> None:
    run = tiny(tmp_path, "protocol=linear_probe", "logger=tensorboard")
    assert run_all(run).failures == {}
    known = events(run.folder / EVENTS)
    trained = [line for line in lines(run) if "loss" in line]
    assert trained
    for line in trained:
        for key in ("loss", "lr"):
            (value,) = [v for step, v in known[f"{line['training']}/{key}"] if step == line["step"]]
            assert value == pytest.approx(line[key])
    (top1,) = [s for s in run.record()["scores"] if (s["metric"], s["split"]) == ("top1", "test")]
    assert known["test/top1"] == [(0, pytest.approx(top1["value"]))]
    plain = tiny(tmp_path, "protocol=linear_probe")
    assert plain.id == run.id


@needs_tensorboard
def test_a_resumed_run_appends_and_no_step_is_there_twice(tmp_path: Path) -> None:
    logged = tmp_path / "metrics.jsonl"
    for steps in (range(1, 6), range(4, 9)):  # killed after step 5, resumed from step 3
        service = TensorBoard(tmp_path)
        with logged.open("a") as file:
            for step in steps:
                file.write(json.dumps({"training": "grid", "step": step, "loss": 1 / step}) + "\n")
                service.log("grid", {"step": step, "loss": 1 / step})
            file.write('{"half')  # what a killed process leaves
            file.write("\n")
        service.log("refit", {"step": 1, "loss": steps[-1]})
        service.close(failed=False)
    known = events(tmp_path / EVENTS)
    assert known["grid/loss"] == [(step, pytest.approx(1 / step)) for step in range(1, 9)]
    assert [step for step, _ in known["refit/loss"]] == [1, 1]  # its line was never written


@needs_tensorboard
def test_a_run_that_is_computed_again_has_the_new_events_only(tmp_path: Path) -> None:
    for _ in range(2):
        run = tiny(tmp_path, "protocol=knn", "logger=tensorboard", "force=true", tuned=False)
        assert run_all(run).failures == {}
    assert len(events(run.folder / EVENTS)["test/top1"]) == 1
    assert not (run.folder / "anew").exists()


@needs_tensorboard
def test_a_run_goes_on_without_events_that_cannot_be_written(tmp_path: Path, caplog) -> None:
    run = tiny(tmp_path, "protocol=knn", "logger=tensorboard", tuned=False)
    run.folder.mkdir(parents=True)
    (run.folder / EVENTS).write_text("in the way")
    assert run_all(run).failures == {}
    assert caplog.text.count("tensorboard is switched off") == 1
    assert run.is_finished


def test_a_missing_package_is_one_sentence_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging_services.importlib.util, "find_spec", lambda name: None)
    run = tiny(tmp_path, "protocol=knn", "logger=tensorboard", "dataset=dtd", tuned=False)
    (told,) = run_all(run).failures.values()
    assert told == (
        "`logger=tensorboard` needs the package tensorboard, which is not installed; install it "
        "with `pip install 'ssl_transfer[tensorboard]'`, or leave out `logger=tensorboard`."
    )
    assert run.failure()["stage"] == "check"  # type: ignore[index]
