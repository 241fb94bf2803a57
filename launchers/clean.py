"""The command ``python -m launchers clean``: shows leftovers with their sizes, and removes them."""

import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

from launchers import leftovers
from launchers.leftovers import Leftover, State, Survey, size_of
from launchers.sweep import count, say
from launchers.sweep import size as readable
from ssl_transfer.datasets.decoded import DATASET
from ssl_transfer.system import claims
from ssl_transfer.system.plain_text import printable

SHOWN = 5
"""Number of leftovers of a kind that are listed one by one."""

_UNNAMED = (
    "{} of these decoded images without the name of a data set; you may remove them, because "
    "missing ones are made again"
)


def clean(outputs: Path, *, remove: bool) -> int:
    """Print the leftovers below an outputs folder by kind, with sizes; return the exit code.

    Args:
        outputs: folder of all runs.
        remove: whether to remove them; otherwise they are only listed.
    """
    if not outputs.is_dir():
        _complain(f"OUTPUTS must be the folder of all runs, but `{outputs}` does not exist; name "
                  "the folder of `paths.outputs`.")  # fmt: skip
        return 2
    found = leftovers.survey(outputs)
    sizes = [part.size for part in found.leftovers]  # before anything is removed
    _list(found.leftovers, sizes)
    staying = list(_staying(outputs, found, sizes))
    removed, failed = 0, 0
    for part, size in zip(found.leftovers, sizes, strict=True) if remove else ():
        try:
            removed += size if _remove(part) else 0
        except OSError as error:  # e.g. files of another user
            failed += 1
            _complain(f"`{part.paths[0]}` must be removable, but {error.strerror or error}; ask "
                      "its owner to remove it.")  # fmt: skip
    for size, reason in staying:
        say(f"{readable(size):>10}  stays: {reason}")
    if not found.leftovers:
        say("nothing to remove")
    elif remove:
        say(f"removed {readable(removed)}")
    else:
        say(f"{readable(sum(sizes))} could be removed; add --yes to remove it")
    return 1 if failed else 0


def _complain(sentence: str) -> None:
    print(f"error: {printable(sentence)}", file=sys.stderr)


def _list(found: list[Leftover], sizes: list[int]) -> None:
    """Print the leftovers by kind, the largest of each kind by name."""
    for kind in dict.fromkeys(part.kind for part in found):
        pairs = [(size, part) for size, part in zip(sizes, found, strict=True) if part.kind == kind]
        pairs.sort(key=lambda pair: -pair[0])
        say(f"{readable(sum(size for size, _ in pairs)):>10}  {kind} ({len(pairs)})")
        for size, part in pairs[:SHOWN]:
            say(f"{'':12}{readable(size):>8}  {part.paths[0]}")
        if len(pairs) > SHOWN:
            say(f"{'':12}… and {len(pairs) - SHOWN} more")


def _remove(part: Leftover) -> bool:
    """Remove a leftover and return True, unless its run has been claimed or has changed since."""
    folder = part.folder
    if folder is None:
        for path in part.paths:
            _delete(path)
        return True
    # `try_claim` would succeed for a run of the job that this process belongs to.
    if not folder.is_dir() or claims.is_alive(folder / claims.NAME):
        return False
    if not claims.try_claim(folder):
        return False
    try:
        # The claim in the folder is now that of this process.
        if part not in leftovers.of_run(leftovers.look(folder, is_claimed=True)):
            return False
        for path in part.paths:
            _delete(path)
        return True
    finally:
        claims.release(folder)


def _delete(path: Path) -> None:
    """Remove a file or folder; a folder gets another name first, so that no process works in it."""
    if path.is_dir() and not path.is_symlink():
        # If this process is killed, the next `clean` still finds a run by the end of its name.
        doomed = path.with_name(f".removed-{uuid.uuid4().hex[:4]}_{path.name}")
        path.rename(doomed)
        shutil.rmtree(doomed)
    else:
        path.unlink(missing_ok=True)


def _staying(outputs: Path, found: Survey, sizes: list[int]) -> Iterator[tuple[int, str]]:
    """Yield the size of what stays, and what it is and why."""

    def rest(folder: Path) -> int:
        parts = zip(found.leftovers, sizes, strict=True)
        return size_of(folder) - sum(s for p, s in parts if p.paths[0].is_relative_to(folder))

    reasons: dict[State, tuple[str, str]] = {
        "live": ("run in progress", "everything"),
        "waiting": ("run of a sweep in progress", "everything"),
        "finished": ("finished run", "records, predictions, kept encoders and heads"),
        "interrupted": ("interrupted run", "the same command continues it"),
        "unreadable": ("folder", "its record or failure is damaged, or names another folder"),
    }
    for state, (noun, reason) in reasons.items():
        if runs := found.of(state):
            yield sum(rest(run.path) for run in runs), f"{count(len(runs), noun)} ({reason})"
    why = "a run in progress may read them" if found.of("live") else "finished runs read them"
    for name, what in (("features", "features"), ("decoded", "decoded images")):
        if size := rest(outputs / name):
            yield size, f"{what} ({why})"
    unnamed = [path.parent for path in outputs.glob("decoded/*/pixels")
               if not any(path.parent.glob(f"{DATASET}*"))]  # fmt: skip
    if unnamed:  # of older code
        yield sum(map(size_of, unnamed)), _UNNAMED.format(count(len(unnamed), "store"))
