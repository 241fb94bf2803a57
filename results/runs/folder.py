"""The search for one run by its id or its folder."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from results.errors import ResultsError
from results.records.reading import all_folders, load_document

_SHORT = 8
"""Number of characters of the id at the end of a folder's name."""
_LEFT_BY_RUNS = ("record.json", "failure.json", "metrics.jsonl", "claim.json")


@dataclasses.dataclass(frozen=True)
class SingleRun:
    """One run.

    Args:
        folder: the folder of its files.
        document: its record, or its failure; empty if it has left neither.
    """

    folder: Path
    document: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The run's id; its first eight characters if there is neither record nor failure."""
        return str(self.document.get("run_id") or _short_id(self.folder))

    @property
    def status(self) -> str:
        """``finished``, ``not applicable``, ``failed`` or ``unfinished``."""
        if "error" in self.document:
            return "failed"
        return str(self.document.get("status") or "unfinished").replace("_", " ")


def find_run(outputs: Path, name: str) -> SingleRun:
    """Return the run that a name means.

    Args:
        outputs: the folder that runs write to.
        name: an id or the unique start of one; or a run's folder, or a file in it.

    Raises:
        ResultsError: if no run or more than one has this name, or its record is damaged.
    """
    given = Path(name).expanduser()
    places = [given, outputs / given] if "/" in name else [given]
    for place in places:
        folder = place.parent if place.is_file() else place
        if _is_run(folder):
            return SingleRun(folder, load_document(folder) or {})
        if folder.is_dir() and "/" in name:
            raise ResultsError(
                f"the folder of a run must hold record.json, failure.json or metrics.jsonl, but "
                f"`{folder}` holds none of them; name the folder of one run."
            )
    if not outputs.is_dir():
        raise ResultsError(
            f"`--outputs` must be the folder that runs write to, but `{outputs}` is no folder; "
            f"start a run first, or name another one."
        )
    return _by_id(outputs, name)


def _by_id(outputs: Path, name: str) -> SingleRun:
    folders = [folder for folder in all_folders(outputs) if _is_run(folder)]
    found = []
    for folder in folders:
        if name and _short_id(folder).startswith(name[:_SHORT]):
            run = SingleRun(folder, load_document(folder) or {})
            if run.id.startswith(name) or (not run.document and name.startswith(run.id)):
                found.append(run)
    if len(found) == 1:
        return found[0]
    if found:
        raise ResultsError(
            f"the name of a run must fit one run, but `{name}` fits {len(found)} "
            f"({_some([run.folder for run in found])}); give more characters, or the folder."
        )
    raise ResultsError(
        f"the name of a run must be an id, the start of an id, or a run's folder, but no run in "
        f"`{outputs}` is `{name}`; known runs: {_some(folders)}."
    )


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _LEFT_BY_RUNS)


def _short_id(folder: Path) -> str:
    """Return the start of the id of a run, with which the name of its folder ends."""
    return folder.absolute().name.rpartition("_")[2]


def _some(folders: Sequence[Path]) -> str:
    """Return the first five folders as text."""
    names = [f"`{folder}`" for folder in folders[:5]]
    more = [f"{len(folders) - 5} more"] if len(folders) > 5 else []
    return ", ".join([*names, *more]) or "none"
