"""A record has the time of all attempts of a run, and names the processor or card."""

import time
import types
from pathlib import Path

import pytest
from tiny_runs import run_all, tiny

from ssl_transfer import context as context_module
from ssl_transfer.context import Context
from ssl_transfer.runs import execution
from ssl_transfer.system.signals import Interrupted
from ssl_transfer.training.state import Checkpointer


class Clock:
    """A clock that stands still unless it is moved."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (context_module, execution):
        own = types.SimpleNamespace(**{**vars(time), "monotonic": clock.monotonic})
        monkeypatch.setattr(module, "time", own)
    return clock


def test_a_resumed_run_has_the_time_of_all_its_attempts(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny(
        tmp_path, "protocol=finetune", "trainer.checkpoint_every_steps=1", "protocol.batch_size=5"
    )
    save, saved = Checkpointer.save, []

    def interrupted(self: Checkpointer, step: int) -> None:
        clock.now += 10
        save(self, step)
        saved.append(step)
        clock.now += 3  # lost by a kill, not by a signal
        if len(saved) in (2, 3):
            raise Interrupted

    monkeypatch.setattr(Checkpointer, "save", interrupted)
    for _ in range(2):
        with pytest.raises(Interrupted):
            run_all(run)
        clock.now += 5000  # nothing works on it
    assert run_all(run).failures == {}
    record = run.record()
    assert record["duration_s"] == pytest.approx(13 * len(saved))
    assert record["attempts"] == 3
    assert len(record["resumed_at"]) == 2
    assert not (run.folder / "progress.json").exists()
    assert isinstance(record["device_name"], str | None)


def test_an_undisturbed_run_has_one_attempt(tmp_path: Path, clock: Clock) -> None:
    run = tiny(tmp_path, "protocol=knn", tuned=False)
    assert run_all(run).failures == {}
    assert (run.record()["attempts"], run.record()["duration_s"]) == (1, 0.0)


def test_a_killed_process_adds_the_time_until_it_last_stored_something(
    tmp_path: Path, clock: Clock
) -> None:
    first = Context(tmp_path, tmp_path, run_id="r", inputs="data")
    clock.now += 7
    first.keep_time()
    clock.now += 100  # not stored: the process is killed
    second = Context(tmp_path, tmp_path, run_id="r", inputs="data")
    assert (second.seconds(), second.attempts) == (7, 2)
    clock.now += 2
    second.once("score", lambda: 0.5)
    clock.now += 1
    with pytest.raises(KeyError), second.timed(clock.now - 5):
        {}["missing"]
    third = Context(tmp_path, tmp_path, run_id="r", inputs="data")
    assert (third.seconds(), third.attempts) == (12, 3)
    # Of other data nothing is taken over.
    assert Context(tmp_path, tmp_path, run_id="r", inputs="other").seconds() == 0
