"""What happens where the system ends a loader's process."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import run_all, tiny

from ssl_transfer.context import Context
from ssl_transfer.datasets.loading import Items, deaf_to_workers, load, lost_worker
from ssl_transfer.datasets.transforms import Batch
from ssl_transfer.runs import execution

KILLED = "DataLoader worker (pid 17) is killed by signal: Killed. "
FULL = (
    "DataLoader worker (pid 17) is killed by signal: Bus error. It is possible that dataloader's "
    "workers are out of shared memory. Please try to raise your shared memory limit."
)
NO_SPACE = (
    "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback …\nRuntimeError: "
    "unable to write to file </torch_17_3_0>: No space left on device (28)"
)


class Ends:
    """Samples whose third batch ends the process that reads it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return 8

    def __getitems__(self, items: Items) -> Batch:
        if items[0][1] >= 4:
            os.kill(os.getpid(), self.number)
        return Batch((torch.zeros(2, 3, 4, 4),), torch.zeros(2), torch.arange(2))


# torch raises wherever the code is when the process ends; in a destructor Python ignores the error.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("number", "told"),
    [
        (signal.SIGKILL, "Killed), perhaps because memory ran out; use fewer `trainer.workers`"),
        (
            signal.SIGBUS,
            "room in shared memory (/dev/shm), but it is full; use `trainer.workers=0`",
        ),
    ],
)
def test_a_process_that_the_system_ends_is_told_with_what_to_do(
    tmp_path: Path, number: int, told: str
) -> None:
    context = Context(tmp_path, tmp_path, workers=1)
    batches = [[(0, i), (0, i + 1)] for i in range(0, 8, 2)]
    with pytest.raises(RuntimeError) as caught:
        list(load(Ends(number), batches, context))  # type: ignore[arg-type]
    sentence = lost_worker(caught.value)
    assert sentence is not None
    assert told in sentence
    with deaf_to_workers(caught.value):
        os.kill(os.getpid(), signal.SIGCHLD)
    os.kill(os.getpid(), signal.SIGCHLD)  # torch looks, and finds no loader any more


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError(KILLED), "killed by signal: Killed"),
        (RuntimeError(FULL), "shared memory"),
        (RuntimeError(NO_SPACE), "shared memory"),
        (RuntimeError("DataLoader worker (pid(s) 17, 18) exited unexpectedly"), "ended (exited)"),
        (RuntimeError("Caught KeyError in DataLoader worker process 0."), None),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
        (ValueError(KILLED), None),
    ],
)
def test_only_the_systems_doing_is_told_so(error: Exception, told: str | None) -> None:
    sentence = lost_worker(error)
    assert sentence is None if told is None else told in str(sentence)


def test_a_run_that_lost_a_process_is_interrupted_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [tiny(tmp_path, "protocol=knn", f"seed={n}", tuned=False) for n in (0, 1, 2)]
    work, calls = execution._work, []

    def loses(run: Any, *arguments: Any) -> Any:
        calls.append(run.id)
        if len(calls) <= 2:
            raise RuntimeError(KILLED)
        return work(run, *arguments)

    monkeypatch.setattr(execution, "_work", loses)
    outcome = run_all(*asked)
    assert list(outcome.failures) == [run.id for run in asked[:2]]
    assert all("goes on from the last checkpoint" in told for told in outcome.failures.values())
    assert outcome.computed == 1
    assert run_all(*asked).failures == {}  # the same command, without retry=true
    assert calls == [run.id for run in (*asked, *asked[:2])]


def test_a_second_process_that_is_lost_on_the_way_out_ends_no_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [tiny(tmp_path, "protocol=knn", f"seed={n}", tuned=False) for n in (0, 1)]
    settle = execution._settle_failure

    def loses(run: Any, *arguments: Any) -> Any:
        raise RuntimeError(KILLED)

    monkeypatch.setattr(execution, "_work", loses)
    monkeypatch.setattr(execution, "_settle_failure", loses)
    assert len(run_all(*asked).failures) == 2
    assert not list(tmp_path.glob("*/*/claim.json"))
    monkeypatch.setattr(execution, "_settle_failure", settle)
    monkeypatch.undo()
    assert run_all(*asked).failures == {}


class Refuses(Ends):
    """Samples whose third batch cannot be read."""

    def __getitems__(self, items: Items) -> Batch:
        if items[0][1] >= 4:
            raise OSError("`cat.jpg` must stay as it was.")
        return super().__getitems__(items)


def test_an_error_that_is_kept_keeps_no_process_of_the_loader(tmp_path: Path) -> None:
    context = Context(tmp_path, tmp_path, workers=2)
    batches = [[(0, i), (0, i + 1)] for i in range(0, 8, 2)]
    with pytest.raises(OSError, match=r"`cat\.jpg` must stay") as kept:
        list(load(Refuses(0), batches, context))
    assert kept.value.__traceback__ is not None
    assert not [one for one in multiprocessing.active_children() if one.name.startswith("Process")]


class Numbered:
    """Samples whose view is their index."""

    def __len__(self) -> int:
        return 12

    def __getitems__(self, items: Items) -> Batch:
        indices = torch.tensor([index for _, index in items])
        return Batch((indices.float().view(-1, 1, 1, 1).expand(-1, 3, 2, 2),), indices, indices)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_on_the_gpu_in_order(workers: int) -> None:
    batches = [[(0, index) for index in range(first, first + 4)] for first in (8, 0, 4)]
    context = Context(Path(), Path(), device=torch.device("cuda", 0), workers=workers)
    firsts = []
    for batch in load(Numbered(), batches, context):
        assert batch.views[0].is_cuda
        assert batch.targets.is_cuda
        assert not batch.indices.is_cuda
        assert torch.equal(batch.views[0][:, 0, 0, 0].long(), batch.targets)
        firsts.append(int(batch.targets[0]))
    assert firsts == [8, 0, 4]
