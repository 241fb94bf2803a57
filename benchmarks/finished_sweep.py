"""A finished sweep sent again, against Hydra's basic launcher on an empty task.

    python benchmarks/finished_sweep.py [--runs 200] [--files 10000] [--only-ours]

Both go through the same command line: five protocols, four widths of the model and 10 seeds. Ours
finds every record in place and computes nothing; Hydra's basic launcher composes each run and calls
a function that returns, which takes half an hour for 10,000 runs (``--only-ours`` leaves it out).
With ``--files`` the runs are on a folder of so many images, whose stamps are compared with those
that the records list; without, on a data set that needs none.
"""

import argparse
import itertools
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
AXES = {
    "protocol": ["linear_probe", "knn", "logistic_regression", "bn_tune", "finetune"],
    "model.width": [8, 12, 16, 24],
}
EMPTY = """
import hydra, sys
sys.path.insert(0, {root!r})
import ssl_transfer.config, launchers
launchers.register()
@hydra.main(version_base="1.3", config_path={conf!r}, config_name="config")
def task(config):
    pass
task()
"""


def seconds(command: list[str], folder: Path) -> float:
    """Return how long a command takes; its failure is this script's."""
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return time.perf_counter() - began


def make_folder(root: Path, files: int) -> None:
    """Write a folder of two classes; what is in the files does not matter to finished runs."""
    for number in range(files):
        path = root / f"class_{number % 2}" / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(str(number).encode())


def list_inputs(root: Path, outputs: Path) -> dict[str, object]:
    """Keep the list of a folder's files, and return what records say of it."""
    sys.path.insert(0, str(ROOT))
    from ssl_transfer.system import inputs, manifests

    with inputs.collected() as found:
        for path in sorted(root.rglob("*.png")):
            inputs.note_file(path)
        for place in root.iterdir():
            inputs.note_folder(place, (".png",))
    return {"data": {"list": manifests.save(found, outputs), "files": len(found)}}


def finish(folder: Path, overrides: list[str], seeds: int, inputs: dict[str, object]) -> None:
    """Put a record in every run's place, as if it had been computed."""
    sys.path.insert(0, str(ROOT))
    from ssl_transfer.config import compose, plain
    from ssl_transfer.runs import Run
    from ssl_transfer.system.files import write_json

    score = {"metric": "top1", "value": 0.5, "split": "test", "unit": "fraction",
             "higher_is_better": True, "primary": True}  # fmt: skip
    for values in itertools.product(*AXES.values()):
        chosen = [f"{key}={value}" for key, value in zip(AXES, values, strict=True)]
        example = plain(compose([*overrides, *chosen]))
        for seed in range(seeds):
            run = Run({**example, "seed": seed})
            record = {**run.identify(), "status": "finished", "reason": None, "scores": [score],
                      "encoder": {"id": "0" * 16, "label": run.label}, "config": run.config,
                      "started": "2026-11-27T00:00:00+00:00", "duration_s": 0.0,
                      "inputs": inputs}  # fmt: skip
            write_json(folder / "outputs" / run.place / "record.json", record)


def main() -> None:
    """Measure both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="a multiple of 20")
    parser.add_argument("--files", type=int, default=0)
    parser.add_argument("--only-ours", action="store_true")
    arguments = parser.parse_args()
    cells = math.prod(map(len, AXES.values()))
    seeds = arguments.runs // cells
    runs = cells * seeds
    with tempfile.TemporaryDirectory() as name:
        folder, listed, dataset = Path(name), {}, []
        if arguments.files:
            make_folder(folder / "images", arguments.files)
            listed = list_inputs(folder / "images", folder / "outputs")
            dataset = ["dataset=image_folder", f"dataset.root={folder / 'images'}"]
        finish(folder, dataset, seeds, listed)
        axes = {**AXES, "seed": range(seeds)}
        overrides = [f"{key}={','.join(map(str, values))}" for key, values in axes.items()]
        overrides = [*dataset, *overrides]
        ours = [sys.executable, str(ROOT / "run.py"), "-m", *overrides]
        print(f"{runs:<34}{'seconds':>9}{'per run':>10}")

        def measured(label: str, value: float) -> float:
            print(f"{label:34}{value:9.2f}{value / runs:10.5f}", flush=True)
            return value

        measured("ours, first time (composes)", seconds(ours, folder))
        again = measured("ours, again", min(seconds(ours, folder) for _ in range(3)))
        if arguments.only_ours:
            return
        script = folder / "empty.py"
        script.write_text(EMPTY.format(root=str(ROOT), conf=str(ROOT / "conf")))
        basic = [sys.executable, str(script), "-m", "hydra/launcher=basic",
                 "hydra/sweeper=basic", "~hydra.callbacks.tables", *overrides]  # fmt: skip
        hydra = measured("Hydra basic, empty", seconds(basic, folder))
    print(f"ratio Hydra basic / ours again: {hydra / again:.1f}")


if __name__ == "__main__":
    main()
