"""Kill a run at random moments, again and again; it must end as if it had been left alone.

python scripts/kill_test.py                              # fine-tuning, linear probe, pre-training
python scripts/kill_test.py --kills 5 protocol=bn_tune   # the run of one command line

Every kill (``kill -9`` of the process and its loader workers) comes a random time after a new
checkpoint. Compared bit by bit with an undisturbed run: the record, predictions, the pre-trained
encoder, and the last loss of every training. Exit code 1 on any difference, or if fewer than
three quarters of the restarts went on above step 0.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
COMMON = [
    "trainer.workers=1",
    "trainer.checkpoint_every_steps=3",
    "trainer.progress_bar=false",
    "trainer.device=cpu",
]
GRID = "protocol.grid.lr=[0.1,0.01]"
DEFAULTS = [
    ["model.width=4", "protocol=finetune", GRID, "protocol.epochs=12"],
    ["model.width=4", "protocol=linear_probe", GRID, "protocol.epochs=24"],
    ["model.width=4", "protocol=pretrain", "method=simclr", "method.epochs=10"],
]
SAME = ("run_id", "status", "scores", "selection", "trainable", "weights_sha256", "data")


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def start(overrides: list[str], outputs: Path) -> subprocess.Popen[bytes]:
    """Start the command line in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "run.py", *overrides, *COMMON, f"paths.outputs={outputs}"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process that must succeed."""
    if process.wait() != 0:
        sys.exit(f"the run ended with exit code {process.returncode}")


def saved(outputs: Path) -> tuple[int, int] | None:
    """Return what tells one checkpoint from the next."""
    for path in outputs.glob("*/*/checkpoint.pt"):
        try:
            status = path.stat()
        except FileNotFoundError:  # just removed: the run is finished
            continue
        return status.st_ino, status.st_mtime_ns
    return None


def kill(process: subprocess.Popen[bytes], outputs: Path, before: Any, delay: float) -> bool:
    """Kill the process ``delay`` seconds after a new checkpoint; False if it ended before."""
    while saved(outputs) in (None, before) and process.poll() is None:
        time.sleep(0.005)
    time.sleep(delay)
    if process.poll() is not None:
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True


def run_killed(overrides: list[str], outputs: Path, kills: int, mean_delay: float) -> int:
    """Run to the end through ``kills`` kills; return how many of them there were."""
    done = 0
    while done < kills:
        before = saved(outputs)
        process = start(overrides, outputs)
        if not kill(process, outputs, before, random.uniform(0, 2 * mean_delay)):
            finish(process)
            return done
        done += 1
    finish(start(overrides, outputs))
    return done


def left_by(outputs: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a run's record, and everything that must not depend on interruptions."""
    (path,) = outputs.glob("*/*/record.json")
    record = json.loads(path.read_text())
    left: dict[str, Any] = {key: record[key] for key in SAME}
    for file in sorted(path.parent.glob("*.npz")) + sorted(path.parent.glob("*.safetensors")):
        left[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    for line in (path.parent / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        if "loss" in values:  # the last line of each training counts
            left[f"last step of {values['training']}"] = values["step"], values["loss"]
    return record, left


def test(overrides: list[str], kills: int) -> bool:
    """Return whether a run that is killed ends like one that is not, and say how it went."""
    say(" ".join(overrides))
    with tempfile.TemporaryDirectory() as folder:
        calm, killed = Path(folder, "calm"), Path(folder, "killed")
        finish(start(overrides, calm))
        record, expected = left_by(calm)
        # All kills together take about half of the run's own time, so that they fit into it.
        began = time.monotonic()
        done = run_killed(overrides, killed, kills, 0.5 * record["duration_s"] / kills)
        record, found = left_by(killed)
    resumed = record.get("resumed_at", [])
    different = [key for key in expected | found if expected.get(key) != found.get(key)]
    say(
        f"  {done} kills in {time.monotonic() - began:.0f} s; {len(resumed)} restarts went on "
        f"above step 0: {', '.join(f'{name} {step}' for name, step in resumed)}"
    )
    say(f"  equal: {', '.join(key for key in found if key not in different)}")
    for key in different:
        say(f"  DIFFERENT {key}: {expected.get(key)} undisturbed, {found.get(key)} killed")
    if done < kills:
        say(f"  the run ended after {done} kills; give it more epochs")
    return done == kills and len(resumed) >= 0.75 * kills and not different


def main() -> None:
    """Test the given command line, or the three defaults."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None, help="of the random moments")
    parser.add_argument("overrides", nargs="*", help="key=value, as for run.py")
    options = parser.parse_args()
    random.seed(options.seed)
    cases = [options.overrides] if options.overrides else DEFAULTS
    passed = [test(overrides, options.kills) for overrides in cases]
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
