"""Start-up per short run: many in one process (`runs_per_job`) against a process each.

    python benchmarks/short_runs.py [--runs 8]

What is counted is the time beyond the runs' own `duration_s`: starting Python, importing torch,
reading the configuration, writing the record.
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
OVERRIDES = ["protocol=knn", "dataset=digits", "model.width=4", "trainer.progress_bar=false"]


def overhead(folder: Path, configs: list[str], batches: list[list[str]]) -> float:
    """Return the seconds per run beyond its own work, a process of slots per batch of runs."""
    began = time.perf_counter()
    for batch in batches:
        subprocess.run(
            [sys.executable, "-P", "-m", "launchers.worker"], input="\n".join(batch) + "\n",
            env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, check=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    wall = time.perf_counter() - began
    records = [json.loads(path.read_text()) for path in folder.glob("*/*/record.json")]
    if len(records) != len(configs):
        sys.exit(f"{len(records)} of {len(configs)} runs have a record")
    return (wall - sum(record["duration_s"] for record in records)) / len(configs)


def main() -> None:
    """Measure both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=8)
    runs = parser.parse_args().runs
    sys.path.insert(0, str(ROOT))
    from ssl_transfer.config import compose, plain

    results = {}
    with tempfile.TemporaryDirectory() as name:
        for label in ("together", "apart"):
            folder = Path(name, label)
            example = plain(compose([*OVERRIDES, f"paths.outputs={folder}"]))
            configs = [json.dumps({**example, "seed": seed}) for seed in range(runs)]
            batches = [configs] if label == "together" else [[config] for config in configs]
            results[label] = overhead(folder, configs, batches)
    print(f"one process for {runs} runs   {results['together']:.2f} s per run")
    print(f"a process per run       {results['apart']:.2f} s per run")
    print(f"ratio: {results['apart'] / results['together']:.1f}")


if __name__ == "__main__":
    main()
