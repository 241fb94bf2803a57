"""Do all pre-training methods learn? Each after the same short training, by nearest neighbours.

    python scripts/compare_methods.py cifar10        # cifar10/{train,test}/<class>/*.jpg
    python scripts/compare_methods.py cifar10 --epochs 32 --methods simclr,byol

Prints accuracies beside the random encoder's; about 20 minutes of one core for CIFAR-10. Methods
keep their own recipes (conf/method) but for the length of training and warm-up. Published figures
take 200 to 2000 epochs and larger encoders: this shows what is learnt early, not which method is
best. Further arguments are overrides for all runs.
"""

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
METHODS = (
    "simclr,byol,simsiam,moco_v1,moco_v2,moco_v2_small,barlow_twins,mixed_barlow_twins,w_mse,vicreg,"
    "swav,dino,supervised"
)

FIRST_EPOCH = {"swav": "method.frozen_prototypes", "dino": "method.frozen_last_layer"}
"""Shares of the training that are its first epoch; else SwAV collapses (conf/method/swav.yaml)."""


def run(*arguments: str) -> None:
    """Run one command of the toolkit, or stop with its exit code."""
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def images(options: argparse.Namespace, node: str) -> list[str]:
    """Return the overrides of a data set's node: the same images for every purpose."""
    folder = options.root.resolve()
    return [
        f"{node}.name={folder.name}",
        f"{node}.root={folder}",
        f"{node}.labels_per_class={options.per_class}",
        f"{node}.test_per_class={options.test_per_class}",
    ]


def main() -> None:
    """Pre-train, judge, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="class folders below train/ and test/")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--model", default="small_resnet")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=1, help="in epochs")
    parser.add_argument("--per-class", type=int, default=1000, help="training images")
    parser.add_argument("--test-per-class", type=int, default=200)
    parser.add_argument("--outputs", type=Path, default=Path("outputs/compare_methods"))
    options, overrides = parser.parse_known_args()
    outputs = options.outputs.resolve()
    judged = [
        f"model={options.model}",
        "dataset=image_folder",
        *images(options, "dataset"),
        "protocol=knn",
        "trainer.monitor=null",
        "tables=false",
        f"paths.outputs={outputs}",
        *overrides,
    ]
    trained = [
        "dataset@method.pretrain_on=image_folder",
        *images(options, "method.pretrain_on"),
        "method.pretrain_on.val_fraction=0.0",
        f"method.epochs={options.epochs}",
        f"method.warmup_epochs={options.warmup}",
    ]
    run("run.py", "-m", "method=as_is", *judged)
    for method in options.methods.split(","):
        own = [f"{FIRST_EPOCH[method]}={1 / options.epochs}"] if method in FIRST_EPOCH else []
        run("run.py", "-m", f"method={method}", *judged, *trained, *own)
    run("-m", "results", "table", "--outputs", str(outputs))


if __name__ == "__main__":
    main()
