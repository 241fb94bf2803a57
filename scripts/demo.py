"""``make demo``: the main job on embedded images, from pre-training to the correlation table."""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUTPUTS = "outputs/demo"


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
    tables = f"{OUTPUTS}/tables"
    step("Pre-train nine encoders, judge each", "run.py", "-m", "experiment=demo")
    step("Judge a random encoder", "run.py", "-m", "experiment=demo_random")
    saved = ["--outputs", OUTPUTS, "--save", tables]
    step("The scores", "-m", "results", "table", *saved)
    question = ["--proxy", "linear_probe,bn_tune", "--target", "finetune"]
    plot = ["--plot", f"{OUTPUTS}/scatter.png"]
    title = "Does BN-tuning predict fine-tuning better than a linear probe?"
    step(title, "-m", "results", "correlate", *question, *saved, *plot)
    sys.stdout.write(
        f"\ntables   {tables}\nscatter  {OUTPUTS}/scatter.png\nruns     {OUTPUTS}/*/*/record.json\n"
        f"done in {time.monotonic() - began:.0f} s\n"
    )


if __name__ == "__main__":
    main()
