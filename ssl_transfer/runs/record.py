"""Reading of a run's record or failure. A damaged file counts as missing."""

import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_transfer.system.files import Unreadable, read_json

log = logging.getLogger(__name__)

SCHEMA = 1
"""Version of both files; a newer one is not read."""

_RECORD: dict[str, type | tuple[type, ...]] = {
    "status": str, "scores": list, "encoder": dict, "duration_s": (int, float)
}  # fmt: skip
_FAILURE: dict[str, type | tuple[type, ...]] = {"error": str, "stage": str, "traceback": str}


def read_record(path: Path, run_id: str) -> dict[str, Any] | None:
    """Return a finished run's record; None if it is missing or unusable.

    An unusable file is logged once per process.
    """
    return _readable(path, _RECORD, run_id)


def read_failure(path: Path, run_id: str) -> dict[str, Any] | None:
    """Return a run's failure; None if it is missing or unusable.

    An unusable file is logged once per process.
    """
    return _readable(path, _FAILURE, run_id)


def _readable(
    path: Path, required: Mapping[str, type | tuple[type, ...]], run_id: str
) -> dict[str, Any] | None:
    """Return a run's record or failure; None if it is missing, or unusable, which is logged."""
    try:
        document = read_json(path, schema=SCHEMA)
        if document is None:
            return None
        if document.get("run_id") != run_id:
            raise Unreadable(f"`{path}` belongs to another run ({document.get('run_id')})")
        wrong = [key for key, kind in required.items() if not isinstance(document.get(key), kind)]
        if not wrong and not all(_is_score(score) for score in document.get("scores", ())):
            wrong = ["scores"]
        if wrong:
            raise Unreadable(f"`{path}` is damaged (no valid {', '.join(wrong)})")
    except Unreadable as error:
        _warn_of_unreadable(str(error))
        return None
    return document


def _is_score(score: Any) -> bool:
    kinds: dict[str, type | tuple[type, ...]]
    kinds = {"metric": str, "unit": str, "value": (int, float)}
    return isinstance(score, dict) and all(
        isinstance(score.get(key), kind) for key, kind in kinds.items()
    )


@functools.lru_cache(maxsize=1024)
def _warn_of_unreadable(what: str) -> None:
    """Log once per process that a file is ignored."""
    log.warning("%s; the run counts as if the file were not there.", what)
