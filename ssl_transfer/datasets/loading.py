"""Batches from a ``DataLoader``: creating it, and detecting that one of its processes ended."""

import contextlib
import gc
import re
import signal
import traceback
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import DataLoader

from ssl_transfer.context import Context
from ssl_transfer.datasets.transforms import Batch, collate
from ssl_transfer.errors import UserError
from ssl_transfer.system.signals import shield_worker

Items = list[tuple[int, int]]
"""(epoch, sample index) pairs."""


@runtime_checkable
class TrainingData(Protocol):
    """Data that a loader reads as whole batches of (epoch, index), such as a ``ViewDataset``."""

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def __getitems__(self, items: Items) -> Batch:
        """Return the batch of these samples, a pure function of ``items``."""
        ...


def load(data: TrainingData, batches: Iterable[Items], context: Context) -> Iterable[Batch]:
    """Return the batches of these items in order; the number of processes has no effect on them.

    Views and targets for a GPU are already in its memory (see ``_copied_ahead``).
    """
    dataset: Any = data  # torch's stubs only declare single samples
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,  # type: ignore[arg-type]
        num_workers=context.workers,
        worker_init_fn=shield_worker,
        generator=torch.Generator(),  # the global one stays untouched
        pin_memory=context.device.type == "cuda",
    )
    batches_read = _watched(loader)
    return batches_read if context.device.type != "cuda" else _copied_ahead(batches_read, context)


def _copied_ahead(batches: Iterable[Batch], context: Context) -> Iterator[Batch]:
    """Yield batches in the GPU's memory; each one is copied while the GPU computes the step before.

    The copies have a stream of their own, so that they do not wait for the kernels of that step.
    """
    copies = torch.cuda.Stream(context.device)  # type: ignore[no-untyped-call]
    ready: tuple[Batch, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(copies):
            views = tuple(view.to(context.device, non_blocking=True) for view in batch.views)
            targets = batch.targets.to(context.device, non_blocking=True)
        copied = copies.record_event()
        if ready is not None:
            yield _received(*ready)
        ready = batch._replace(views=views, targets=targets), copied
    if ready is not None:
        yield _received(*ready)


def _received(batch: Batch, copied: torch.cuda.Event) -> Batch:
    """Return a batch; kernels that are launched from now on wait until it is copied."""
    current = torch.cuda.current_stream(batch.targets.device)
    current.wait_event(copied)
    for tensor in (*batch.views, batch.targets):
        tensor.record_stream(current)  # its memory is free only after the step's kernels
    return batch


class LostWorker(RuntimeError):
    """The system ended a process of the loader; the message tells what to do."""


def _watched(loader: "DataLoader[Any]") -> Iterator[Batch]:
    """Yield a loader's batches; raise ``LostWorker`` for any error that a lost process causes."""
    batches = iter(loader)
    try:
        yield from batches
    except Exception as error:
        # Reading from a process that ends fails in many ways: a closed connection, half an object,
        # a missing file. Meanwhile torch would raise once more, in the middle of this code.
        with deaf_to_workers(error, forget=False):
            sentence = lost_worker(error) or _ended(getattr(batches, "_workers", []), error)
            # The traceback of the error keeps the iterator, and thereby its processes, alive.
            if (end := getattr(batches, "_shutdown_workers", None)) is not None:
                end()
        if sentence is not None:
            raise LostWorker(sentence) from error
        if isinstance(error, UserError) and str(error).startswith("Caught "):
            raise type(error)(_last_message(error)) from error
        raise


def _last_message(error: Exception) -> str:
    """Return the message of an exception that a process raised and sent with its traceback."""
    return re.split(rf"\n(?:\w+\.)*{type(error).__name__}: ", str(error))[-1].strip()


def _ended(workers: Iterable[Any], error: Exception) -> str | None:
    """Return the message if a signal ended one of the loader's processes, else None."""
    if str(error).startswith("Caught "):  # an exception that the process raised and sent
        return None
    for worker in workers:
        worker.join(0.2)  # the exit code may arrive later than the closed connection
        if worker.exitcode is not None and worker.exitcode < 0:
            return _sentence(signal.strsignal(-worker.exitcode) or "a signal")
    return None


def _sentence(how: str) -> str:
    if _SHARED_MEMORY.search(how):
        return (
            "the loader's processes must have room in shared memory (/dev/shm), but it is full; "
            "use `trainer.workers=0`, or give it more room (Docker: --shm-size=8g); the same "
            "command goes on from the last checkpoint."
        )
    return (
        f"every process of the loader must stay alive, but one ended ({how}), perhaps because "
        "memory ran out; use fewer `trainer.workers`, or 0; the same command goes on from the last "
        "checkpoint."
    )


_LOST = re.compile(
    r"DataLoader worker \(pid\(?s?\)? [\d, ]+\) (is killed by signal: \w[\w ]*|exited)"
)
_SHARED_MEMORY = re.compile(
    r"Bus error|</?torch_|shared memory|received 0 items of ancdata|unable to mmap"
)


def lost_worker(error: BaseException) -> str | None:
    """Return the cause and the remedy if the system ended a loader's process, else None.

    Such a run is intact and can continue from its checkpoint.
    """
    if isinstance(error, LostWorker):
        return str(error)
    if not isinstance(error, RuntimeError | OSError) or "DataLoader worker" not in str(error):
        return None
    said = "\n".join(str(link) for link in reversed(_chain(error)))  # first the original cause
    if _SHARED_MEMORY.search(said):
        return _sentence("shared memory")
    lost = _LOST.search(said)
    return None if lost is None else _sentence(lost[1].removeprefix("is ").strip())


@contextlib.contextmanager
def deaf_to_workers(error: BaseException, *, forget: bool = True) -> Iterator[None]:
    """Keep loaders that ``error`` left behind from raising inside of the block.

    While a loader exists, torch raises in the main process, at any place in the code, whenever one
    of the loader's processes was lost. The frames of the error keep the loader alive.

    Args:
        error: the error.
        forget: whether to free these loaders; otherwise they may raise after the block.
    """
    try:
        before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    except ValueError:  # not in the main thread, where torch does not raise either
        before = None
    try:
        if forget:
            _forget_frames(error)
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGCHLD, before)


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error and the errors that caused it."""
    links = [error]
    while (before := links[-1].__cause__ or links[-1].__context__) is not None:
        links.append(before)
    return links


def _forget_frames(error: BaseException) -> None:
    """Clear the frames of an error and of its causes, so that their objects are freed."""
    for link in _chain(error):
        traceback.clear_frames(link.__traceback__)
    gc.collect()
