"""Commands of SLURM that say what a test tells them to, and remember how they were called."""

import dataclasses
from pathlib import Path

import pytest

from ssl_transfer.system import slurm as cluster


@dataclasses.dataclass
class FakeSlurm:
    """A folder in front of everything else on the PATH.

    Args:
        folder: for the commands.
        patch: of the test.
    """

    folder: Path
    patch: pytest.MonkeyPatch

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.patch.setenv("PATH", str(self.folder))  # nothing else: a real SLURM may be installed
        self.says("squeue")
        self.says("sacct", error="Slurm accounting storage is disabled", code=1)

    def says(self, command: str, text: str = "", *, error: str = "", code: int = 0) -> None:
        """Let a command print this and exit so."""
        path = self.folder / command
        (self.folder / f"{command}.out").write_text(text)
        (self.folder / f"{command}.err").write_text(error)
        path.write_text(
            f'#!/bin/sh\necho "$@" >> {path}.calls\n'
            f"/bin/cat {path}.out\n/bin/cat {path}.err >&2\nexit {code}\n"
        )
        path.chmod(0o755)
        # What an earlier answer was believed for.
        cluster._answers.clear()
        cluster._silent_until = -float("inf")
        cluster.configuration.cache_clear()

    def queue(self, *lines: str) -> None:
        """Let the queue hold these jobs, written as ``id|state|reason|nodes``."""
        self.says("squeue", "".join(f"{line}\n" for line in lines))

    def forget(self) -> None:
        """Let the queue know no job any more."""
        self.says("squeue", error="slurm_load_jobs error: Invalid job id specified\n", code=1)

    def is_silent(self) -> None:
        """Let the controller not answer."""
        told = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
        self.says("squeue", error=told, code=1)

    def calls(self, command: str) -> list[str]:
        """Return the arguments of each call."""
        path = self.folder / f"{command}.calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    for name in ("SUBMITIT_EXECUTOR", "SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    return FakeSlurm(tmp_path / "commands", monkeypatch)
