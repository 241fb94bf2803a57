"""A linear probe's bank of 12 heads in one pass over the images, against one head.

    python benchmarks/head_bank.py [--model resnet18]

Both are the trainer's own loop on the embedded digits; the ratio is what a grid of 12 costs
beside no grid. Training the 12 one after another would cost 12.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ssl_transfer import datasets, models
from ssl_transfer.config import compose, plain, resolve
from ssl_transfer.context import Context
from ssl_transfer.protocols.tuning import Tuning, TuningRun


def main() -> None:
    """Measure both, alternating, and print the ratio of the fastest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="small_resnet")
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    config = resolve(plain(compose([f"model={options.model}"])))
    encoder = models.build(config["model"])
    dataset = datasets.build(config["dataset"])
    optimizer = {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True}
    protocol = Tuning(
        trainable="head", epochs=options.epochs, batch_size=64, optimizer=optimizer
    )  # fmt: skip
    points = [{"lr": lr, "weight_decay": decay}
              for lr in (0.3, 0.1, 0.03, 0.01) for decay in (0.0, 1e-5, 1e-4)]  # fmt: skip
    fastest: dict[int, float] = {}
    for _ in range(options.repeats):
        for bank in (points, points[:1]):
            with tempfile.TemporaryDirectory() as name:
                context = Context(Path(name), Path(name), progress_bar=False)
                trial = TuningRun(protocol, encoder, dataset, context)
                began = time.perf_counter()
                trial.train(bank, ["train"], "bank")
                taken = time.perf_counter() - began
            fastest[len(bank)] = min(taken, fastest.get(len(bank), taken))
    print(f"{options.model}: 12 heads {fastest[12]:.3f} s, one head {fastest[1]:.3f} s")
    print(f"ratio 12 heads / one head: {fastest[12] / fastest[1]:.2f}")


if __name__ == "__main__":
    main()
