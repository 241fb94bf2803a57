"""The example of ``docs/extending.md``, exactly as the page prints it, outside of the project."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_example_of_own_code_runs_as_the_page_prints_it(tmp_path: Path) -> None:
    project, commands = tmp_path / "my_project", tmp_path / "bin"
    commands.mkdir()
    programs = {"python": "", "ssl-transfer": "-P -m launchers.main"}  # as an installation has them
    for name, module in programs.items():
        (commands / name).write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{ROOT}" '
                                     f'exec "{sys.executable}" {module} "$@"\n')  # fmt: skip
        (commands / name).chmod(0o755)
    script = ""
    for language, text in BLOCK.findall((ROOT / "docs" / "extending.md").read_text()):
        if language == "sh":
            script += text
            continue
        name = text.partition("\n")[0].removeprefix("# ")
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    done = subprocess.run(
        ["sh", "-ec", script], cwd=project, capture_output=True, text=True, timeout=200,
        check=False, env={**os.environ, "PATH": f"{commands}:{os.environ['PATH']}",
                          "OMP_NUM_THREADS": "1", "SSL_TRANSFER_OUTPUTS": "outputs",
                          "XDG_CACHE_HOME": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 runs: 4 finished, none failed" in done.stdout
    records = {p.parent.parent.name for p in project.glob("outputs/*/*/record.json")}
    assert records == {"class_means", "knn", "pretrain"}
    assert 0.1 < float(done.stdout.splitlines()[-1]) <= 1
    table = done.stdout.partition("class_means: top1 in %")[2].splitlines()
    (trained,) = (line for line in table[:6] if "align_uniform" in line)
    assert float(trained.split()[-1]) > 50, "of three classes"
