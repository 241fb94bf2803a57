"""Which sweeps and compositions are this user's: a keyed hash that nobody else can make.

``python -m launchers retry`` may call any code that the user's own sweep names, for the user typed
it. Who owns a file does not tell whose it is: what is unpacked or copied belongs to whoever does
so. The key lies in ``$XDG_STATE_HOME/ssl_transfer/key`` (``~/.local/state`` without that variable).
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
    """Return the signature of a sweep's runs and launcher; None where no key can be kept.

    Args:
        runs: content of ``runs.jsonl.gz``.
        launcher: its name and options.
    """
    signs = signer()
    return signs and signs(json.dumps(launcher, sort_keys=True).encode() + b"\0" + runs)


def signer() -> Callable[[bytes], str] | None:
    """Return what makes hashes that nobody else can make; None where no key can be kept."""
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
    """Return the user's key, made at the first call; None where it cannot be kept."""
    try:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        path = Path(state) / "ssl_transfer" / "key"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _create(path)
        key = path.read_bytes()
    except (OSError, RuntimeError):  # a user without a home, or with a full or read-only one
        return None
    return key if len(key) == _LENGTH else None


def _create(path: Path) -> None:
    """Write a key that no other user can read; one of another process at the same time wins."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_LENGTH))
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
