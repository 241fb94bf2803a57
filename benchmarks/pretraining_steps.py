r"""Pre-training steps: our trainer against its networks alone and against a loop of lightly parts.

    python benchmarks/pretraining_steps.py
    python benchmarks/pretraining_steps.py --methods byol,swav --batch-size 64 --model resnet18 \
        model.stem=cifar model.preprocessing.size=32 model.preprocessing.resize=32

A step: a batch of two views in memory, forward, backward, the optimizer's update, the momentum
encoder's, and the loss read. ``limit`` is what no step can beat: the forward and backward passes of
the method's networks alone, replayed with the inputs of a step, in the same memory layout, without
loss, optimizer and data. ``pipeline`` is the trainer on images from which it draws the method's own
views, on a GPU in worker processes. Encoder, widths of the heads, batch and optimizer are the same
on lightly's side (https://github.com/lightly-ai/lightly, MIT), which lets its heads, losses, memory
bank and momentum update stand for the rest, as in its examples, in a process of its own, whose
allocator our trainer has not set (``memory.kept``). The sides take turns; on a CPU each is judged
by its fastest step, in CPU seconds of one thread, so that other work on the machine disturbs the
ratio little; on a GPU by the mean of a round's steps after the first ones, in seconds by the clock,
in the fastest round. Batch statistics are the whole batch's, and nothing is clipped: lightly's
examples do neither.
"""

import argparse
import copy
import dataclasses
import itertools
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("LIGHTLY_DID_VERSION_CHECK", "True")  # it asks a server otherwise
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch import Tensor, nn

from ssl_transfer import methods, models
from ssl_transfer.config import compose, plain, resolve
from ssl_transfer.context import Context
from ssl_transfer.datasets.base import Split
from ssl_transfer.datasets.images import ArrayImages
from ssl_transfer.datasets.loading import Items, TrainingData, load
from ssl_transfer.datasets.transforms import Batch, Pipeline, ViewDataset
from ssl_transfer.models import Encoder
from ssl_transfer.system import memory
from ssl_transfer.training import optim
from ssl_transfer.training.learner import Observer
from ssl_transfer.training.memory_layout import is_faster_last
from ssl_transfer.training.options import TrainingOptions
from ssl_transfer.training.trainer import HALF, fit

try:
    from lightly import loss as losses
    from lightly.models import utils
    from lightly.models.modules import heads
except ImportError as error:  # it is no dependency, and `make benchmarks` goes on
    print(f"pretraining_steps: without lightly ({error}); `pip install lightly` adds that side.")
    losses = heads = utils = None

Config = dict[str, Any]
Side = Callable[[], list[float]]
METHODS = (
    "supervised", "simclr", "byol", "simsiam", "moco_v1", "moco_v2", "moco_v2_small", "dino",
    "swav", "barlow_twins", "mixed_barlow_twins", "vicreg", "w_mse", "seed", "distill",
)  # fmt: skip
"""All options of ``conf/method`` but ``as_is``, ``cat`` and ``cat_sub``, which train nothing."""
OVERRIDES = {
    "dino": ["method.hidden_dims=[2048,2048]"],
    "seed": ["method.teacher=small_resnet", "method.teacher_output=features"],
    "distill": ["method.teachers=[small_resnet]"],
}
"""The head that lightly has; teachers with random weights."""


WARM = 5
"""Steps on a GPU that do not count, of each side in each round; see ``ahead`` for more of them."""


class SameViews:
    """Training data that are one batch of views, again and again.

    Args:
        views: of all images; on a GPU's computer in memory from which the GPU can copy by itself.
    """

    def __init__(self, views: tuple[Tensor, ...]) -> None:
        self.views = views
        self.targets = torch.arange(len(views[0])) % 10

    def __len__(self) -> int:
        return len(self.views[0])

    def __getitems__(self, items: Items) -> Batch:
        """Return the batch."""
        return Batch(self.views, self.targets, torch.arange(len(items)))


class StepClock(Observer):
    """Notes when steps end, as an observer of a training that is part of no checkpoint.

    Args:
        device: where the steps run. A GPU is waited for twice only: a step may begin before the GPU
            has ended the one before.
        steps: number of steps.
        warm: number of steps that do not count on a GPU.
    """

    def __init__(self, device: torch.device, steps: int, warm: int = WARM) -> None:
        self.on_gpu, self.steps = device.type == "cuda", steps
        self.first = min(warm, steps - 2) if self.on_gpu else 0
        self.times: list[float] = []

    def note(self) -> None:
        """Note that a step has ended."""
        if self.on_gpu and len(self.times) in (self.first, self.steps - 1):
            torch.cuda.synchronize()
        self.times.append(time.perf_counter() if self.on_gpu else time.process_time())

    def seconds(self) -> list[float]:
        """Return the seconds of each step but the first; on a GPU the mean of those that count."""
        times = self.times[self.first :]
        if self.on_gpu and len(times) > 1:
            return [(times[-1] - times[0]) / (len(times) - 1)]
        return [after - before for before, after in itertools.pairwise(times)]

    def after_step(self, step: int, progress: float, batch: Batch) -> None:
        """Note it."""
        self.note()


def built(config: Config, device: torch.device) -> methods.Method:
    """Return an untrained method."""
    others: dict[str, Any] = {}
    if config["method"]["name"] == "seed":
        others["teacher"] = models.build(config["model"], seed=1)
    if config["method"]["name"] == "distill":
        others["teachers"] = [models.build(config["model"], seed=1)]
    node = {**config["method"], "bn_groups": 1, "clip_grad_norm": None}
    return methods.build(node, models.build(config["model"]), 10, **others).to(device)


def ours(
    learner: methods.Method, config: Config, data: TrainingData, options: argparse.Namespace
) -> list[float]:
    """Return the seconds of the steps of our trainer."""
    node = {**config["method"], "batch_size": len(data), "bn_groups": 1, "clip_grad_norm": None}
    device = next(learner.parameters()).device
    drawn = 0 if isinstance(data, SameViews) else ahead(options)
    clock = StepClock(device, drawn + options.steps, drawn + WARM)
    with tempfile.TemporaryDirectory() as folder:
        context = Context(
            Path(folder), Path(folder), device=device, progress_bar=False, channels_last="auto",
            precision=options.precision,
            workers=0 if isinstance(data, SameViews) else options.workers,
        )  # fmt: skip
        recipe = TrainingOptions.of(node, steps=clock.steps, drop_last=True, warmup_epochs=0.0)
        fit(learner, data, recipe, context, name="pretrain", observer=clock)
    return clock.seconds()


def ahead(options: argparse.Namespace) -> int:
    """Return how many batches the workers draw before the speed of a training is theirs."""
    return 3 * int(options.workers)


def loading(data: TrainingData, options: argparse.Namespace) -> list[float]:
    """Return the mean seconds of drawing a batch in the workers, without a network."""
    context = Context(Path(), Path(), device=torch.device(options.device), workers=options.workers)
    full = ahead(options)
    items = [[(epoch, i) for i in range(len(data))] for epoch in range(full + options.steps)]
    times = [time.perf_counter() for _ in load(data, items, context)]
    return [(times[-1] - times[full]) / (len(times) - 1 - full)]


class Networks:
    """The networks of a method, and their inputs in one step.

    Args:
        learner: the method; its networks are the modules that it calls itself, whether they are its
            own or, like the encoder of DINO's teacher, parts of another.
    """

    def __init__(self, learner: methods.Method) -> None:
        self.learner = learner
        self.calls: list[tuple[nn.Module, Tensor, bool]] = []
        self.depth = 0
        self.hooks = []
        for network in list(learner.modules())[1:]:
            self.hooks.append(network.register_forward_pre_hook(self.enter))
            self.hooks.append(network.register_forward_hook(self.leave))

    def enter(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Note a call by the method: network, input, and whether a backward pass follows."""
        if self.depth == 0:
            self.calls.append((network, inputs[0], torch.is_grad_enabled()))
        self.depth += 1

    def leave(self, network: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Note the end of a call."""
        self.depth -= 1

    def stop(self) -> None:
        """Note no further calls."""
        for hook in self.hooks:
            hook.remove()

    @memory.kept()  # as in the trainer
    def seconds(self, options: argparse.Namespace) -> list[float]:
        """Return the seconds of the forward and backward passes of the steps."""
        device = self.calls[0][1].device
        if is_faster_last(self.learner, device.type, options.precision):
            self.learner.to(memory_format=torch.channels_last)
        clock = StepClock(device, options.steps)
        for _ in range(options.steps):
            for network, inputs, trained in self.calls:
                leaf = inputs.detach().requires_grad_(trained and inputs.requires_grad)
                with torch.set_grad_enabled(trained), half(options):
                    output = network(leaf)
                if output.requires_grad:
                    output.backward(output.detach())
            self.learner.zero_grad(set_to_none=True)
            clock.note()
        return clock.seconds()


def half(options: argparse.Namespace) -> torch.autocast:
    """Return the context of a forward pass in the precision of the steps."""
    dtype = HALF.get(options.precision)
    return torch.autocast(options.device, dtype=dtype, enabled=dtype is not None)


@dataclasses.dataclass
class Parts:
    """A method made of lightly's parts.

    Args:
        modules: what trains.
        loss: of two views.
        slow: pairs of what trains and what follows it.
    """

    modules: Sequence[nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    slow: Sequence[tuple[nn.Module, nn.Module]] = ()


def theirs(config: Config, data: SameViews, options: argparse.Namespace) -> list[float]:
    """Return the seconds of the steps of a plain loop over lightly's parts."""
    node, device = config["method"], torch.device(options.device)
    torch.manual_seed(0)
    parts = LIGHTLY[node["name"]](models.build(config["model"]), node, device)
    for module in (*parts.modules, *(slow for _, slow in parts.slow)):
        module.to(device).train()
    trained = [p for module in parts.modules for p in module.parameters() if p.requires_grad]
    optimizer = optim.build(node["optimizer"], [{"params": trained}])
    clock = StepClock(device, options.steps)
    for _ in range(options.steps):
        with half(options):
            loss = parts.loss(*(view.to(device, non_blocking=True) for view in data.views))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        for fast, slow in parts.slow:
            utils.update_momentum(fast, slow, node["momentum"])
        loss.item()
        clock.note()
    return clock.seconds()


def projection(encoder: Encoder, node: Config) -> nn.Module:
    """Return lightly's head with the widths of ours."""
    *hidden, dim = node["projector"]["dims"]
    widths = [encoder.feature_dim, *hidden]
    blocks: list[Any] = [
        (a, b, nn.BatchNorm1d(b), nn.ReLU()) for a, b in itertools.pairwise(widths)
    ]
    return heads.ProjectionHead([*blocks, (widths[-1], dim, None, None)])


def slow_copy(module: nn.Module) -> nn.Module:
    """Return what follows a module."""
    slow = copy.deepcopy(module)
    utils.deactivate_requires_grad(slow)
    return slow


def alike(encoder: Encoder, head: nn.Module, loss: nn.Module) -> Parts:
    """Return a method whose views pass the same network."""
    return Parts([encoder, head], lambda a, b: loss(head(encoder(a)), head(encoder(b))))


def simclr(encoder: Encoder, node: Config, device: torch.device) -> Parts:
    """Return SimCLR."""
    head = heads.SimCLRProjectionHead(encoder.feature_dim, *node["projector"]["dims"])
    return alike(encoder, head, losses.NTXentLoss(node["temperature"]))


def barlow_twins(encoder: Encoder, node: Config, device: torch.device) -> Parts:
    """Return Barlow Twins."""
    loss = losses.BarlowTwinsLoss(node["lambda_bt"])
    return alike(encoder, projection(encoder, node), loss)


def vicreg(encoder: Encoder, node: Config, device: torch.device) -> Parts:
    """Return VICReg."""
    return alike(encoder, projection(encoder, node), losses.VICRegLoss())


def byol(encoder: Encoder, node: Config, device: torch.device) -> Parts:
    """Return BYOL."""
    head, dim = projection(encoder, node), node["projector"]["dims"][-1]
    predictor = heads.BYOLPredictionHead(dim, node["predictor_dim"], dim)
    target, target_head = slow_copy(encoder), slow_copy(head)
    cosine = losses.NegativeCosineSimilarity()

    def loss(a: Tensor, b: Tensor) -> Tensor:
        p, q = (predictor(head(encoder(view))) for view in (a, b))
        with torch.no_grad():
            s, t = (target_head(target(view)) for view in (a, b))
        return (cosine(p, t) + cosine(q, s)) / 2

    return Parts([encoder, head, predictor], loss, [(encoder, target), (head, target_head)])


def moco(encoder: Encoder, node: Config, device: torch.device) -> Parts:
    """Return MoCo v2."""
    head = heads.MoCoProjectionHead(encoder.feature_dim, encoder.feature_dim, node["dim"])
    slow, slow_head = slow_copy(encoder), slow_copy(head)
    bank = (node["queue_size"], node["dim"])
    contrast = losses.NTXentLoss(node["temperature"], memory_bank_size=bank).to(device)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        queries = head(encoder(a))
        with torch.no_grad():
            shuffled, order = utils.batch_shuffle(b)
            keys = utils.batch_unshuffle(slow_head(slow(shuffled)), order)
        return contrast(queries, keys)

    return Parts([encoder, head], loss, [(encoder, slow), (head, slow_head)])


def swav(encoder: Encoder, node: Config, device: torch.device) -> Parts:
    """Return SwAV."""
    head, dim = projection(encoder, node), node["projector"]["dims"][-1]
    prototypes = heads.SwaVPrototypes(dim, node["prototypes"])
    swap = losses.SwaVLoss()

    def loss(a: Tensor, b: Tensor) -> Tensor:
        prototypes.normalize()
        embeddings = [nn.functional.normalize(head(encoder(view))) for view in (a, b)]
        return swap([prototypes(z) for z in embeddings], [])

    return Parts([encoder, head, prototypes], loss)


def dino(encoder: Encoder, node: Config, device: torch.device) -> Parts:
    """Return DINO; its head cannot be copied, so that the teacher's has weights of its own."""
    widths = (node["hidden_dims"][0], node["bottleneck_dim"], node["out_dim"])
    head, slow_head = (
        heads.DINOProjectionHead(encoder.feature_dim, *widths, batch_norm=node["batch_norm"])
        for _ in range(2)
    )
    teacher = slow_copy(encoder)
    utils.deactivate_requires_grad(slow_head)
    distil = losses.DINOLoss(node["out_dim"]).to(device)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        with torch.no_grad():
            targets = [slow_head(teacher(view)) for view in (a, b)]
        return distil(targets, [head(encoder(view)) for view in (a, b)])

    return Parts([encoder, head], loss, [(encoder, teacher), (head, slow_head)])


LIGHTLY: dict[str, Callable[[Encoder, Config, torch.device], Parts]] = {
    "simclr": simclr,
    "byol": byol,
    "moco_v2": moco,
    "barlow_twins": barlow_twins,
    "vicreg": vicreg,
    "swav": swav,
    "dino": dino,
}


def drawn_images(count: int, size: int, views: Sequence[Any], preprocessing: Any) -> ViewDataset:
    """Return images of noise in memory, and the pipelines that draw a method's views of them."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
    split = Split(ArrayImages(pixels), np.arange(count) % 10, [str(i) for i in range(count)])
    return ViewDataset(
        split, [Pipeline(preprocessing, view, view=number) for number, view in enumerate(views)], 0
    )


def measure(name: str, options: argparse.Namespace, other: Executor) -> dict[str, float]:
    """Return the seconds of a step of every side in its fastest round; lightly's in ``other``."""
    device = torch.device(options.device)
    own = [f"method={name}", f"model={options.model}", *OVERRIDES.get(name, []), *options.overrides]
    config = resolve(plain(compose(own)))
    size = config["model"]["preprocessing"]["size"]
    learner = built(config, device)
    count = len(learner.views) * (1 + len(learner.other_preprocessing))
    views = tuple(torch.randn(options.batch_size, 3, size, size) for _ in range(count))
    data = SameViews(tuple(v.pin_memory() for v in views) if device.type == "cuda" else views)
    images = drawn_images(options.batch_size, size, learner.views, learner.encoder.preprocessing)
    networks = Networks(learner)
    ours(learner, config, data, argparse.Namespace(**{**vars(options), "steps": 1}))
    networks.stop()
    sides: dict[str, Side] = {
        "ours": lambda: ours(learner, config, data, options),
        "limit": lambda: networks.seconds(options),
        "pipeline": lambda: ours(learner, config, images, options),
        "loading": lambda: loading(images, options),
    }
    if name in LIGHTLY and losses is not None:
        sides["lightly"] = lambda: other.submit(theirs, config, data, options).result()
    if learner.other_preprocessing:
        del sides["pipeline"], sides["loading"]
    elif not options.workers:
        del sides["loading"]
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for round_ in range(options.rounds):
        for side in list(sides) if round_ % 2 == 0 else list(sides)[::-1]:
            seconds[side] += sides[side]()
    return {side: min(times) for side, times in seconds.items()}


def prepare() -> None:
    """Set what holds for a whole process."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)


def main() -> None:
    """Print the time of a step of our trainer beside that of the other sides, for every method."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="of our configuration")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--model", default="small_resnet")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--steps", type=int, help="of each side in each round (5; on a GPU 25)")
    parser.add_argument("--rounds", type=int, help="default: 6; on a GPU 2")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="fp32", choices=["fp32", *HALF])
    parser.add_argument("--workers", type=int, help="of ``pipeline`` (0; on a GPU one per core)")
    options = parser.parse_intermixed_args()
    on_gpu = options.device == "cuda"
    options.steps = options.steps or (25 if on_gpu else 5)
    options.rounds = options.rounds or (2 if on_gpu else 6)
    if options.workers is None:
        options.workers = (os.cpu_count() or 1) if on_gpu else 0
    prepare()
    print(f"{'':<20}{'seconds':>10}{'images':>10}{'limit /':>12}{'limit /':>12}{'lightly /':>12}")
    print(
        f"{'method':<20}{'a step':>10}{'a second':>10}{'step':>12}{'pipeline':>12}{'step':>12}"
        + f"{'loading':>12}" * bool(options.workers)
    )
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=prepare) as other:
        for name in options.methods.split(","):
            show(name, measure(name, options, other), options.batch_size)


def show(name: str, seconds: dict[str, float], batch_size: int) -> None:
    """Print a method's row."""
    ratios = [("limit", "ours"), ("limit", "pipeline"), ("lightly", "ours")]
    cells = [
        f"{seconds[a] / seconds[b]:>12.2f}" if a in seconds and b in seconds else f"{'':>12}"
        for a, b in ratios
    ]
    if "loading" in seconds:
        cells.append(f"{batch_size / seconds['loading']:>12.0f}")
    rate = batch_size / seconds["ours"]
    print(f"{name:<20}{seconds['ours']:>10.4f}{rate:>10.0f}{''.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
