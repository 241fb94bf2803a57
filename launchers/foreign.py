"""Security checks of another user's sweep before it is sent again.

``python -m launchers retry`` executes the runs of ``sweep.json`` and ``runs.jsonl.gz``. Unless the
user sent the sweep (``launchers.signature``) or trusts it explicitly, it must call no unknown code
(``ssl_transfer.config.trust``), put no shell commands into batch files, and write only to the
outputs folder and to folders that the user's own configuration names.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from launchers.sweep_folder import SweepFolder
from ssl_transfer.config import compose, plain, resolve
from ssl_transfer.config.trust import FLAG, foreign_targets, is_inside, strangers
from ssl_transfer.runs import Run, graph

_SHELL = ("setup", "additional")
"""Keys of ``Resources`` whose values are copied into a batch file."""


def problems(sweep_folder: SweepFolder, runs: Sequence[Run]) -> list[str]:
    """Return one sentence for everything that needs the user's permission.

    Args:
        sweep_folder: the folder of the sweep.
        runs: the sweep's runs as its file configures them.
    """
    source = str(sweep_folder.folder / "runs.jsonl.gz")
    sweep_json = str(sweep_folder.folder / "sweep.json")
    sentences = list(_shell_lines(sweep_folder.about.get("launcher"), sweep_json))
    allowed = _own_folders(sweep_folder)
    for run in graph(runs):
        try:
            sentences += foreign_targets(run.config, source)
        except ValueError as error:  # an interpolation that does not resolve here
            sentences.append(str(error))
        for axis in ("method", "protocol"):
            sentences += _shell_lines((run.config.get(axis) or {}).get("resources"), source)
        if not sentences:
            sentences += _outside(run, allowed, source)
    return list(dict.fromkeys(sentences))


def _own_folders(sweep_folder: SweepFolder) -> set[Path]:
    """Return the outputs folder and the folders of the user's own configuration."""
    paths = resolve(plain(compose()))["paths"]
    own = [Path(value) for value in paths.values() if isinstance(value, str)]
    return {path.expanduser().resolve() for path in (sweep_folder.outputs, *own)}


def _outside(run: Run, allowed: set[Path], source: str) -> Iterator[str]:
    """Yield a sentence for every folder outside of the allowed ones that a run would write to."""
    places = [(f"paths.{key}", Path(value)) for key, value in run.resolved["paths"].items()
              if isinstance(value, str) and key not in ("data", "weights")]  # fmt: skip
    outside = [(key, path) for key, path in places if not is_inside(path, allowed)]
    if not is_inside(run.folder, allowed):  # through a link
        outside.append(("the run's folder", run.folder))
    outside += strangers(run.resolved, allowed)
    for key, path in outside:
        yield (
            "what is sent again must write below the outputs folder or the folders of your own "
            f"`conf/paths`, but `{key}` in `{source}` is `{path}`; add {FLAG} if you trust the "
            "author of that file."
        )


def _shell_lines(options: Any, source: str, path: str = "") -> Iterator[str]:
    """Yield a sentence for every option that would put arbitrary text into a batch file."""
    if isinstance(options, list | tuple):
        options = dict(enumerate(options))
    if not isinstance(options, Mapping):
        if isinstance(options, str) and not options.isprintable():
            yield _shell_line(path, source)
        return
    for key, value in options.items():
        key_path = f"{path}.{key}" if path else str(key)
        if key in _SHELL and value:
            yield _shell_line(key_path, source)
        else:
            yield from _shell_lines(value, source, key_path)


def _shell_line(key: str, source: str) -> str:
    return (
        f"a batch file must contain no commands from another user's file, but `{key}` in "
        f"`{source}` has some; read them, and add {FLAG} if you trust their author."
    )
