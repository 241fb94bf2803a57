"""Signatures of a user's own sweeps and compositions: a keyed hash with the user's secret key.

``python -m launchers retry`` may call any code that the user's own sweep names, because the user
typed its configuration. The owner of a file proves nothing: files that a user unpacked or copied
belong to that user, too. The key is in ``$XDG_STATE_HOME/ssl_transfer/key`` (by default below
``~/.local/state``).
"""

import contextlib
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_LENGTH = 32  # bytes


def sign(runs: bytes, launcher: Mapping[str, Any]) -> str | None:
    """Return the signature of a sweep's runs and launcher; None if no key can be stored.

    Args:
        runs: content of ``runs.jsonl.gz``.
        launcher: the launcher's name and options.
    """
    signs = signer()
    return signs and signs(json.dumps(launcher, sort_keys=True).encode() + b"\0" + runs)


def signer() -> Callable[[bytes], str] | None:
    """Return the function that computes signatures; None if no key can be stored."""
    key = _key()
    if key is None:
        return None
    return lambda content: hmac.new(key, content, hashlib.sha256).hexdigest()


def is_own(signature: Any, runs: bytes, launcher: Any) -> bool:
    """Return whether this user signed a sweep."""
    expected = sign(runs, launcher)
    return (
        expected is not None
        and isinstance(signature, str)
        and hmac.compare_digest(expected.encode(), signature.encode())
    )


def _key() -> bytes | None:
    """Return the user's key, created by the first call; None if it cannot be stored."""
    try:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        path = Path(state) / "ssl_transfer" / "key"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _create(path)
        key = path.read_bytes()
    except (OSError, RuntimeError):  # no home folder, or a full or read-only one
        return None
    return key if len(key) == _LENGTH else None


def _create(path: Path) -> None:
    """Write a key that other users cannot read, unless another process just wrote one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_LENGTH))
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
