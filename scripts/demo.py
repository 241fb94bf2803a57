"""``make demo``: the main job on embedded images, from pre-training to the correlation table."""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUTPUTS = "outputs/demo"
QUESTION = ["--proxy", "linear_probe,bn_tune", "--target", "finetune", "--outputs", OUTPUTS]


def step(title: str, *arguments: str) -> None:
    """Run one command of the toolkit, showing it as a user would type it."""
    sys.stdout.write(f"\n{title}\n$ python {' '.join(arguments)}\n")
    sys.stdout.flush()
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    """Run the steps and say where everything lies."""
    began = time.monotonic()
    step(
        "Pre-train six encoders and judge each, if not done before",
        "run.py",
        "-m",
        "experiment=demo",
    )
    step("Judge a random encoder", "run.py", "-m", "experiment=demo_random")
    step(
        "The scores", "-m", "results", "table", "--outputs", OUTPUTS, "--save", f"{OUTPUTS}/tables"
    )
    step("Does BN-tuning predict fine-tuning better than a linear probe?", "-m", "results", "correlate",
         *QUESTION, "--save", f"{OUTPUTS}/tables", "--plot", f"{OUTPUTS}/scatter.png")  # fmt: skip
    sys.stdout.write(
        f"\ntables: {OUTPUTS}/tables   scatter: {OUTPUTS}/scatter.png   runs: {OUTPUTS}/*/*/record.json\n"
        f"done in {time.monotonic() - began:.0f} s\n"
    )


if __name__ == "__main__":
    main()
