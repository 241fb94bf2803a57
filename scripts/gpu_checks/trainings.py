"""Checks of trainings: gradients, processes, waiting and resuming."""

import functools
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from gpu_checks.common import (
    VIT,
    DrawnViews,
    Row,
    Settings,
    context_of,
    difference,
    learner_of,
    node_of,
)  # fmt: skip
from ssl_transfer.system.files import replace_atomically
from ssl_transfer.training.batch_statistics import spanning_batch_norm
from ssl_transfer.training.learner import Observer
from ssl_transfer.training.options import TrainingOptions
from ssl_transfer.training.trainer import fit

SCRIPT = Path(__file__).resolve().parents[1] / "gpu_check.py"

METHODS = (
    "supervised", "simclr", "byol", "simsiam", "moco_v1", "moco_v2", "moco_v2_small", "dino",
    "swav", "barlow_twins", "mixed_barlow_twins", "vicreg", "w_mse", "seed", "distill",
)  # fmt: skip

LIMITS = {"fp64": 1e-8, "fp32": 1e-2, "bf16": 0.5, "fp16": 0.2}
"""Largest relative difference of the encoder's gradient from the CPU's in fp64, by precision.

The order of sums decides the last bits, and a ReLU whose input is within rounding of zero turns
them into a difference of 1e-4 to 4e-3 in fp32, on a CPU, too; fp64 leaves no room for mistakes.
Half precision rounds each activation to 8 or 11 bits."""

WAITS = {"w_mse": 4}
"""Times per step that the host may wait for the GPU besides reading the loss (others: 0).

W-MSE chooses the shrinkage of each sub-batch by whether the Cholesky factorisation succeeded."""


def gradient_of(config: dict[str, Any], settings: Settings, device: Any, **options: Any) -> Any:
    """Return the encoder's gradient in the first step of a training, as one float64 vector."""
    learner = learner_of(config, device)
    if options.get("precision") == "fp64":
        learner.double()
    size = config["model"]["preprocessing"]["size"]
    data = DrawnViews(learner, settings.batch_size, size)
    gradients: list[Any] = []
    drop = learner.before_step

    def keep_gradients(progress: float) -> None:
        rows = [p.grad for p in learner.encoder.parameters() if p.grad is not None]
        gradients.append(torch.cat([row.detach().double().cpu().flatten() for row in rows]))
        drop(progress)

    learner.before_step = keep_gradients
    keys = {**config["method"], "batch_size": settings.batch_size}
    recipe = TrainingOptions.of(keys, steps=1, epochs=1.0, drop_last=True, warmup_epochs=0.0)
    # A training finds the largest scale without overflow within its first steps; this has one step.
    scaler = functools.partial(torch.amp.GradScaler, init_scale=2.0**8)
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(torch.amp, "GradScaler", scaler),
    ):
        fit(learner, data, recipe, context_of(folder, device, **options), name="pretrain")
    return gradients[0]


def differences(config: dict[str, Any], settings: Settings, title: str) -> Iterator[Row]:
    """Compare the first gradient of a method with the CPU's in fp64, in every precision."""
    reference = gradient_of(config, settings, torch.device("cpu"), precision="fp64")
    for precision, limit in LIMITS.items():
        gradient = gradient_of(config, settings, settings.device, precision=precision)
        yield Row(f"{title}, {precision}: gradient", difference(gradient, reference),
                  "relative", limit)  # fmt: skip


def check_methods(settings: Settings) -> Iterator[Row]:
    """Compare the first gradient of each method with the CPU's."""
    for name in METHODS:
        yield from differences(node_of(name), settings, name)


def check_transformer(settings: Settings) -> Iterator[Row]:
    """Compare the first gradient of a vision transformer with the CPU's."""
    yield from differences(node_of("simclr", *VIT), settings, "vision transformer")


class Waits(Observer):
    """An observer of a training that counts how often the host waits for the GPU in some steps.

    Args:
        first: the step, counted from 1, after which it counts.
        last: the last step that counts.
    """

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last

    def after_step(self, step: int, progress: float, batch: Any) -> None:
        """Begin or end to count."""
        if step == self.first:
            torch.cuda.set_sync_debug_mode("warn")
        if step == self.last:
            torch.cuda.set_sync_debug_mode("default")


def check_waits(settings: Settings) -> Iterator[Row]:
    """Count how often the host waits for the GPU in a step, but for the wait for the loss."""
    if settings.device.type != "cuda":
        return
    for name in METHODS:
        config = node_of(name)
        data = DrawnViews(learner_of(config, torch.device("cpu")), settings.batch_size, 32)
        keys = {**config["method"], "batch_size": settings.batch_size}
        recipe = TrainingOptions.of(keys, steps=6, epochs=1.0, drop_last=True, warmup_epochs=0.0)
        with warnings.catch_warnings(record=True) as caught, tempfile.TemporaryDirectory() as place:
            warnings.simplefilter("always")
            learner, context = (
                learner_of(config, settings.device),
                context_of(place, settings.device),
            )
            fit(learner, data, recipe, context, name="pretrain", observer=Waits(2, 5))
        places = [
            f"{Path(one.filename).name}:{one.lineno}"
            for one in caught
            if "called a synchronizing" in str(one.message)
        ]
        yield Row(f"{name}: waits per step", len(places) / 3, "", WAITS.get(name, 0),
                  " ".join(sorted(set(places))))  # fmt: skip


def check_variants(settings: Settings) -> Iterator[Row]:
    """Compare channels-last and compiled steps with plain ones on the same device."""
    config = node_of("barlow_twins")
    reference = gradient_of(config, settings, settings.device)
    for option in ("channels_last", "compile"):
        if option == "compile" and settings.small:
            continue  # the compiler takes a minute on a CPU
        gradient = gradient_of(config, settings, settings.device, **{option: True})
        yield Row(f"{option}: gradient", difference(gradient, reference), "relative", 2e-3)
    half = gradient_of(config, settings, settings.device, precision="bf16", channels_last="auto")
    yield Row("channels_last=auto, bf16: gradient", difference(half, reference), "relative",
              LIMITS["bf16"])  # fmt: skip


def check_process_group(settings: Settings) -> Iterator[Row]:
    """Compare collectives and a distributed step of one process with doing without them."""
    backend = "nccl" if settings.device.type == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(
            backend, init_method=f"file://{folder}/meeting", rank=0, world_size=1
        )
        try:
            sent = torch.randn(1000, device=settings.device)
            received = sent.clone()
            dist.all_reduce(received)
            gathered = [torch.empty_like(sent)]
            dist.all_gather(gathered, sent)
            worst = max(float((one - sent).abs().max()) for one in (received, gathered[0]))
            yield Row(f"{backend}: all_reduce and all_gather", worst, "absolute", 0.0)
            layer = torch.nn.Linear(64, 8).to(settings.device)
            images = torch.randn(16, 64, device=settings.device)
            layer(images).square().sum().backward()
            alone = torch.cat([p.grad.flatten() for p in layer.parameters()]).double().cpu()
            layer.zero_grad(set_to_none=True)
            DistributedDataParallel(layer)(images).square().sum().backward()
            shared = torch.cat([p.grad.flatten() for p in layer.parameters()]).double().cpu()
            yield Row(f"{backend}: distributed gradient", difference(shared, alone),
                      "relative", 1e-5)  # fmt: skip
        finally:
            dist.destroy_process_group()


def check_batch_statistics(settings: Settings) -> Iterator[Row]:
    """Compare statistics that span processes with the native layer, in a group of one process."""
    for dtype, limit in ((torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(16, 32, 14, 14, device=settings.device, dtype=dtype)
            x = x.contiguous(memory_format=layout)
            wide = torch.promote_types(dtype, torch.float32)
            weight, bias = torch.rand(2, 32, device=settings.device, dtype=wide)
            direction = torch.randn_like(x)
            results = []
            for spanning in (False, True):
                leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
                if spanning:
                    y, mean, variance = spanning_batch_norm(*leaves, 1e-5, None)
                else:
                    mean, variance = torch.zeros_like(weight), torch.ones_like(weight)
                    y = F.batch_norm(leaves[0], mean, variance, *leaves[1:], True, 1.0, 1e-5)
                y.backward(direction)
                results.append([y.detach(), mean, variance, *(leaf.grad for leaf in leaves)])
            worst = max(difference(a.double(), b.double()) for a, b in zip(*results, strict=True))
            last = " (channels last)" if layout is torch.channels_last else ""
            name = str(dtype).removeprefix("torch.")
            yield Row(f"batch statistics over processes, {name}{last}", worst, "relative", limit)


STEPS_TO_RESUME = 40


def train_to_the_end(folder: Path, device: Any) -> None:
    """Train in a folder, from its checkpoint if there is one; what ``check_resumption`` kills."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    learner = learner_of(node_of("moco_v2"), device)
    data = DrawnViews(learner, 96, 32)
    keys = {**node_of("moco_v2")["method"], "batch_size": 32}
    recipe = TrainingOptions.of(
        keys, steps=STEPS_TO_RESUME, epochs=1.0, drop_last=True, warmup_epochs=0.0
    )
    context = context_of(folder, device, checkpoint_every_steps=5)
    fit(learner, data, recipe, context, name="pretrain")
    state = {key: value.cpu() for key, value in learner.state_dict().items()}
    replace_atomically(folder / "final.pt", lambda file: torch.save(state, file))


def check_resumption(settings: Settings) -> Iterator[Row]:
    """Kill a training and go on with it; compare with an undisturbed one."""
    with tempfile.TemporaryDirectory() as place:
        finals = []
        for name in ("undisturbed", "killed"):
            folder = Path(place) / name
            folder.mkdir()
            command = [sys.executable, str(SCRIPT), "--train", str(folder)]
            command += ["--device", str(settings.device)]
            if name == "killed":
                resumed_after = _kill_at_first_checkpoint(command, folder)
            subprocess.run(command, check=True, cwd=SCRIPT.parents[1])
            finals.append(torch.load(folder / "final.pt", weights_only=True))
        one, two = finals
        worst = max(float((one[k].double() - two[k].double()).abs().max()) for k in one)
        yield Row("killed and resumed: largest weight difference", worst, "absolute", 1e-4,
                  "bit for bit" if worst == 0 else "", )  # fmt: skip
        yield Row("killed while the training was unfinished", float(not resumed_after), "", 0.0)


def _kill_at_first_checkpoint(command: list[str], folder: Path) -> bool:
    """Start a training and kill it once it has saved; return whether it was still unfinished."""
    with subprocess.Popen(command, cwd=SCRIPT.parents[1]) as process:
        while process.poll() is None and not (folder / "checkpoint.pt").exists():
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    return (folder / "checkpoint.pt").exists() and not (folder / "final.pt").exists()
