"""The report of a large sweep: how long it takes, how much memory, and how large its page is.

    python benchmarks/report.py [--encoders 50] [--datasets 15]

Synthetic records of eight protocols are written to a temporary folder, with training curves of the
target. Scores follow a latent quality of the encoders. The report is made twice: the second time,
the records have been read before.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NOISE = {
    "finetune": 0.02,
    "bn_tune": 0.03,
    "linear_probe": 0.06,
    "logistic_regression": 0.06,
    "knn": 0.08,
    "ridge": 0.07,
    "few_shot": 0.1,
    "transferability": 0.15,
}
"""Standard deviation of the scores of each protocol around the encoder's quality."""
KEYS = 120
"""Number of further keys in a record's configuration; real ones have 100 to 300."""
STEPS = 200
"""Number of logged steps of a training."""


def document(
    number: int, encoder: int, protocol: str, dataset: int, value: float
) -> dict[str, Any]:
    """Return a record like those of real runs."""
    filler = {f"setting_{place}": place * 0.001 for place in range(KEYS)}
    method = f"method_{encoder:02d}"
    score = {
        "metric": "top1", "split": "test", "value": value, "unit": "fraction",
        "higher_is_better": True, "primary": True,
    }  # fmt: skip
    return {
        "schema": 1,
        "run_id": f"{number:016x}",
        "model": "resnet50",
        "method": method,
        "dataset": f"dataset_{dataset:02d}",
        "protocol": protocol,
        "seed": 0,
        "encoder": {
            "id": f"{encoder:016x}", "label": f"resnet50-{method}", "parameters": 10**6 * encoder,
        },
        "status": "finished",
        "reason": None,
        "scores": [score],
        "config": {
            "model": {"name": "resnet50"},
            "method": {"name": method},
            "protocol": {"name": protocol, **filler},
            "dataset": {"name": f"dataset_{dataset:02d}"},
            "precision": "fp32",
        },
        "requires": [],
        "started": f"2026-01-{1 + number % 28:02d}T00:00:00+00:00",
        "duration_s": 60.0,
        "device": "NVIDIA A100",
        "processes": 1,
        "versions": {"python": "3.11.7", "torch": "2.6.0"},
        "code": {"revision": "0" * 40, "dirty": False},
        "data": {"fingerprint": f"{dataset:064x}"},
    }  # fmt: skip


def documents(encoders: int, datasets: int) -> Iterator[dict[str, Any]]:
    """Yield the records of all runs."""
    chance = random.Random(0)
    number = 0
    for encoder in range(encoders):
        for dataset in range(datasets):
            quality = 0.5 + 0.3 * encoder / encoders + 0.1 * chance.gauss(0, 1) / 2
            for protocol, noise in NOISE.items():
                value = min(max(quality + noise * chance.gauss(0, 1), 0.01), 0.99)
                number += 1
                yield document(number, encoder, protocol, dataset, value)


def write(outputs: Path, record: dict[str, Any]) -> None:
    """Write a record, and the course of the training if its protocol is the target."""
    name = f"{record['encoder']['label']}_{record['dataset']}_{record['run_id'][-8:]}"
    folder = outputs / record["protocol"] / name
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(record, indent=1))
    if record["protocol"] == "finetune":
        lines = (
            {"training": "refit", "step": step, "steps": STEPS, "lr": 0.01, "loss": 2 / (1 + step)}
            for step in range(1, STEPS + 1)
        )
        (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def main() -> None:
    """Write the records, make the report twice, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoders", type=int, default=50)
    parser.add_argument("--datasets", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outputs, page = Path(folder, "outputs"), Path(folder, "report.html")
        for record in documents(options.encoders, options.datasets):
            write(outputs, record)
        command = [sys.executable, "-m", "results", "report"]
        command += ["--outputs", str(outputs), "--out", str(page)]
        for name in ("first", "again"):
            began = time.perf_counter()
            subprocess.run(command, cwd=ROOT, check=True)
            print(f"{name}: {time.perf_counter() - began:.1f} s")
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(f"peak memory: {peak:.0f} MiB; page: {page.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
