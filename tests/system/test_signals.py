"""Signals end a run where it can go on, and nothing else."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import odd_runs
import pytest
import torch
from tiny_runs import run_all
from waiting import wait_for

from ssl_transfer.system import signals
from ssl_transfer.system.signals import Interrupted

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_signal_between_trainings_interrupts_at_once(number: signal.Signals) -> None:
    reached = []
    with pytest.raises(Interrupted) as caught, signals.stoppable():  # noqa: PT012
        os.kill(os.getpid(), number)
        reached.append("the next line")
    assert reached == []
    assert caught.value.code == signals.EXIT_CODE == 75
    assert signals.arrived(number)
    assert [n for n in signals.SIGNALS if signals.arrived(n)] == [number]


def test_a_training_sees_the_signal_and_is_interrupted_when_it_ends() -> None:
    reached = []
    with pytest.raises(Interrupted), signals.deferred() as stop:  # noqa: PT012
        reached.append(stop())
        os.kill(os.getpid(), signal.SIGTERM)
        reached.append(stop())
        os.kill(os.getpid(), signal.SIGUSR2)
        reached.append("the last step")
    assert reached == [False, True, "the last step"]
    assert signals.arrived(signal.SIGTERM)
    assert signals.arrived(signal.SIGUSR2)


def test_a_second_signal_does_not_disturb_the_way_out() -> None:
    saved = []
    with pytest.raises(Interrupted), signals.stoppable():  # noqa: PT012
        try:
            os.kill(os.getpid(), signal.SIGUSR2)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            saved.append(True)
    assert saved == [True]


def test_a_training_saves_at_the_first_ctrl_c_and_ends_at_the_second() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), signals.deferred() as stop:  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        reached.append(stop())
        signals.end()
    with pytest.raises(KeyboardInterrupt), signals.deferred():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("the next line")
    with pytest.raises(KeyboardInterrupt), signals.stoppable():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("the next line")
    assert reached == [True]


def test_signals_are_forgotten_before_the_next_time() -> None:
    with pytest.raises(Interrupted), signals.stoppable():
        os.kill(os.getpid(), signal.SIGTERM)
    with signals.stoppable(), signals.deferred() as stop:
        assert not stop()
        assert not signals.arrived()


def test_after_a_training_a_signal_interrupts_at_once_again() -> None:
    with pytest.raises(Interrupted), signals.stoppable():  # noqa: PT012
        with signals.deferred():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("it went on")


@pytest.mark.parametrize("error", [None, KeyError, Interrupted])
def test_the_handlers_of_before_return(error: type[BaseException] | None) -> None:
    def mine(*arguments: Any) -> None:
        pass

    before = {number: signal.signal(number, mine) for number in signals.SIGNALS}
    try:
        try:
            with signals.stoppable(), signals.deferred():
                assert signal.getsignal(signal.SIGTERM) is not mine
                if error is not None:
                    raise error
        except (KeyError, Interrupted) as raised:
            assert type(raised) is error  # noqa: PT017
        assert [signal.getsignal(number) for number in signals.SIGNALS] == [mine] * 2
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_an_error_of_a_training_is_not_hidden_by_a_signal() -> None:
    with pytest.raises(KeyError), signals.deferred():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGTERM)
        raise KeyError


def test_threads_leave_the_signals_to_the_program() -> None:
    inside = []

    def work() -> None:
        with signals.deferred() as stop:
            inside.append((signal.getsignal(signal.SIGTERM), stop()))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [(before, False)]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_to_all_processes_of_a_run_loses_no_step_and_no_worker(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    training = ["protocol=finetune", "protocol.epochs=12"]
    command = odd_runs.overrides(tmp_path / "out", "Smooth", *training, "trainer.workers=1")
    run = odd_runs.odd(tmp_path / "out", "Smooth", *training)
    steps = run.folder / "metrics.jsonl"
    with subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *command],
        cwd=tmp_path,
        env={**os.environ, **odd_runs.ENVIRONMENT, odd_runs.SECONDS: "0.1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            wait_for(lambda: (steps.exists() and steps.read_text()) or process.poll() is not None)
            # As SLURM and a terminal do: the DataLoader's worker gets it, too.
            os.killpg(process.pid, number)
            printed, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == code, printed
    assert "Traceback" not in printed
    assert (run.folder / "checkpoint.pt").exists()
    assert not (run.folder / "claim.json").exists()
    assert run.failure() is None

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        calm = odd_runs.odd(tmp_path / "calm", "Smooth", *training)
        assert calm.id == run.id
        assert run_all(run).failures == run_all(calm).failures == {}
    finally:
        torch.set_num_threads(threads)
    ((_, resumed),) = run.record()["resumed_at"]
    assert 0 < resumed < 24
    assert "resumed_at" not in calm.record()
    for key in ("scores", "weights_sha256", "data"):
        assert run.record()[key] == calm.record()[key]


def test_a_terminal_that_is_gone_ends_a_run_as_sigterm_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signals, "_leave_terminal", lambda: left.append(True))
    left: list[bool] = []
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with pytest.raises(Interrupted), signals.deferred() as stop:  # noqa: PT012
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop()
        assert left == [True]
        with pytest.raises(Interrupted), signals.stoppable():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
        with signals.deferred() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_is_printed_after_the_terminal_went_disturbs_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main, terminal = os.openpty()
    try:
        monkeypatch.setattr(signals, "_on_terminal", [terminal])
        os.close(main)
        with pytest.raises(OSError, match="Input/output error"):
            os.write(terminal, b"loss 1.0")
        signals._leave_terminal()
        assert os.write(terminal, b"loss 1.0") == 8
    finally:
        os.close(terminal)
