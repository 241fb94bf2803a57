"""A finished sweep sent again, against Hydra's basic launcher on an empty task.

    python benchmarks/finished_sweep.py [--runs 200] [--files 10000]

Both go through the same command line: 200 runs over seeds. Ours finds every record in place and
computes nothing; Hydra's basic launcher composes each run and calls a function that returns. With
``--files`` the runs are on a folder of so many images, whose stamps are compared with those that
the records list; without, on a data set that needs none.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
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


def finish(folder: Path, overrides: list[str], inputs: dict[str, object]) -> None:
    """Put a record in every run's place, as if it had been computed."""
    sys.path.insert(0, str(ROOT))
    from ssl_transfer.config import compose, plain
    from ssl_transfer.runs import Run
    from ssl_transfer.system.files import write_json

    example = plain(compose([o for o in overrides if not o.startswith("seed=")]))
    for seed in range(int(overrides[-1].count(",")) + 1):
        run = Run({**example, "seed": seed})
        place = folder / "outputs" / run.place
        score = {"metric": "top1", "value": 0.5, "split": "test", "unit": "fraction",
                 "higher_is_better": True, "primary": True}  # fmt: skip
        record = {**run.identify(), "status": "finished", "reason": None, "scores": [score],
                  "encoder": {"id": "0" * 16, "label": run.label}, "config": run.config,
                  "duration_s": 0.0, "inputs": inputs}  # fmt: skip
        write_json(place / "record.json", record)


def main() -> None:
    """Measure both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--files", type=int, default=0)
    arguments = parser.parse_args()
    runs = arguments.runs
    overrides = ["protocol=linear_probe", "seed=" + ",".join(map(str, range(runs)))]
    with tempfile.TemporaryDirectory() as name:
        folder, listed = Path(name), {}
        if arguments.files:
            make_folder(folder / "images", arguments.files)
            listed = list_inputs(folder / "images", folder / "outputs")
            overrides = ["dataset=image_folder", f"dataset.root={folder / 'images'}", *overrides]
        finish(folder, overrides, listed)
        ours = [sys.executable, str(ROOT / "run.py"), "-m", *overrides]
        print(f"{'':34}{'seconds':>9}{'per run':>10}")

        def measured(label: str, value: float) -> float:
            print(f"{label:34}{value:9.2f}{value / runs:10.4f}", flush=True)
            return value

        measured("ours, first time (composes)", seconds(ours, folder))
        again = measured("ours, again", min(seconds(ours, folder) for _ in range(3)))
        script = folder / "empty.py"
        script.write_text(EMPTY.format(root=str(ROOT), conf=str(ROOT / "conf")))
        basic = [sys.executable, str(script), "-m", "hydra/launcher=basic",
                 "hydra/sweeper=basic", "~hydra.callbacks.tables", *overrides]  # fmt: skip
        hydra = measured("Hydra basic, empty", seconds(basic, folder))
    print(f"ratio Hydra basic / ours again: {hydra / again:.1f}")


if __name__ == "__main__":
    main()
