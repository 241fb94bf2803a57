"""Which code computed a run: commit, uncommitted changes, versions."""

import functools
import hashlib
import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
"""The folder that the code runs from: the clone, or a snapshot of it."""

SUBMITTED = "SSL_TRANSFER_CODE"
"""Environment variable in a job: what ``code`` said when it was submitted, as JSON."""


def git(*arguments: str) -> str | None:
    """Return what git says about the folder of the code, or None where there is none to ask."""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:
        return None  # no git on this machine
    return done.stdout if done.returncode == 0 else None


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a score may depend on."""
    packages = ("torch", "torchvision", "timm", "hydra-core", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


@functools.cache
def fingerprint() -> str:
    """Return 16 hex digits of the source files that a score may depend on."""
    hasher = hashlib.sha256()
    for path in sorted((ROOT / "ssl_transfer").rglob("*.py")):
        hasher.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return hasher.hexdigest()[:16]


@functools.cache
def code() -> dict[str, Any]:
    """Return commit, whether files were changed since, and whether they were since submission."""
    state: dict[str, Any] = {
        "revision": (git("rev-parse", "HEAD") or "").strip() or None,
        "dirty": bool((git("status", "--porcelain") or "").strip()),
        "fingerprint": fingerprint(),
    }
    if text := os.environ.get(SUBMITTED):
        submitted = json.loads(text)
        changed = submitted["fingerprint"] != state["fingerprint"]
        # A snapshot has no repository that could tell the commit; the submission could.
        state = {**(state if changed else submitted), "changed_since_submission": changed}
    return state
