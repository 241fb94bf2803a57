"""A sweep of 1,000 runs handed to SLURM: seconds until it has them, and when all are finished.

    python benchmarks/submission.py [--runs 1000]

Ours against hydra-submitit-launcher (fetched by pip for the occasion) on the same command line. The
cluster is a stand-in, `sbatch` and the like as shell scripts that answer at once, so that only the
launchers are measured. Both clocks run from the start of Python: the other launcher's stops when
it calls `sbatch` (then it waits for its jobs), ours when the prompt is back.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = {
    "sbatch": """case "$*" in *--test-only*) echo "sbatch: Job 1 to start now" >&2; exit 0;; esac
n=$(($(cat $STAMPS/count 2>/dev/null || echo 0) + 1)); echo $n > $STAMPS/count
date +%s.%N > $STAMPS/last; echo "Submitted batch job $n" """,
    "srun": "exit 0",
    "squeue": "exit 0",
    "scancel": "exit 0",
    "sacct": "exit 1",
    "scontrol": "echo 'MaxArraySize = 1001'",
}
OTHER = """
import hydra, sys
sys.path.insert(0, {root!r})
import ssl_transfer.config, launchers
launchers.register()
@hydra.main(version_base="1.3", config_path={conf!r}, config_name="config")
def task(config):
    pass
task()
"""


def command_line(runs: int) -> list[str]:
    """Return overrides of two models, two sets, five protocols and as many seeds as needed."""
    seeds = ",".join(map(str, range(runs // 20)))
    return [
        "model=small_resnet,resnet18",
        "dataset=digits,textures",
        "protocol=linear_probe,bn_tune,finetune,knn,logistic_regression",
        f"seed={seeds}",
    ]


def surroundings(folder: Path) -> dict[str, str]:
    """Write the stand-in for a cluster and return the environment that finds it."""
    tools = folder / "tools"
    tools.mkdir()
    for name, text in COMMANDS.items():
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "STAMPS": str(folder), "OMP_NUM_THREADS": "1"}


def ours(folder: Path, overrides: list[str], environment: dict[str, str]) -> float:
    """Return how long our command takes; its failure is this script's."""
    command = [sys.executable, str(ROOT / "run.py"), "-m", "hydra/launcher=slurm", *overrides]
    began = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    took = time.perf_counter() - began
    print(f"  {done.stdout.splitlines()[0]}")
    return took


def theirs(folder: Path, overrides: list[str], environment: dict[str, str]) -> float:
    """Return how long hydra-submitit-launcher takes until it calls ``sbatch``."""
    packages = folder / "packages"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*pip, str(packages), "hydra-submitit-launcher"], check=True)
    script = folder / "other.py"
    script.write_text(OTHER.format(root=str(ROOT), conf=str(ROOT / "conf")))
    stamp = folder / "last"
    stamp.unlink(missing_ok=True)
    command = [sys.executable, str(script), "-m", "hydra/launcher=submitit_slurm",
               "hydra/sweeper=basic", "~hydra.callbacks.tables", *overrides]  # fmt: skip
    began = time.time()
    with subprocess.Popen(
        command, cwd=folder, env={**environment, "PYTHONPATH": str(packages)},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        while not stamp.exists():
            if process.poll() is not None:
                assert process.stderr is not None
                sys.exit(process.stderr.read().decode())
            time.sleep(0.05)
        time.sleep(0.1)
        process.kill()
    return float(stamp.read_text()) - began


def finish(folder: Path) -> None:
    """Put a record in every run's place, as if it had been computed."""
    sys.path.insert(0, str(ROOT))
    from launchers.sweep_folder import SweepFolder

    for run in SweepFolder.find(folder / "outputs").runs():
        place = folder / "outputs" / run.place
        (place / "claim.json").unlink(missing_ok=True)
        record = {**run.identify(), "status": "finished", "reason": None, "scores": [],
                  "encoder": {"id": "0" * 16, "label": run.label}, "config": run.config,
                  "duration_s": 0.0}  # fmt: skip
        (place / "record.json").write_text(json.dumps(record))


def main() -> None:
    """Measure and print both sides with their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    runs = parser.parse_args().runs
    overrides = command_line(runs)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = surroundings(folder)
        first = ours(folder, overrides, environment)
        finish(folder)
        again = ours(folder, overrides, environment)
        other = theirs(folder, overrides, environment)
    print(f"{'':44}{'seconds':>9}{'per run':>10}")
    for label, value in [
        (f"ours, {runs} new runs", first),
        ("ours, all finished", again),
        ("hydra-submitit-launcher", other),
    ]:
        print(f"{label:44}{value:9.2f}{value / runs:10.4f}")
    print(f"ratio hydra-submitit-launcher / ours: {other / first:.1f}")


if __name__ == "__main__":
    main()
