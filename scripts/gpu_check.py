"""Check on one GPU what the test suite checks on the CPU; at most four minutes.

    make gpu-check
    python scripts/gpu_check.py --device cuda                     # any Python that has torch
    python scripts/gpu_check.py --device cpu --small              # the same checks without a GPU
    python scripts/gpu_check.py --collect-wheels wheels           # on a computer with a network

Nothing is downloaded by the checks: weights are random, images are drawn. Each line of the table is
one check with its value and its limit. The exit code is 1 if a check failed. Speed is measured by
``benchmarks/pretraining_steps.py``, which ``make gpu-check`` calls afterwards.
Where the Python has torch but lacks small packages of this project (hydra-core, omegaconf, orjson,
beartype, …), ``--wheels`` names a folder with their wheels; ``--collect-wheels`` fills it, for the
same version of Python.
"""

import argparse
import contextlib
import importlib
import importlib.util
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic matrix products

PACKAGES = {
    "hydra": "hydra-core",
    "omegaconf": "omegaconf",
    "orjson": "orjson",
    "antlr4": "antlr4-python3-runtime",
    "beartype": "beartype",
    "jaxtyping": "jaxtyping",
    "wadler_lindig": "wadler-lindig",
    "timm": "timm",
}
"""Small packages that the checks import, by module; wandb and submitit are not needed."""

Check = Callable[[Any], Iterator[Any]]
"""Yields rows of the table under some ``gpu_checks.common.Settings``."""


def provide_packages(wheels: Path, temporary: str) -> None:
    """Install missing packages from wheels into a temporary folder that this process imports from.

    Raises:
        SystemExit: in one sentence, if packages are missing and the folder does not have them.
    """
    missing = [
        name for module, name in PACKAGES.items() if importlib.util.find_spec(module) is None
    ]
    if not missing:
        return
    files = sorted(str(path) for path in wheels.glob("*.whl"))
    if files:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        subprocess.run([*command, "--target", temporary, *files], check=True)
        sys.path.append(temporary)  # what the Python has comes first
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), temporary])
        importlib.invalidate_caches()
        missing = [n for module, n in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        sys.exit(
            f"error: the packages {', '.join(missing)} must be importable, but are not, and "
            f"`{wheels}` does not hold their wheels; run `python scripts/gpu_check.py "
            f"--collect-wheels {wheels}` on a computer with a network."
        )


def collect_wheels(folder: Path) -> None:
    """Build or download the wheels of ``PACKAGES`` in the versions that are installed here."""
    from importlib.metadata import version

    pinned = [f"{name}=={version(name)}" for name in PACKAGES.values()]
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder)]
    subprocess.run([*command, *pinned], check=True)
    sys.stdout.write(f"{len(list(folder.glob('*.whl')))} wheels in {folder}\n")


def describe(device: Any) -> dict[str, Any]:
    """Return what the figures belong to."""
    import torch

    card = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "device": str(device),
        "card": card or platform.machine(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "date": time.strftime("%Y-%m-%d"),
    }


def all_checks() -> list[Check]:
    """Return every check; the packages that they import must be there."""
    from gpu_checks import frozen, trainings

    return [
        trainings.check_methods,
        trainings.check_transformer,
        trainings.check_variants,
        trainings.check_waits,
        trainings.check_process_group,
        trainings.check_batch_statistics,
        trainings.check_resumption,
        frozen.check_frozen,
        frozen.check_features,
        frozen.check_tuning,
        frozen.check_measures,
        frozen.check_kernel_ridge,
    ]


def run_checks(checks: Iterable[Check], settings: Any, budget: float) -> list[Any]:
    """Run checks, print their rows as they come, and return them; errors are rows, too."""
    from gpu_checks.common import Row

    rows: list[Row] = []
    began = time.monotonic()

    def show(row: Row) -> None:
        rows.append(row)
        sys.stdout.write(f"{row}\n")
        sys.stdout.flush()

    for check in checks:
        title = check.__name__.replace("_", " ")
        if time.monotonic() - began > budget:
            show(Row(f"{title}: left out", float("nan"), "", 0.0, "the time was up"))
            continue
        try:
            for row in check(settings):
                show(row)
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            show(Row(title, float("nan"), "", 0.0, f"{type(error).__name__}: {text}"))
    show(Row("all checks", time.monotonic() - began, "s"))
    return rows


def _as_json(row: Any) -> dict[str, Any]:
    """Return a row for JSON, which has neither NaN nor infinity."""
    value = row.value if math.isfinite(row.value) else None
    return {**vars(row), "value": value, "passed": row.passed}


def main() -> None:
    """Run the checks, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="sizes of a test")
    parser.add_argument("--wheels", type=Path, default=Path("wheels"), metavar="FOLDER")
    parser.add_argument("--collect-wheels", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu_check.json"))
    parser.add_argument("--budget", type=float, default=240.0, help="seconds")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.collect_wheels:
        collect_wheels(options.collect_wheels)
        return
    with contextlib.ExitStack() as stack:
        temporary = stack.enter_context(tempfile.TemporaryDirectory())
        provide_packages(options.wheels, temporary)
        import torch

        warnings.filterwarnings("ignore")
        if options.device.startswith("cuda") and not torch.cuda.is_available():
            sys.exit(
                "error: `--device cuda` must find a GPU, but torch sees none; use "
                "`--device cpu --small`."
            )
        # The checks compare with the CPU: products must not be rounded to TF32.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        device = torch.device(options.device)
        from gpu_checks import common, trainings

        if options.train:
            trainings.train_to_the_end(options.train, device)
            return
        about = describe(device)
        sys.stdout.write("  ".join(f"{key}: {value}" for key, value in about.items()) + "\n")
        settings = common.Settings(device, options.small)
        rows = run_checks(all_checks(), settings, options.budget)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    report = {**about, "rows": [_as_json(row) for row in rows]}
    options.out.write_text(json.dumps(report, indent=1, allow_nan=False))
    failed = [row.name for row in rows if not row.passed]
    sys.stdout.write(
        f"{len(failed)} failed{': ' if failed else ''}{', '.join(failed)}\n{options.out}\n"
    )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
