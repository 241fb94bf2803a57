"""``make demo``: the main job on embedded images, from pre-training to the correlation table.

With ``--measures`` (``make demo-measures``) the same encoders are also judged by measures of their
frozen features, and the last table tells which of them follow fine-tuning.
"""

import argparse
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


def sweep(experiment: str) -> list[str]:
    """Return the command of an experiment with a process of one thread for each core.

    Scores do not depend on the number of cores then, and small networks gain little from threads.
    """
    return ["run.py", "-m", f"experiment={experiment}", "hydra/launcher=local"]


MEASURES = (
    "linear_probe", "bn_tune", "knn", "logistic_regression", "few_shot", "instance_discrimination",
    "alignment_uniformity", "synthetic_invariance", "transferability:logme",
    "transferability:h_score_shrinkage", "transferability:knn_loo", "transferability:rankme",
)  # fmt: skip


def main() -> None:
    """Run the steps and say where everything lies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measures", action="store_true", help="also judge by measures")
    with_measures = parser.parse_args().measures
    began = time.monotonic()
    tables = f"{OUTPUTS}/tables"
    step("Pre-train nine encoders, judge them and a random one", *sweep("demo"))
    if with_measures:
        step("Measure the frozen features", *sweep("demo_measures"))
    saved = ["--outputs", OUTPUTS, "--save", tables]
    step("The scores", "-m", "results", "table", *saved)
    proxies = ",".join(MEASURES) if with_measures else "linear_probe,bn_tune"
    question = ["--proxy", proxies, "--target", "finetune"]
    plot = ["--plot", f"{OUTPUTS}/scatter.png"]
    title = "Does BN-tuning predict fine-tuning better than a linear probe?"
    if with_measures:
        title = "Which measures predict fine-tuning?"
    step(title, "-m", "results", "correlate", *question, *saved, *plot)
    report = ["--outputs", OUTPUTS, "--out", f"{OUTPUTS}/report.html"]
    step("The answer on one page", "-m", "results", "report", *report)
    sys.stdout.write(
        f"\ntables   {tables}\nscatter  {OUTPUTS}/scatter.png\nreport   {OUTPUTS}/report.html\n"
        f"runs     {OUTPUTS}/*/*/record.json\n"
        f"done in {time.monotonic() - began:.0f} s\n"
    )


if __name__ == "__main__":
    main()
