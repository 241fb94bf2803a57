"""Kill runs at random moments, again and again; each must end as if it had been left alone.

python scripts/kill_test.py                              # fine-tuning, linear probe, pre-training
python scripts/kill_test.py --kills 5 protocol=bn_tune   # the run of one command line
python scripts/kill_test.py --all --kills 2              # tiny runs of all protocols and methods

Every kill (``kill -9`` of the process and its loader workers) comes a random time after a new
checkpoint, or after the start where nothing is trained. Compared bit by bit with an undisturbed
run: the record, predictions, the pre-trained encoder, and the last loss of every training. Exit
code 1 on any difference, or if fewer than three quarters of the restarts of trainings went on above
step 0.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from launchers import sweep  # noqa: E402 - found by the line above
from ssl_transfer.config import UNTRAINED, compose, options, plain  # noqa: E402
from ssl_transfer.runs import Run  # noqa: E402

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
_forked = multiprocessing.get_context("fork")


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def every_kind() -> Iterator[list[str]]:
    """Yield a tiny run of every protocol on two data sets, and of every method with two seeds."""
    for protocol in options("protocol"):
        if protocol == "pretrain":
            continue
        for dataset in ("digits", "textures"):
            line = [f"protocol={protocol}", f"dataset={dataset}", "model.width=4"]
            small = ["dataset.labels_per_class=8", "dataset.test_per_class=4"]
            node = compose([f"protocol={protocol}"]).protocol
            tuned = [GRID, "protocol.epochs=5", "protocol.batch_size=20"] if "grid" in node else []
            yield [*line, *small, "model.preprocessing.size=16", *tuned]
    for seed in (0, 1):
        for method in options("method"):
            if method in UNTRAINED:
                continue
            line = [f"method={method}", "protocol=pretrain", f"method.seed={seed}", "model.width=8"]
            small = ["dataset@method.pretrain_on=digits", "method.pretrain_on.labels_per_class=40"]
            small += ["method.pretrain_on.test_per_class=4", "method.batch_size=128"]
            teacher = ["method.teacher=small_resnet", "method.teacher_output=features"]
            fixed = ["method.epochs=4", "method.warmup_epochs=0"]
            yield [*line, *small, *fixed, *(teacher if method == "seed" else [])]


def start(overrides: Sequence[str], outputs: Path) -> multiprocessing.process.BaseProcess:
    """Carry out the command line in a process group of its own."""
    process = _forked.Process(target=_carry_out, args=(overrides, outputs))
    process.start()
    return process


def _carry_out(overrides: Sequence[str], outputs: Path) -> None:
    os.setsid()
    with open(os.devnull, "w") as void:  # noqa: PTH123 - as the shell's > /dev/null
        os.dup2(void.fileno(), 1)
    run = Run(plain(compose([*overrides, *COMMON, f"paths.outputs={outputs}"])))
    sys.exit(sweep.execute_all([run]).exit_code)


def finish(process: multiprocessing.process.BaseProcess) -> None:
    """Wait for a process that must succeed."""
    process.join()
    if process.exitcode != 0:
        sys.exit(f"the run ended with exit code {process.exitcode}")


def saved(outputs: Path) -> tuple[int, int] | None:
    """Return what tells one checkpoint from the next."""
    for path in outputs.glob("*/*/checkpoint.pt"):
        try:
            status = path.stat()
        except FileNotFoundError:  # just removed: the run is finished
            continue
        return status.st_ino, status.st_mtime_ns
    return None


def kill(
    process: multiprocessing.process.BaseProcess, outputs: Path, delay: float, *, trains: bool
) -> bool:
    """Kill the process ``delay`` seconds after a new checkpoint; False if it ended before."""
    before = saved(outputs)
    while trains and saved(outputs) in (None, before) and process.is_alive():
        time.sleep(0.002)
    process.join(delay)
    if not process.is_alive():
        return False
    assert process.pid is not None
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # it has no group of its own yet
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return True


def run_killed(
    overrides: Sequence[str], outputs: Path, kills: int, mean_delay: float, *, trains: bool
) -> int:
    """Run to the end through ``kills`` kills; return how many of them there were."""
    done = 0
    while done < kills:
        process = start(overrides, outputs)
        if not kill(process, outputs, random.uniform(0, 2 * mean_delay), trains=trains):
            finish(process)
            return done
        done += 1
    finish(start(overrides, outputs))
    return done


def left_by(outputs: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a run's record, and everything that must not depend on interruptions."""
    (path,) = outputs.glob("*/*/record.json")
    record = json.loads(path.read_text())
    left: dict[str, Any] = {key: record[key] for key in SAME if key in record}
    for file in sorted(path.parent.glob("*.npz")) + sorted(path.parent.glob("*.safetensors")):
        left[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    for line in (path.parent / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        if "loss" in values:  # the last line of each training counts
            left[f"last step of {values['training']}"] = values["step"], values["loss"]
    return record, left


def test(overrides: Sequence[str], kills: int) -> bool:
    """Return whether a run that is killed ends like one that is not, and say how it went."""
    say(" ".join(overrides))
    with tempfile.TemporaryDirectory() as folder:
        calm, killed = Path(folder, "calm"), Path(folder, "killed")
        began = time.monotonic()
        process = start(overrides, calm)
        while saved(calm) is None and process.is_alive():
            time.sleep(0.002)
        trains = process.is_alive()
        if trains:
            began = time.monotonic()
        finish(process)
        # All kills together take a part of what follows the first checkpoint, so that they fit into
        # it; where nothing is trained each comes at any moment of a whole process.
        seconds = (time.monotonic() - began) * (0.3 / kills if trains else 0.5)
        record, expected = left_by(calm)
        began = time.monotonic()
        done = run_killed(overrides, killed, kills, seconds, trains=trains)
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
    went_on = not trains or len(resumed) >= 0.75 * kills
    return (done == kills or not trains) and went_on and not different


def main() -> None:
    """Test the given command line, the three defaults, or all protocols and methods."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None, help="of the random moments")
    parser.add_argument("--all", action="store_true", help="tiny runs of every kind")
    parser.add_argument("overrides", nargs="*", help="key=value, as for run.py")
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    cases = [arguments.overrides] if arguments.overrides else DEFAULTS
    cases = list(every_kind()) if arguments.all else cases
    passed = [test(overrides, arguments.kills) for overrides in cases]
    say(f"{sum(passed)} of {len(passed)} runs ended as if left alone")
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
