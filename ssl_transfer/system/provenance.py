"""The code that computes a run: commit, uncommitted changes, package versions."""

import functools
import hashlib
import json
import os
import platform
import site
import subprocess
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
"""The folder that the code runs from: the clone, a snapshot of it, or ``site-packages``."""

SUBMITTED = "SSL_TRANSFER_CODE"
"""Environment variable in a job: the value of ``code`` at submission, as JSON."""


def git(*arguments: str) -> str | None:
    """Return the output of a git command on the code; None if no repository tracks the code.

    A virtual environment or a snapshot often lies inside the repository of another project, whose
    commit says nothing about this code.
    """
    if _git("ls-files", "--error-unmatch", ".") is None:
        return None
    return _git(*arguments)


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:
        return None  # no git on this machine
    return done.stdout if done.returncode == 0 else None


def is_installed() -> bool:
    """Return whether the code lies in a folder of installed packages."""
    folders = (*site.getsitepackages(), site.getusersitepackages())
    return ROOT in {Path(folder).resolve() for folder in folders}


def search_path(code: Path | None = None) -> str:
    """Return the ``PYTHONPATH`` for another process that imports the code.

    Args:
        code: the folder of the code (``None``: that of this process).
    """
    # Site-packages at the front of the path would hide modules of the standard library.
    own = [] if code in (None, ROOT) and is_installed() else [str(code or ROOT)]
    return os.pathsep.join(filter(None, [*own, os.environ.get("PYTHONPATH")]))


def _installed_revision() -> str | None:
    """Return the commit that pip installed from, or the version of an installed release."""
    try:
        package = distribution("ssl_transfer")
    except PackageNotFoundError:
        return None
    origin = json.loads(package.read_text("direct_url.json") or "{}")  # PEP 610
    commit = origin.get("vcs_info", {}).get("commit_id")
    return str(commit) if commit else f"v{package.version}"


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


def _commit() -> str | None:
    return (git("rev-parse", "HEAD") or "").strip() or None


@functools.cache
def code() -> dict[str, Any]:
    """Return the revision of the code, and whether it has uncommitted or later changes.

    The revision is the commit. For an installed package it is the commit that pip installed from,
    or the version (``v0.1.0``). It is None if neither is known.
    """
    state: dict[str, Any] = {
        "revision": _installed_revision() if is_installed() else _commit(),
        "dirty": bool((git("status", "--porcelain") or "").strip()),
        "fingerprint": fingerprint(),
    }
    if text := os.environ.get(SUBMITTED):
        submitted = json.loads(text)
        changed = submitted["fingerprint"] != state["fingerprint"]
        # A snapshot has no repository; the submitting process knew the commit.
        state = {**(state if changed else submitted), "changed_since_submission": changed}
    return state
