"""The logger is no part of a run: whatever becomes of it, the run goes on, and says so once."""

import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import run_all, tiny

from ssl_transfer.runs import Run, logger


class FakeRun:
    """What ``wandb.init`` returns; it fails in the method that it is told to fail in."""

    def __init__(self, fails: str) -> None:
        self.fails, self.calls = fails, []  # type: ignore[var-annotated]
        self.summary = types.SimpleNamespace(update=lambda values: self._call("summary"))

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fails:
            raise ConnectionError("the server is gone\nand more")

    def log(self, values: Any) -> None:
        self._call("log")

    def finish(self, exit_code: int) -> None:
        self._call("finish")


def knn(outputs: Path, *overrides: str) -> Run:
    return tiny(outputs, "protocol=knn", "logger=wandb", *overrides, tuned=False)


def fake(monkeypatch: pytest.MonkeyPatch, init: Any) -> None:
    module = types.SimpleNamespace(init=init, Settings=lambda **keys: keys)
    monkeypatch.setitem(sys.modules, "wandb", module)


@pytest.mark.parametrize("error", [ConnectionError("No API key configured."), SyntaxError("")])
def test_a_run_goes_on_without_wandb_where_it_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Any
) -> None:
    def init(**keys: Any) -> None:
        raise error

    fake(monkeypatch, init)
    run = knn(tmp_path)
    assert run_all(run).failures == {}
    said = [r.message for r in caplog.records if r.message.startswith("wandb is switched off")]
    assert len(said) == 1
    assert (str(error) or "SyntaxError") in said[0]
    assert run.is_finished


@pytest.mark.parametrize("method", ["log", "summary", "finish"])
def test_a_run_goes_on_without_wandb_where_it_fails_later(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    method: str,
) -> None:
    started = FakeRun(method)
    fake(monkeypatch, lambda **keys: started)
    run = knn(tmp_path)
    assert run_all(run).failures == {}
    assert caplog.text.count("wandb is switched off") == 1
    assert "(the server is gone); its numbers are in metrics.jsonl" in caplog.text
    assert started.calls[-1] == method
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["training"] == "score"


def test_wandb_that_is_not_installed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert run_all(knn(tmp_path)).failures == {}
    assert caplog.text.count("wandb is switched off") == 1


def test_a_wrong_template_does_not_mark_the_run(tmp_path: Path) -> None:
    run = knn(tmp_path, "logger.group='{modell}'")
    (told,) = run_all(run).failures.values()
    assert told.startswith("`logger` templates must use names among ['dataset', 'label', 'method'")
    assert run.failure()["stage"] == "check"  # type: ignore[index]
    assert run_all(tiny(tmp_path, "protocol=knn", tuned=False)).failures == {}


def test_half_a_line_is_ended_and_what_is_in_the_way_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"a": 1}\n{"b": ')
    with logger._open_lines(path) as file:
        file.write('{"c": 3}\n')
    assert path.read_text() == '{"a": 1}\n{"b": \n{"c": 3}\n'
    with logger._open_lines(path) as file:
        file.write('{"d": 4}\n')
    assert path.read_text().endswith('{"c": 3}\n{"d": 4}\n')
    path.unlink()
    for place in (Path.mkdir, lambda path: path.symlink_to(path.name)):
        place(path)
        logger._open_lines(path).close()
        assert path.read_text() == ""
        path.unlink()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_a_full_disk_is_a_sentence_and_no_mark_on_the_run(tmp_path: Path) -> None:
    run = tiny(tmp_path, "protocol=knn", tuned=False)
    run.folder.mkdir(parents=True)
    (run.folder / "metrics.jsonl").symlink_to("/dev/full")
    (told,) = run_all(run).failures.values()
    assert told.startswith(f"`{run.folder / 'metrics.jsonl'}` must be writable with space left on")
    (run.folder / "metrics.jsonl").unlink()
    assert run_all(run).failures == {}
