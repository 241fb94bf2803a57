"""Runs the examples of README and of ``docs/`` as the pages print them."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: str) -> list[tuple[str, str]]:
    """Return the language and the text of each code block of a page, by its path in the clone."""
    return BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


def run_script(script: str, folder: Path, commands: Path) -> "subprocess.CompletedProcess[str]":
    """Run a shell script in a folder, with the commands that an installation has.

    Args:
        script: the script; it ends at its first command that fails.
        folder: where it runs.
        commands: an empty or new folder for the commands and for the cache.
    """
    commands.mkdir(parents=True, exist_ok=True)
    programs = {"python": "", "ssl-transfer": "-P -m launchers.main"}
    for name, module in programs.items():
        (commands / name).write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{ROOT}" '
                                     f'exec "{sys.executable}" {module} "$@"\n')  # fmt: skip
        (commands / name).chmod(0o755)
    return subprocess.run(
        ["sh", "-ec", script], cwd=folder, capture_output=True, text=True, timeout=300,
        check=False, env={**os.environ, "PATH": f"{commands}:{os.environ['PATH']}",
                          "OMP_NUM_THREADS": "1", "SSL_TRANSFER_OUTPUTS": "outputs",
                          "XDG_CACHE_HOME": str(commands / "cache")},
    )  # fmt: skip
