"""Cost of a step of a published cell: our trainer against a plain loop, in one run.

ResNet-50 at 224 px with random weights; batches of the same photographs, in memory on both sides
(what reading them costs is said by ``data_pipeline``). The plain loop is what users write today and
what torchvision's reference script does each step: forward, cross-entropy, backward, SGD, the loss
to the host. Both train the same parameters with the same layers in train mode. Sides take turns;
each is judged by its fastest step, on a CPU by one core's CPU time. The peak is that of the
process's memory (CPU) or of what torch allocates (GPU) while a side trains.

    python -m benchmarks.published_cell FOLDER [--batch-size 32] [--steps 3] [--device cpu]

FOLDER holds ``train/<class>`` and ``test/<class>``.
"""

import argparse
import gc
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_transfer import models
from ssl_transfer.config import compose, plain, resolve
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.folder import image_folder
from ssl_transfer.datasets.loading import Items, TrainingData
from ssl_transfer.datasets.transforms import CROP_FLIP, Batch, Pipeline, ViewDataset
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols.tuning import TuningRun
from ssl_transfer.runs.execution import protocol_of

PROTOCOLS = ("linear_probe", "bn_tune", "finetune")


class SameBatch:
    """Training data that are one batch, again and again, and notice when it is asked for."""

    def __init__(self, images: Tensor, targets: Tensor, clock: Callable[[], float]) -> None:
        self.images, self.targets, self.clock = images, targets, clock
        self.asked: list[float] = []

    def __len__(self) -> int:
        return len(self.targets)

    def __getitems__(self, items: Items) -> Batch:
        """Return the batch."""
        self.asked.append(self.clock())
        return Batch((self.images,), self.targets, torch.arange(len(items)))


class InMemory(TuningRun):
    """A trial whose every step gets the same batch."""

    data: SameBatch

    def view(self, splits: Sequence[str], pipeline: Pipeline) -> TrainingData:
        """Return the batch, whatever is asked for."""
        return self.data


def ours(name: str, data: SameBatch, dataset: Dataset, options: argparse.Namespace) -> list[float]:
    """Return the seconds of each step of our trainer."""
    config = resolve(plain(compose([f"protocol={name}", "model=resnet50"])))
    node = {**config["protocol"], "batch_size": len(data), "epochs": options.steps, "grid": {}}
    encoder = models.build(config["model"])
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        context = Context(Path(folder), Path(folder), device=device, progress_bar=False)
        trial = InMemory(protocol_of(node), encoder, dataset, context)  # type: ignore[arg-type]
        trial.data = data
        data.asked.clear()
        trial.train([{}], ["train"], name)
        ended = data.clock()
    return [after - at for at, after in zip(data.asked, [*data.asked[1:], ended], strict=True)]


def theirs(
    name: str, data: SameBatch, dataset: Dataset, options: argparse.Namespace
) -> list[float]:
    """Return the seconds of each step of a plain loop."""
    from torchvision.models import resnet50

    model = resnet50(weights=None)
    model.fc = nn.Linear(model.fc.in_features, len(dataset.classes))
    model.to(options.device).requires_grad_(name == "finetune").train(name == "finetune")
    model.fc.requires_grad_()
    if name == "bn_tune":
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.requires_grad_().train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.01, momentum=0.9, nesterov=True)
    seconds = []
    for _ in range(options.steps):
        began = data.clock()
        images = data.images.to(options.device, non_blocking=True)
        targets = data.targets.to(options.device, non_blocking=True)
        loss = F.cross_entropy(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        seconds.append(data.clock() - began)
    return seconds


def reset_peak(device: str) -> None:
    """Forget the highest memory so far."""
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM


def peak_gib(device: str) -> float:
    """Return the highest memory since ``reset_peak``, in GiB."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**30
    (kilobytes,) = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) / 2**20


def batch_of(dataset: Dataset, options: argparse.Namespace) -> SameBatch:
    """Return a batch of training images as every epoch sees them."""
    data = ViewDataset(dataset["train"], [Pipeline(Preprocessing(), CROP_FLIP)], seed=0)
    batch = data.__getitems__([(0, index) for index in range(options.batch_size)])
    # Other work on the machine delays a CPU, but takes little of its time.
    clock = time.process_time if options.device == "cpu" else time.perf_counter
    return SameBatch(batch.views[0], batch.targets, clock)


def main() -> None:
    """Print images per second and peak memory of both sides for every protocol."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3, help="of each side in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset = image_folder(name="files", root=str(options.folder))
    data = batch_of(dataset, options)
    per = "images per CPU-second" if options.device == "cpu" else "images per second"
    print(f"{'':<14}{per:^22}{'':>8}{'peak memory, GiB':^20}")
    print(f"{'protocol':<14}{'ours':>10}{'plain loop':>12}{'ratio':>8}{'ours':>9}{'plain':>9}")
    for name in PROTOCOLS:
        steps: dict[Any, list[float]] = {ours: [], theirs: []}
        peaks = dict.fromkeys(steps, 0.0)
        for _ in range(options.rounds):
            for side in steps:
                reset_peak(options.device)
                steps[side] += side(name, data, dataset, options)
                peaks[side] = max(peaks[side], peak_gib(options.device))
        mine, judge = (options.batch_size / min(seconds) for seconds in steps.values())
        print(f"{name:<14}{mine:>10.1f}{judge:>12.1f}{mine / judge:>8.2f}"
              f"{peaks[ours]:>9.2f}{peaks[theirs]:>9.2f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
