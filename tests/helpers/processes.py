"""Processes that start with the large packages imported, which takes a fresh one many seconds."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing.context import ForkServerContext
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRELOADED = ["torch", "torch._dynamo", "timm", "pytest", "jaxtyping", "sklearn.linear_model"]
PRELOADED += ["submitit", "launchers.main", "launchers.sweep", "ssl_transfer.runs.execution"]


def prepared() -> ForkServerContext:
    """Return the context of processes that start from a server with these imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def run_py(
    folder: Path, *arguments: str, variables: Mapping[str, str] | None = None, timeout: float = 200
) -> "subprocess.CompletedProcess[str]":
    """Run ``python run.py`` as a user does, from another folder than the repository's.

    Args:
        folder: the current folder of the process; its outputs are written below ``out``.
        arguments: of the command.
        variables: of the environment, besides those of this process.
        timeout: seconds after which the process counts as one that hangs.
    """
    own = {"OMP_NUM_THREADS": "1", "SSL_TRANSFER_OUTPUTS": str(folder / "out")}
    environment = {**os.environ, **own, **(variables or {})}
    command = [str(ROOT / "run.py"), *arguments]
    with tempfile.TemporaryDirectory() as printed:
        files = [Path(printed, name) for name in ("stdout", "stderr")]
        process = prepared().Process(target=_main, args=(folder, command, environment, files))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(command, timeout)
        code = process.exitcode
        process.close()
        return subprocess.CompletedProcess(command, code, *(file.read_text() for file in files))


def _main(folder: Path, command: list[str], environment: dict[str, str], files: list[Path]) -> None:
    """Be the process of a command that prints to two files."""
    for descriptor, file in enumerate(files, start=1):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[:] = command
    runpy.run_path(command[0], run_name="__main__")
