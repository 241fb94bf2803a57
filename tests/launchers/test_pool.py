"""Slots and their queue; the processes here are a few lines of Python that obey the test."""

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launchers import pool
from ssl_transfer.system import claims, provenance
from ssl_transfer.system.signals import Interrupted

OBEDIENT = """
import json, os, signal, sys, time
def stop(*_):
    print("saved", file=sys.stderr, flush=True)
    os._exit(75)
signal.signal(signal.SIGTERM, stop)
for line in sys.stdin:
    wanted = json.loads(line)
    print("begins", wanted["id"], os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid(),
          os.environ["OMP_NUM_THREADS"], os.environ["SSL_TRANSFER_LOG"],
          file=sys.stderr, flush=True)
    if wanted["do"] == "sleep":
        time.sleep(60)
    if wanted["do"] == "exit":
        os._exit(wanted["code"])
    if wanted["do"] == "kill":
        os.kill(os.getpid(), wanted["code"])
    failure = "it failed" if wanted["do"] == "fail" else None
    print(json.dumps({"failure": failure, "said": "done"}), flush=True)
    print("ends", wanted["id"], file=sys.stderr, flush=True)
"""


@dataclasses.dataclass
class Order:
    """What a run is to the pool."""

    id: str
    do: str = "finish"
    code: int = 0
    requirements: tuple["Order", ...] = ()
    folder: Path = Path("of_nobody")

    @property
    def config(self) -> dict[str, Any]:
        return {"id": self.id, "do": self.do, "code": self.code}


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two log files of slots whose processes obey; what they need not have is hidden."""
    code = tmp_path / "code" / "launchers"
    code.mkdir(parents=True)
    (code / "__init__.py").touch()
    (code / "worker.py").write_text(OBEDIENT)
    monkeypatch.setattr(provenance, "ROOT", code.parent)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return [tmp_path / "jobs" / f"slot{n}.out" for n in range(2)]


def serve(orders: list[Order], logs: list[Path], **keys: Any) -> dict[str, str]:
    slots = pool.slots_for(logs, gpus=[], threads=1)
    return pool.serve(orders, slots, **keys)  # type: ignore[arg-type]


def begun(log: Path) -> list[list[str]]:
    """Return id, GPUs, process, threads and log of each run that a slot began."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [line.split()[1:] for line in lines if line.startswith("begins")]


def test_one_failure_or_lost_process_leaves_the_others_alone(logs: list[Path]) -> None:
    orders = [
        Order("a"), Order("b", "fail"), Order("c", "kill", signal.SIGKILL), Order("d"),
        Order("e", "kill", signal.SIGSEGV), Order("f", "exit", 3), Order("g", "exit", 75),
        Order("h"),
    ]  # fmt: skip
    ended = {}
    failures = serve(orders, logs[:1], done=lambda run, answer: ended.update({run.id: answer}))
    see = f"; see `{logs[0]}`"
    assert failures == {
        "b": "it failed",
        "c": f"its process was lost (signal 9, perhaps because memory ran out){see}",
        "e": f"its process was lost (signal 11){see}",
        "f": f"its process was lost (exit code 3){see}",
        "g": "it was interrupted; the same command goes on where it stopped",
    }
    assert list(ended) == list("abcdefgh")
    assert {i: answer["failure"] for i, answer in ended.items() if answer["failure"]} == failures
    assert ended["a"] == {"failure": None, "said": "done"}
    began = begun(logs[0])
    assert [identifier for identifier, *_ in began] == list("abcdefgh")
    processes = [line[2] for line in began]
    # A process serves until it is lost.
    assert len(set(processes[:3])) == len(set(processes[3:5])) == 1
    assert len(set(processes)) == 5
    assert {line[4] for line in began} == {str(logs[0])}


def test_a_run_waits_for_what_it_requires_and_others_overtake_it(logs: list[Path]) -> None:
    parent = Order("parent", "kill", signal.SIGKILL)
    orders = [parent, Order("child", requirements=(parent,)), Order("x"), Order("y")]
    order: list[str] = []
    serve(orders, logs, done=lambda run, answer: order.append(run.id))
    assert order.index("parent") < order.index("child")
    assert sorted(order) == ["child", "parent", "x", "y"]
    both = sorted(line[0] for log in logs for line in begun(log))
    assert both == sorted(order)


def test_the_queue_hands_out_what_is_ready_in_the_given_order() -> None:
    parent = Order("parent")
    child, other = Order("child", requirements=(parent,)), Order("other")
    queue = pool._Queue([parent, child, other])  # type: ignore[list-item]
    assert [queue.next(), queue.next()] == [parent, other]
    taken: list[Any] = []
    waiting = threading.Thread(target=lambda: taken.append(queue.next()), daemon=True)
    waiting.start()
    waiting.join(0.05)
    assert taken == []
    queue.settle(parent, "it failed")  # type: ignore[arg-type]
    waiting.join(5)
    assert taken == [child]
    assert queue.failures == {"parent": "it failed"}
    assert queue.next() is None


def test_what_another_command_executes_comes_last(tmp_path: Path) -> None:
    busy, free = Order("busy", folder=tmp_path), Order("free")
    (tmp_path / claims.NAME).touch()  # so young that its owner is still writing it
    queue = pool._Queue([busy, free])  # type: ignore[list-item]
    assert [queue.next(), queue.next()] == [free, busy]


def test_a_requirement_that_is_not_among_the_runs_is_not_waited_for() -> None:
    child = Order("child", requirements=(Order("finished"),))
    assert pool._Queue([child]).next() is child  # type: ignore[comparison-overlap,list-item]


@contextlib.contextmanager
def signal_once_all_run(number: signal.Signals, logs: list[Path]) -> Iterator[None]:
    def send() -> None:
        while not all(begun(log) for log in logs):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    yield
    thread.join()


@pytest.mark.parametrize(
    ("number", "raised"),
    [
        (signal.SIGTERM, Interrupted),
        (signal.SIGUSR2, Interrupted),
        (signal.SIGINT, KeyboardInterrupt),
    ],
)
def test_a_signal_lets_every_slot_save_and_begins_nothing_more(
    logs: list[Path], number: signal.Signals, raised: type[BaseException]
) -> None:
    orders = [Order("a", "sleep"), Order("b", "sleep"), Order("c")]
    with signal_once_all_run(number, logs), pytest.raises(raised):
        serve(orders, logs)
    assert all(log.read_text().endswith("saved\n") for log in logs)
    began = [line for log in logs for line in begun(log)]
    assert sorted(line[0] for line in began) == ["a", "b"]
    assert not any(Path("/proc", line[2]).exists() for line in began)


def test_what_does_not_end_in_time_is_killed(
    logs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = provenance.ROOT / "launchers" / "worker.py"
    worker.write_text(OBEDIENT.replace("os._exit(75)", "pass"))
    monkeypatch.setattr(pool, "GRACE_SECONDS", 0.3)
    with signal_once_all_run(signal.SIGTERM, logs[:1]), pytest.raises(Interrupted):
        serve([Order("a", "sleep")], logs[:1])
    ((_, _, process, *_),) = begun(logs[0])
    assert not Path("/proc", process).exists()


def test_an_error_of_the_pool_itself_stops_all_slots_and_is_raised(logs: list[Path]) -> None:
    def nobody_reads(run: Any, answer: dict[str, Any]) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        serve([Order("a"), Order("b", "sleep"), Order("c")], logs, done=nobody_reads)
    assert "c" not in [line[0] for log in logs for line in begun(log)]


def test_a_log_that_cannot_be_written_is_no_reason_to_wait_for_ever(logs: list[Path]) -> None:
    logs[0].parent.write_text("a file where the folder should be")
    parent = Order("parent")
    with pytest.raises(OSError, match="jobs"):
        serve([parent, Order("child", requirements=(parent,))], logs)


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        ("3,5", ["3", "5"]),
        (" 3, 5 ", ["3", "5"]),
        ("", []),
        ("-1", []),
        ("GPU-8f2a,MIG-11", ["GPU-8f2a", "MIG-11"]),
    ],
)
def test_the_gpus_are_those_that_this_process_was_given(
    monkeypatch: pytest.MonkeyPatch, visible: str, gpus: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert pool.visible_gpus() == gpus


def test_without_a_restriction_the_gpus_are_those_of_the_computer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert pool.visible_gpus() == []
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\necho 'GPU 0: NVIDIA A (UUID: GPU-1)'\n"
        "echo '  MIG 1g.5gb Device 0: (UUID: MIG-1)'\necho 'GPU 1: NVIDIA A (UUID: GPU-2)'\n"
    )
    tool.chmod(0o755)
    assert pool.visible_gpus() == ["0", "1"]


def test_each_slot_gets_a_gpu_in_turn_and_its_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logs = [Path(str(n)) for n in range(3)]
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    slots = pool.slots_for(logs, gpus=["3", "5"])
    assert [slot.environment for slot in slots] == [
        {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": gpu} for gpu in ("3", "5", "3")
    ]
    assert [slot.log for slot in slots] == logs
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    assert pool.slots_for(logs, gpus=[])[0].environment == {"OMP_NUM_THREADS": "1"}
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert pool.slots_for(logs, gpus=[])[0].environment == {"OMP_NUM_THREADS": "6"}
    assert pool.slots_for(logs, gpus=[], threads=4)[0].environment == {"OMP_NUM_THREADS": "4"}


def test_what_a_slot_is_given_arrives_in_its_process(logs: list[Path]) -> None:
    slots = pool.slots_for(logs, gpus=["3", "5"], threads=4)
    pool.serve([Order("a"), Order("b")], slots)  # type: ignore[list-item]
    given = {tuple(line[1:2] + line[3:]) for log in logs for line in begun(log)}
    assert given == {("3", "4", str(logs[0])), ("5", "4", str(logs[1]))}
