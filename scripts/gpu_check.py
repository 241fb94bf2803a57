"""Check on one GPU what the test suite checks on the CPU, and measure speed; at most four minutes.

    make gpu-check
    python scripts/gpu_check.py --device cuda                     # any Python that has torch
    python scripts/gpu_check.py --device cpu --small              # the same checks without a GPU
    python scripts/gpu_check.py --collect-wheels wheels           # on a computer with a network

Nothing is downloaded by the checks: weights are random, images are drawn. Each line of the table is
one check with its value and its limit, or one measurement. The exit code is 1 if a check failed.
Where the Python has torch but lacks pure-Python packages of this project (hydra-core, omegaconf,
antlr4, beartype, …), ``--wheels`` names a folder with their wheels; ``--collect-wheels`` fills it.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic matrix products

PACKAGES = {
    "hydra": "hydra-core",
    "omegaconf": "omegaconf",
    "antlr4": "antlr4-python3-runtime",
    "beartype": "beartype",
    "jaxtyping": "jaxtyping",
    "wadler_lindig": "wadler-lindig",
    "timm": "timm",
}
"""Pure-Python packages that the checks import, by module; wandb and submitit are not needed."""

METHODS = (
    "supervised", "simclr", "byol", "simsiam", "moco_v1", "moco_v2", "moco_v2_small", "dino",
    "swav", "barlow_twins", "mixed_barlow_twins", "vicreg", "w_mse", "seed", "distill",
)  # fmt: skip

VIT = (
    "model=timm", "model.arch=vit_tiny_patch16_224",
    "model.options={img_size:32,patch_size:8,depth:4,embed_dim:48}",
    "model.preprocessing={size:32,resize:null}",
)  # fmt: skip
"""Overrides of a vision transformer that is small enough for a CPU."""

TUNED = {
    "linear_probe": [],
    "attentive_probe": [],
    "norm_tune": [],
    "bias_tune": [],
    "last_block": [],
    "finetune": ["protocol.layer_decay=0.75", "protocol.drop_path=0.2"],
}
"""Protocols that train on the vision transformer, with their overrides."""

MEASURED = {
    "transferability": (["protocol.lidar_images=100"], 1e-2),
    "alignment_uniformity": ([], 1e-3),
    "instance_discrimination": ([], 2e-2),
    "few_shot": (["protocol.pool=all", "protocol.episodes=20", "protocol.queries=5"], 2e-2),
}
"""Protocols on frozen features, with their overrides and the largest difference of a score.

Counts of images, such as a top-1, may differ by an image; the other scores are continuous."""

LIMITS = {"fp32": 2e-3, "bf16": 0.5, "fp16": 0.2}
"""Largest relative difference of the encoder's gradient from the CPU's in fp32. Half precision
rounds each activation to 8 or 11 bits, which adds up over the layers of the network."""


@dataclasses.dataclass
class Row:
    """One line of the table: a check if it has a limit, else a measurement."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the value is at most the limit; a value that is not a number never is."""
        return self.limit is None or self.value <= self.limit

    def __str__(self) -> str:
        verdict = (
            "" if self.limit is None else f"{'ok' if self.passed else 'FAILED'} (≤ {self.limit:g})"
        )
        return f"{self.name:<46}{self.value:>12.4g} {self.unit:<12}{verdict:<18}{self.note}"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the checks run on.

    Args:
        device: a torch device.
        small: whether sizes are those of a test rather than of a measurement.
    """

    device: Any
    small: bool

    @property
    def batch_size(self) -> int:
        """Images per step of the checks of methods."""
        return 32 if self.small else 128


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


def synchronize(device: Any) -> None:
    """Wait until the device has done everything it was asked to."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def node_of(method: str, *overrides: str) -> dict[str, Any]:
    """Return the resolved configuration of a method on ``small_resnet``."""
    from ssl_transfer.config import compose, plain, resolve

    own = {
        "seed": ["method.teacher=small_resnet", "method.teacher_output=features"],
        "w_mse": ["method.sub_batch=32", "method.projector.dims=[64,16]"],
        "distill": ["method.teachers=[{method:supervised,seed:0},{method:supervised,seed:1}]"],
    }.get(method, [])
    return resolve(plain(compose([f"method={method}", *own, *overrides])))


class DrawnViews:
    """Training data that are one batch of drawn views, again and again.

    Args:
        learner: a method; it says how many views of which size it takes.
        samples: number of images.
        size: of the encoder's images, in pixels.
    """

    def __init__(self, learner: Any, samples: int, size: int) -> None:
        import torch

        generator = torch.Generator().manual_seed(0)
        sizes = [view.size or size for view in learner.views]
        sizes *= 1 + len(learner.other_preprocessing)
        # Views of one image are alike, as a method expects.
        images = torch.randn(samples, 3, size, size, generator=generator)
        self.views = tuple(
            images[:, :, :side, :side]
            + 0.3 * torch.randn(samples, 3, side, side, generator=generator)
            for side in sizes
        )
        self.targets = torch.arange(samples) % 10

    def __len__(self) -> int:
        return len(self.targets)

    def __getitems__(self, items: list[tuple[int, int]]) -> Any:
        """Return the samples of these (epoch, index) pairs."""
        import torch

        from ssl_transfer.datasets.transforms import Batch

        rows = torch.tensor([index for _, index in items])
        return Batch(tuple(view[rows] for view in self.views), self.targets[rows], rows)


def context_of(folder: str | Path, device: Any, precision: str = "fp32", **options: Any) -> Any:
    """Return the surroundings of a check."""
    from ssl_transfer.context import Context

    place = Path(folder)
    options.setdefault("progress_bar", False)
    return Context(place, place / "features", device=device, precision=precision, **options)


def learner_of(config: dict[str, Any], device: Any) -> Any:
    """Return a method with its encoder, the same weights at each call."""
    import torch

    from ssl_transfer import methods, models

    encoder = models.build(config["model"], seed=0)
    others = {
        "seed": lambda: {"teacher": models.build(config["model"], seed=1)},
        "distill": lambda: {"teachers": [models.build(config["model"], seed=i) for i in (1, 2)]},
    }.get(config["method"]["name"], dict)()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return methods.build(config["method"], encoder, 10, **others).to(device)


def gradient_of(config: dict[str, Any], settings: Settings, device: Any, **options: Any) -> Any:
    """Return the encoder's gradient in the first step of a training, as one float64 vector."""
    import torch

    from ssl_transfer.training.options import TrainingOptions
    from ssl_transfer.training.trainer import fit

    learner = learner_of(config, device)
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


def difference(vector: Any, reference: Any) -> float:
    """Return the norm of the difference of two vectors over the norm of the second."""
    return float((vector - reference).norm() / reference.norm())


def check_methods(settings: Settings) -> Iterator[Row]:
    """Compare the first gradient of each method with the CPU's in fp32, in every precision."""
    import torch

    cpu = torch.device("cpu")
    for name in METHODS:
        config = node_of(name)
        reference = gradient_of(config, settings, cpu)
        for precision, limit in LIMITS.items():
            gradient = gradient_of(config, settings, settings.device, precision=precision)
            yield Row(f"{name}, {precision}: gradient", difference(gradient, reference),
                      "relative", limit)  # fmt: skip


def check_transformer(settings: Settings) -> Iterator[Row]:
    """Compare the first gradient of a vision transformer with the CPU's, in every precision."""
    import torch

    config = node_of("simclr", *VIT)
    reference = gradient_of(config, settings, torch.device("cpu"))
    for precision, limit in LIMITS.items():
        gradient = gradient_of(config, settings, settings.device, precision=precision)
        yield Row(f"vision transformer, {precision}: gradient", difference(gradient, reference),
                  "relative", limit)  # fmt: skip


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
    import torch
    from torch import distributed as dist
    from torch.nn.parallel import DistributedDataParallel

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


STEPS_TO_RESUME = 40


def train_to_the_end(folder: Path, device: Any) -> None:
    """Train in a folder, from its checkpoint if there is one; what ``check_resumption`` kills."""
    import torch

    from ssl_transfer.system.files import replace_atomically
    from ssl_transfer.training.options import TrainingOptions
    from ssl_transfer.training.trainer import fit

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
    import torch

    with tempfile.TemporaryDirectory() as place:
        finals = []
        for name in ("undisturbed", "killed"):
            folder = Path(place) / name
            folder.mkdir()
            command = [sys.executable, str(Path(__file__).resolve()), "--train", str(folder)]
            command += ["--device", str(settings.device)]
            if name == "killed":
                resumed_after = _kill_at_first_checkpoint(command, folder)
            subprocess.run(command, check=True, cwd=ROOT)
            finals.append(torch.load(folder / "final.pt", weights_only=True))
        one, two = finals
        worst = max(float((one[k].double() - two[k].double()).abs().max()) for k in one)
        yield Row("killed and resumed: largest weight difference", worst, "absolute", 1e-4,
                  "bit for bit" if worst == 0 else "", )  # fmt: skip
        yield Row("killed while the training was unfinished", float(not resumed_after), "", 0.0)


def _kill_at_first_checkpoint(command: list[str], folder: Path) -> bool:
    """Start a training and kill it once it has saved; return whether it was still unfinished."""
    with subprocess.Popen(command, cwd=ROOT) as process:
        while process.poll() is None and not (folder / "checkpoint.pt").exists():
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    return (folder / "checkpoint.pt").exists() and not (folder / "final.pt").exists()


def drawn_split(samples: int, size: int) -> Any:
    """Return images of a few patterns with noise, in memory."""
    import numpy as np

    from ssl_transfer.datasets.base import Split
    from ssl_transfer.datasets.images import ArrayImages

    generator = np.random.default_rng(0)
    targets = np.arange(samples, dtype=np.int64) % 10
    patterns = generator.integers(40, 216, (10, 8, 8, 3)).repeat(-(-size // 8), 1)
    patterns = patterns.repeat(-(-size // 8), 2)[:, :size, :size]
    pixels = np.empty((samples, size, size, 3), np.uint8)
    for number, target in enumerate(targets):
        noise = generator.normal(0, 30, (size, size, 3))
        pixels[number] = (patterns[target] + noise).clip(0, 255)
    return Split(ArrayImages(pixels), targets, [str(number) for number in range(samples)])


def check_frozen(settings: Settings) -> Iterator[Row]:
    """Compare features, neighbours' votes and logistic regression with the CPU's."""
    import torch

    from ssl_transfer import models
    from ssl_transfer.estimators.neighbours import vote
    from ssl_transfer.estimators.softmax_regression import fit_path
    from ssl_transfer.features import extract

    config = node_of("simclr")
    split = drawn_split(200 if settings.small else 2000, 32)
    labels = torch.from_numpy(split.targets)
    half = len(split) // 2
    rows = {}
    for device in (torch.device("cpu"), settings.device):
        encoder = models.build(config["model"], seed=0).to(device)
        with tempfile.TemporaryDirectory() as folder:
            features = extract(encoder, split, encoder.preprocessing, context_of(folder, device))
        rows[device.type] = torch.from_numpy(features)
    yield Row("features", difference(rows[settings.device.type].double(), rows["cpu"].double()),
              "relative", 1e-4)  # fmt: skip
    # From here on both devices get the same features.
    results: dict[str, list[Any]] = {"vote": [], "loss": []}
    for device in (torch.device("cpu"), settings.device):
        bank, queries = (part.to(device) for part in (rows["cpu"][:half], rows["cpu"][half:]))
        known, asked = labels[:half].to(device), labels[half:].to(device)
        votes = vote(queries, bank, known, k=20, temperature=0.07, classes=10)
        results["vote"].append(votes.double().cpu().flatten())
        fitted = fit_path(bank, known, C=[0.1, 10.0], classes=10)
        losses = [
            torch.nn.functional.cross_entropy(fitted.logits(p, queries), asked) for p in (0, 1)
        ]
        results["loss"].append(torch.stack(losses).double().cpu())
    for name, limit in (("vote", 1e-4), ("loss", 1e-2)):
        title = {"vote": "knn: votes", "loss": "logistic regression: test loss"}[name]
        yield Row(title, difference(results[name][1], results[name][0]), "relative", limit)


def evaluated(
    config: dict[str, Any], split: Any, protocol: str, overrides: list[str], device: Any
) -> tuple[dict[str, float], Any]:
    """Return the scores of an untrained encoder by a protocol, and its class scores on test images.

    The class scores are None if the protocol has none.
    """
    import numpy as np
    import torch

    from ssl_transfer import evaluate, models

    pixels = np.stack([np.asarray(image) for image in split.images])
    common = [f"trainer.device={device}", "trainer.progress_bar=false"]
    encoder = models.build(config["model"], seed=0)
    with tempfile.TemporaryDirectory() as folder:
        scores = evaluate(
            encoder,
            (pixels, split.targets),
            protocol,
            overrides=[*common, *overrides],
            folder=Path(folder),
        )
        predictions = Path(folder) / "test_predictions.npz"
        if not predictions.exists():
            return scores, None
        with np.load(predictions) as arrays:
            return scores, torch.from_numpy(arrays["scores"]).double()


def check_tuning(settings: Settings) -> Iterator[Row]:
    """Compare the class scores after some steps of every kind of tuning with the CPU's."""
    import torch

    split = drawn_split(120, 32)
    steps = ["protocol.steps=4", "protocol.batch_size=32", "protocol.grid.lr=[0.01]"]
    for protocol, own in TUNED.items():
        outputs = [
            evaluated(node_of("simclr", *VIT), split, protocol, [*steps, *own], device)[1]
            for device in (torch.device("cpu"), settings.device)
        ]
        yield Row(f"{protocol}: class scores", difference(outputs[1], outputs[0]),
                  "relative", 1e-2)  # fmt: skip


def check_measures(settings: Settings) -> Iterator[Row]:
    """Compare measures and estimators of frozen features with the CPU's."""
    import torch

    split = drawn_split(200, 32)
    for protocol, (overrides, limit) in MEASURED.items():
        here, there = (
            evaluated(node_of("simclr"), split, protocol, overrides, device)[0]
            for device in (torch.device("cpu"), settings.device)
        )
        missing = here.keys() ^ there.keys()
        gaps = {
            name: abs(there[name] - here[name]) / max(1.0, abs(here[name]))
            for name in here.keys() & there.keys()
        }
        worst = max(gaps, key=lambda name: gaps[name])
        yield Row(f"{protocol}: scores", float("nan") if missing else gaps[worst], "relative",
                  limit, f"{len(gaps)} scores, {worst}")  # fmt: skip


def check_features(settings: Settings) -> Iterator[Row]:
    """Compare features of chosen tokens, out of one extraction, and of a CAT with the CPU's."""
    import numpy as np
    import torch

    from ssl_transfer import models
    from ssl_transfer.datasets import in_memory
    from ssl_transfer.features import FrozenFeatures, extract
    from ssl_transfer.models.fusion import FusedEncoder

    split = drawn_split(120, 32)
    images = np.stack([np.asarray(image) for image in split.images])
    dataset = in_memory((images, split.targets))
    cpu = torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        passes = 0
        for choice in ("cls", "mean", "cls_mean", "last4"):
            config = node_of("simclr", *VIT, f"model.features={choice}")
            encoder = models.build(config["model"], seed=0)
            preprocessing = encoder.preprocessing
            reference = extract(encoder, dataset["test"], preprocessing, context_of(other, cpu))
            context = context_of(folder, settings.device)
            stored, _ = FrozenFeatures(encoder, dataset, context).load("test")
            passes += sum(not use["reused"] for use in context.facts["features"])
            gap = difference(stored.double().cpu(), torch.from_numpy(reference).double())
            yield Row(f"model.features={choice}: features", gap, "relative", 1e-4)
        yield Row("model.features: arrays of four choices and tokens", float(passes), "", 5.0)
    rows = []
    for device in (cpu, settings.device):
        members = [models.build(node_of("simclr")["model"], seed=seed) for seed in (0, 1)]
        cat = FusedEncoder(members, "concatenate").to(device)
        with tempfile.TemporaryDirectory() as folder:
            features = extract(cat, split, cat.preprocessing, context_of(folder, device))
        rows.append(torch.from_numpy(features).double())
    yield Row("concatenated encoders: features", difference(rows[1], rows[0]), "relative", 1e-4)


def check_kernel_ridge(settings: Settings) -> Iterator[Row]:
    """Compare predictions of kernel ridge regression with the CPU's on the same features."""
    import torch

    from ssl_transfer.estimators.kernel_ridge import KernelRidge

    generator = torch.Generator().manual_seed(0)
    features, queries = torch.randn(2, 200, 16, generator=generator)
    targets = features[:, :3].sin()
    predicted = []
    for device in (torch.device("cpu"), settings.device):
        model = KernelRidge(features.to(device), targets.to(device))
        coefficients = model.coefficients(0.02, [0.01, 1.0])
        predicted.append(model.predict(queries.to(device), 0.02, coefficients).cpu())
    yield Row("kernel ridge regression: predictions", difference(*predicted[::-1]),
              "relative", 1e-8)  # fmt: skip


def rate(step: Callable[[], Any], images: int, device: Any, *, seconds: float) -> float:
    """Return images per second of ``step``, after two steps that do not count."""
    for _ in range(2):
        step()
    synchronize(device)
    began, steps = time.perf_counter(), 0
    while steps < 2 or time.perf_counter() - began < seconds:
        step()
        synchronize(device)
        steps += 1
    return images * steps / (time.perf_counter() - began)


def peak_gib(device: Any) -> float:
    """Return the peak memory of the device in GiB, or the process's on a CPU."""
    import resource

    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure_pretraining(settings: Settings) -> Iterator[Row]:
    """Measure pre-training beside the pure network, and beside the data pipeline alone."""
    if settings.small:
        cases = [("small_resnet", [], 16, 32)]
    else:
        cases = [
            ("resnet50", ["model=resnet50"], 256, 224),
            ("resnet18", ["model=resnet18", "model.stem=cifar", "model.preprocessing.size=32",
                          "model.preprocessing.resize=null"], 1024, 32),
        ]  # fmt: skip
    for title, overrides, batch_size, size in cases:
        config = node_of("simclr", *overrides)
        name = f"{title}, {size} px, batch {batch_size}"
        pure = _pure_rate(config, settings, batch_size, size)
        yield Row(f"{name}: forward and backward alone", pure, "images/s")
        memory, peak = _trainer_rate(config, settings, batch_size, size, from_images=False)
        yield Row(
            f"{name}: trainer, views in memory",
            memory,
            "images/s",
            None,
            f"{memory / pure:.2f} of it",
        )
        yield Row(f"{name}: peak memory", peak, "GiB")
        pipeline = _pipeline_rate(config, settings, batch_size, size)
        yield Row(
            f"{name}: data pipeline alone",
            pipeline,
            "images/s",
            None,
            f"{_workers(settings)} workers",
        )
        whole, _ = _trainer_rate(config, settings, batch_size, size, from_images=True)
        share = whole / min(memory, pipeline)
        yield Row(
            f"{name}: trainer with pipeline",
            whole,
            "images/s",
            None,
            f"{share:.2f} of the slower part",
        )


def _workers(settings: Settings) -> int:
    return 0 if settings.small else min(16, os.cpu_count() or 1)


def _pure_rate(config: dict[str, Any], settings: Settings, batch_size: int, size: int) -> float:
    """Return images per second of the encoder's forward and backward pass on two views."""
    import torch

    from ssl_transfer.models import build

    encoder = build(config["model"], seed=0).to(settings.device).train()
    encoder = encoder.to(memory_format=torch.channels_last)
    views = torch.randn(2 * batch_size, 3, size, size, device=settings.device)
    views = views.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        with torch.autocast(settings.device.type, dtype=torch.bfloat16):
            loss = encoder(views).square().mean()
        loss.backward()
        encoder.zero_grad(set_to_none=True)

    return rate(step, batch_size, settings.device, seconds=0.2 if settings.small else 4.0)


def _pipelines(config: dict[str, Any], learner: Any) -> list[Any]:
    from ssl_transfer.datasets.transforms import Pipeline

    preprocessing = learner.encoder.preprocessing
    return [Pipeline(preprocessing, view, view=number) for number, view in enumerate(learner.views)]


def _view_data(config: dict[str, Any], learner: Any, batch_size: int, size: int) -> Any:
    from ssl_transfer.datasets.transforms import ViewDataset

    split = drawn_split(batch_size, 256 if size > 64 else size)
    return ViewDataset(split, _pipelines(config, learner), 0)


def _pipeline_rate(config: dict[str, Any], settings: Settings, batch_size: int, size: int) -> float:
    """Return images per second of decoding and augmenting two views, without a network."""
    from ssl_transfer.datasets.loading import load

    learner = learner_of(config, settings.device)
    data = _view_data(config, learner, batch_size, size)
    count = 2 if settings.small else 24
    batches = [[(epoch, index) for index in range(batch_size)] for epoch in range(count)]
    context = context_of(ROOT, settings.device, workers=_workers(settings))
    began, seen = 0.0, 0
    for number, batch in enumerate(load(data, batches, context)):
        if number == 0:
            began = time.perf_counter()  # starting the workers is no part of the rate
            continue
        seen += len(batch.targets)
    return seen / (time.perf_counter() - began)


def _trainer_rate(
    config: dict[str, Any], settings: Settings, batch_size: int, size: int, *, from_images: bool
) -> tuple[float, float]:
    """Return images per second of our trainer in bf16, and the peak memory in GiB."""
    import torch

    from ssl_transfer.training.options import TrainingOptions
    from ssl_transfer.training.trainer import fit

    learner = learner_of(config, settings.device)
    if from_images:
        data = _view_data(config, learner, batch_size, size)
    else:
        data = DrawnViews(learner, batch_size, size)
    if settings.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(settings.device)
    steps, skipped = (4, 2) if settings.small else (40, 16)
    times: list[float] = []

    class Clock:
        """Notes when each step ended; it is part of no checkpoint."""

        def after_step(self, step: int, progress: float, batch: Any) -> None:
            synchronize(settings.device)
            times.append(time.perf_counter())

        def after_epoch(self, step: int, passes: float, *, last: bool) -> None:
            """Nothing is due."""

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            """Nothing was kept."""

    keys = {**config["method"], "batch_size": batch_size}
    recipe = TrainingOptions.of(keys, steps=steps, drop_last=True, epochs=1.0, warmup_epochs=0.0)
    options = {"workers": _workers(settings) if from_images else 0, "channels_last": True}
    with tempfile.TemporaryDirectory() as folder:
        context = context_of(folder, settings.device, "bf16", **options)
        fit(learner, data, recipe, context, name="pretrain", observer=Clock())
    counted = times[skipped - 1 :]
    speed = batch_size * (len(counted) - 1) / (counted[-1] - counted[0])
    return speed, peak_gib(settings.device)


CHECKS = (
    check_methods,
    check_transformer,
    check_variants,
    check_process_group,
    check_resumption,
    check_frozen,
    check_features,
    check_tuning,
    check_measures,
    check_kernel_ridge,
    measure_pretraining,
)


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


def run_checks(settings: Settings, budget: float) -> list[Row]:
    """Run every check, print its rows as they come, and return them; errors are rows, too."""
    rows: list[Row] = []
    began = time.monotonic()
    for check in CHECKS:
        title = check.__name__.replace("_", " ")
        if time.monotonic() - began > budget:
            rows.append(Row(f"{title}: left out", float("nan"), "", 0.0, "the time was up"))
            sys.stdout.write(f"{rows[-1]}\n")
            continue
        try:
            for row in check(settings):
                rows.append(row)
                sys.stdout.write(f"{row}\n")
                sys.stdout.flush()
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            rows.append(Row(title, float("nan"), "", 0.0, f"{type(error).__name__}: {text}"))
            sys.stdout.write(f"{rows[-1]}\n")
    rows.append(Row("all checks", time.monotonic() - began, "s"))
    sys.stdout.write(f"{rows[-1]}\n")
    return rows


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
        if options.train:
            train_to_the_end(options.train, device)
            return
        about = describe(device)
        sys.stdout.write("  ".join(f"{key}: {value}" for key, value in about.items()) + "\n")
        rows = run_checks(Settings(device, options.small), options.budget)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    report = {**about, "rows": [{**vars(row), "passed": row.passed} for row in rows]}
    options.out.write_text(json.dumps(report, indent=1).replace("NaN", "null"))
    failed = [row.name for row in rows if not row.passed]
    sys.stdout.write(
        f"{len(failed)} failed{': ' if failed else ''}{', '.join(failed)}\n{options.out}\n"
    )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
