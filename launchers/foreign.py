"""What the files of somebody else's sweep ask for that only the user may decide.

``python -m launchers retry`` executes what ``sweep.json`` and ``runs.jsonl.gz`` say. Unless the
user sent the sweep (``launchers.signature``) or vouches for it, no unknown code is called
(``ssl_transfer.config.trust``), no shell command reaches a batch file, and nothing is written
outside of the outputs folder and of the folders that the user's own configuration names.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from launchers.sweep_folder import SweepFolder
from ssl_transfer.config import compose, plain, resolve
from ssl_transfer.config.trust import FLAG, foreign_targets, is_inside, strangers
from ssl_transfer.runs import Run, graph

_SHELL = ("setup", "additional")
"""Keys of ``Resources`` that become lines of a batch file as they are."""


def problems(sweep_folder: SweepFolder, runs: Sequence[Run]) -> list[str]:
    """Return one sentence for everything that needs the user's word; empty if nothing does.

    Args:
        sweep_folder: of the sweep.
        runs: the sweep's, as its file configures them.

    """
    source = str(sweep_folder.folder / "runs.jsonl.gz")
    about = str(sweep_folder.folder / "sweep.json")
    found = list(_shell_lines(sweep_folder.about.get("launcher"), about))
    allowed = _own_folders(sweep_folder)
    for run in graph(runs):
        try:
            found += foreign_targets(run.config, source)
        except ValueError as error:  # an interpolation that stands for nothing here
            found.append(str(error))
        for axis in ("method", "protocol"):
            found += _shell_lines((run.config.get(axis) or {}).get("resources"), source)
        if not found:
            found += _outside(run, allowed, source)
    return list(dict.fromkeys(found))


def _own_folders(sweep_folder: SweepFolder) -> set[Path]:
    """Return the outputs folder, and those that the user's own configuration names here."""
    paths = resolve(plain(compose()))["paths"]
    own = [Path(value) for value in paths.values() if isinstance(value, str)]
    return {path.expanduser().resolve() for path in (sweep_folder.outputs, *own)}


def _outside(run: Run, allowed: set[Path], source: str) -> Iterator[str]:
    """Yield a sentence for every folder that a run would write to and that is not the user's."""
    places = [(f"paths.{key}", Path(value)) for key, value in run.resolved["paths"].items()
              if isinstance(value, str) and key not in ("data", "weights")]  # fmt: skip
    found = [(key, path) for key, path in places if not is_inside(path, allowed)]
    if not is_inside(run.folder, allowed):  # through a link
        found.append(("the run's folder", run.folder))
    found += strangers(run.resolved, allowed)
    for key, path in found:
        yield (
            "what is sent again must write below the outputs folder or the folders of your own "
            f"`conf/paths`, but `{key}` in `{source}` is `{path}`; add {FLAG} if you trust whoever "
            "wrote that file."
        )


def _shell_lines(options: Any, source: str, path: str = "") -> Iterator[str]:
    """Yield a sentence for every option that would put text of its own into a batch file."""
    if isinstance(options, list | tuple):
        options = dict(enumerate(options))
    if not isinstance(options, Mapping):
        if isinstance(options, str) and not options.isprintable():
            yield _shell_line(path, source)
        return
    for key, value in options.items():
        here = f"{path}.{key}" if path else str(key)
        if key in _SHELL and value:
            yield _shell_line(here, source)
        else:
            yield from _shell_lines(value, source, here)


def _shell_line(key: str, source: str) -> str:
    return (
        f"a batch file must hold no commands that came from a file, but `{key}` in `{source}` has "
        f"some; read them, and add {FLAG} if you trust whoever wrote them."
    )
