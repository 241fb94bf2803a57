"""The folder of a sweep: its command, its runs, its code and the files of its jobs.

outputs/sweeps/<time>_<id>/sweep.json      command, run ids and folders, launcher, code
                           runs.jsonl.gz   every run's frozen configuration
                           changes.diff    uncommitted changes of the code
                           jobs/           logs
                           code/           a copy of the code (``hydra.launcher.snapshot=true``)
"""

import contextlib
import datetime
import gzip
import itertools
import json
import logging
import re
import shlex
import shutil
import socket
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launchers import signature
from launchers.sweep import Outcome, SweepRefused
from ssl_transfer.runs import Run, graph
from ssl_transfer.runs.identity import digest
from ssl_transfer.system import provenance, slurm
from ssl_transfer.system.files import Unreadable, read_json, write_atomically, write_json

log = logging.getLogger(__name__)


class SweepFolder:
    """The folder of one sweep."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.about = _about(folder / "sweep.json")
        except Unreadable as error:
            raise SweepRefused(
                [f"{error}; the runs' own records are unharmed: send the sweep's command again, or "
                 "name another by --sweep=…."]
            ) from error  # fmt: skip
        for place in self.places().values():
            # A file must not make this process read or write outside of the outputs.
            if place.startswith("/") or ".." in place.split("/"):
                raise SweepRefused(
                    [f"`{folder / 'sweep.json'}` must name folders below the outputs, but names "
                     f"`{place}`; restore the file."]
                )  # fmt: skip

    @classmethod
    def create(
        cls, runs: Sequence[Run], outputs: Path, launcher: Mapping[str, Any]
    ) -> "SweepFolder":
        """Write the folder of a new sweep.

        Args:
            runs: the runs of the command line.
            outputs: the folder of all runs.
            launcher: the launcher's name and options, for ``python -m launchers retry``.

        Raises:
            SweepRefused: if the folder cannot be written.
        """
        now = datetime.datetime.now().astimezone()
        ids = list(dict.fromkeys(run.id for run in runs))
        name = f"{now:%Y-%m-%d_%H-%M-%S}_{digest(sorted(ids))[:6]}"
        every, requested = graph(runs), set(ids)
        facts: dict[str, Any] = {
            "command": _command_line(),
            "directory": str(Path.cwd()),
            "user": slurm.user(),
            "host": socket.gethostname(),
            "when": now.isoformat(timespec="seconds"),
            "launcher": dict(launcher),
            "code": provenance.code(),
            "runs": ids,
            "folders": list(dict.fromkeys(run.place for run in runs)),
            "required": {run.id: run.place for run in every if run.id not in requested},
            "failures": {},
            "computed": 0,
        }
        lines = "".join(json.dumps(run.config, separators=(",", ":")) + "\n" for run in every)
        packed = gzip.compress(lines.encode(), 1)
        facts["signature"] = signature.sign(packed, dict(launcher))
        try:
            folder = _new_folder(outputs / "sweeps" / name)
            write_atomically(folder / "runs.jsonl.gz", packed)
            if changes := provenance.git("diff", "HEAD"):
                write_atomically(folder / "changes.diff", changes.encode())
            write_json(folder / "sweep.json", facts)
        except OSError as error:
            raise SweepRefused([str(error)]) from error
        return cls(folder)

    @classmethod
    def find(cls, outputs: Path, name: str = "latest") -> "SweepFolder":
        """Return the sweep of this name, or the latest.

        Raises:
            SweepRefused: if there is none; the message lists the newest five.
        """
        known = sorted(path.parent.name for path in outputs.glob("sweeps/*/sweep.json"))
        chosen = known[-1] if name == "latest" and known else name
        for folder in (outputs / "sweeps" / chosen, Path(chosen)):
            if (folder / "sweep.json").is_file():
                return cls(folder)
        newest = f"; known: {', '.join(reversed(known[-5:]))}" if known else ", but there is none"
        raise SweepRefused(
            [f"`--sweep` must name a sweep below `{outputs / 'sweeps'}`, but is `{name}`{newest}."]
        )

    @property
    def jobs(self) -> Path:
        """The folder of the jobs' logs and of submitit's files."""
        return self.folder / "jobs"

    @property
    def outputs(self) -> Path:
        """The folder of all runs."""
        return self.folder.parent.parent

    def places(self) -> dict[str, str]:
        """Return run id -> folder below ``outputs``, requirements first."""
        requested = dict(zip(self.about["runs"], self.about["folders"], strict=True))
        return {**self.about.get("required", {}), **requested}

    @property
    def is_own(self) -> bool:
        """Whether this user sent the sweep and its files are unchanged since."""
        packed = (self.folder / "runs.jsonl.gz").read_bytes()
        return signature.is_own(self.about.get("signature"), packed, self.about.get("launcher"))

    def runs(self) -> list[Run]:
        """Return every run with its configuration at submission, requirements first.

        Raises:
            SweepRefused: if the file is damaged or belongs to another sweep.
        """
        path = self.folder / "runs.jsonl.gz"
        try:
            with gzip.open(path, "rt", encoding="utf-8") as file:
                runs = [Run(json.loads(line)) for line in file]
            places = {run.place for run in runs}
            missing = [place for place in self.about["folders"] if place not in places]
        except (OSError, EOFError, zlib.error, ValueError, TypeError, KeyError) as error:
            raise SweepRefused(
                [f"`{path}` must hold the sweep's runs, but cannot be read ({error}); send the "
                 "sweep's command again."]
            ) from error  # fmt: skip
        if missing:
            raise SweepRefused(
                [f"`{path}` must hold the runs of `sweep.json`, but lacks `{missing[0]}`: it "
                 "belongs to another sweep or another version; send the sweep's command again."]
            )  # fmt: skip
        return runs

    def note(self, outcome: Outcome) -> None:
        """Write the outcome of the sweep to ``sweep.json``."""
        self.about |= {"failures": outcome.failures, "computed": outcome.computed}
        try:
            write_json(self.folder / "sweep.json", self.about)
        except OSError as error:  # e.g. a full disk: the tables are shown anyway
            log.warning("%s", error)
        outcome.folder = self.folder

    def tidy(self) -> None:
        """Remove submitit's files of ended jobs, because file systems limit the number of files."""
        pattern = re.compile(r"(\d+)(_\d+)?_(\d+_)?(submitted|result)\.pkl")
        matches = [
            match for path in self.jobs.glob("*.pkl") if (match := pattern.fullmatch(path.name))
        ]
        try:
            known = slurm.queue({match[1] for match in matches})
        except slurm.NoAnswer:
            return  # some jobs may still need their files
        alive = {job.id.partition("_")[0] for job in known.values() if not job.is_over}
        for match in matches:
            if match[1] not in alive:
                with contextlib.suppress(FileNotFoundError, PermissionError):  # not our sweep
                    (self.jobs / match[0]).unlink()

    def snapshot(self) -> Path:
        """Copy the tracked files in their present state; return the copy's folder.

        Raises:
            SweepRefused: if the code is not in a git repository.
        """
        tracked = provenance.git("ls-files", "-z")
        if tracked is None:
            raise SweepRefused(
                [f"`hydra.launcher.snapshot=true` needs the code in a git repository, but "
                 f"`{provenance.ROOT}` is none; leave it out."]
            )  # fmt: skip
        for name in filter(None, tracked.split("\0")):
            source, copy = provenance.ROOT / name, self.folder / "code" / name
            if source.is_file():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, copy)
        return self.folder / "code"


def _command_line() -> str:
    """Return the command line that the user typed, as far as the process knows it."""
    program, *arguments = sys.orig_argv[1:] or [""]
    if Path(program).name == "ssl-transfer":  # the script that pip installed
        return shlex.join(["ssl-transfer", *arguments])
    return shlex.join(["python", program, *arguments])


def _new_folder(folder: Path) -> Path:
    """Create a new folder; two sweeps may be sent in the same second."""
    for number in itertools.count(1):
        unique = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        try:
            unique.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise OSError(
                f"`{folder.parent}` must be writable with space left on its disk, but "
                f"{error.strerror}; choose another folder by paths.outputs=…."
            ) from error
        return unique
    raise AssertionError


def _about(path: Path) -> dict[str, Any]:
    """Return the content of ``sweep.json``.

    Raises:
        Unreadable: if it cannot be read or lacks a required key.
    """
    facts = read_json(path)
    if facts is None:
        raise Unreadable(f"`{path}` is missing")
    names, folders = facts.get("runs"), facts.get("folders")
    required = facts.get("required", {})
    if not (isinstance(names, list) and isinstance(folders, list) and isinstance(required, dict)):
        raise Unreadable(f"`{path}` is damaged (no valid runs, folders, required)")
    if len(names) != len(folders):
        raise Unreadable(f"`{path}` is damaged (it must name as many folders as runs)")
    if not all(isinstance(text, str) for text in (*names, *folders, *required.values())):
        raise Unreadable(f"`{path}` is damaged (names of runs and folders must be text)")
    launcher = facts.get("launcher")
    if not isinstance(launcher, dict) or not isinstance(launcher.get("name"), str):
        raise Unreadable(f"`{path}` is damaged (it must name the launcher)")
    return facts
