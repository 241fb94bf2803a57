"""Free memory as the files of Linux state it, and the settings of the allocator."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ssl_transfer.system import memory
from ssl_transfer.system.memory import GIB, available_bytes, require_memory

CPU = torch.device("cpu")


def computer(root: Path, groups: str) -> Path:
    """Write the files of a computer with 8 GiB of free memory."""
    (root / "proc/self").mkdir(parents=True)
    kib = 8 * GIB // 1024
    (root / "proc/meminfo").write_text(f"MemTotal: {4 * kib} kB\nMemAvailable:   {kib} kB\n")
    (root / "proc/self/cgroup").write_text(groups)
    return root


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_without_groups_it_is_what_the_computer_has(tmp_path: Path) -> None:
    assert available_bytes(CPU, computer(tmp_path, "0::/\n")) == 8 * GIB


def test_the_closest_limit_of_all_groups_counts_without_cached_files(tmp_path: Path) -> None:
    root = computer(tmp_path, "1:cpu:/x\n0::/job/step\n")
    unified = root / "sys/fs/cgroup"
    group(unified / "job/step", memory__max="max", memory__current=GIB, memory__stat="anon 1")
    stat = f"anon 7\ninactive_file {GIB}"
    group(unified / "job", memory__max=4 * GIB, memory__current=3 * GIB, memory__stat=stat)
    assert available_bytes(CPU, root) == 2 * GIB


def test_groups_of_the_first_version_are_read_too(tmp_path: Path) -> None:
    root = computer(tmp_path, "4:cpuset,memory:/job\n")
    folder = root / "sys/fs/cgroup/memory/job"
    group(folder, memory__limit_in_bytes=3 * GIB, memory__usage_in_bytes=GIB)
    group(folder, memory__stat=f"inactive_file {GIB}\ntotal_inactive_file 0")
    assert available_bytes(CPU, root) == 2 * GIB


def test_a_system_that_tells_nothing_refuses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory.os, "sysconf", _unknown)
    assert available_bytes(CPU, tmp_path) is None
    monkeypatch.setattr(memory, "available_bytes", lambda _: None)
    require_memory(2**80, CPU, "everything", "wait")


def test_freed_memory_is_kept_inside_of_the_block_and_returned_after_any_end_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings: dict[int, int] = {}
    trimmed: list[int] = []
    library = SimpleNamespace(mallopt=settings.__setitem__, malloc_trim=trimmed.append)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: library)

    @memory.kept()
    def fail() -> None:
        assert settings == memory._KEEPING
        assert not trimmed
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert settings == memory._USUAL
    assert trimmed == [0]


def test_another_library_than_glibc_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: SimpleNamespace())
    with memory.kept():
        pass


def _unknown(_: str) -> int:
    raise ValueError("unrecognized configuration name")


def test_this_computer_has_memory() -> None:
    available = available_bytes(CPU)
    assert available is None or available > 2**20


def test_what_does_not_fit_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda _: GIB)
    require_memory(GIB, CPU, "the fit", "take fewer samples")
    with pytest.raises(ValueError, match=r"^the fit must fit into memory, but needs 1\.5 GiB of "
                       r"the 1\.0 GiB that are free on cpu; take fewer samples\.$"):  # fmt: skip
        require_memory(3 * GIB // 2, CPU, "the fit", "take fewer samples")
