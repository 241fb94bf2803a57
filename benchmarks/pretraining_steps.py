"""Pre-training steps: our trainer against the same loop written with lightly's parts.

    python benchmarks/pretraining_steps.py
    python benchmarks/pretraining_steps.py --methods byol,swav --model resnet18 model.stem=cifar

A step: a batch of two views in memory, forward, backward, the optimizer's update, the momentum
encoder's, and the loss read. Encoder, widths of the heads, batch and optimizer are the same on both
sides; lightly (https://github.com/lightly-ai/lightly, MIT) lets its heads, losses, memory bank and
momentum update stand for the rest, as in its examples. Both sides take turns; each is judged by its
fastest step, in CPU seconds of one thread (on a GPU: in seconds), so that other work on the machine
disturbs the ratio little. Peak memory is the process's (on a GPU: the device's). Batch statistics
are the whole batch's, and nothing is clipped: lightly's examples do neither.
"""

import argparse
import copy
import dataclasses
import itertools
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("LIGHTLY_DID_VERSION_CHECK", "True")  # it asks a server otherwise
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn

from benchmarks.published_cell import peak_gib, reset_peak
from ssl_transfer import methods, models
from ssl_transfer.config import compose, plain, resolve
from ssl_transfer.context import Context
from ssl_transfer.datasets.loading import Items
from ssl_transfer.datasets.transforms import Batch
from ssl_transfer.models import Encoder
from ssl_transfer.training import optim
from ssl_transfer.training.options import TrainingOptions
from ssl_transfer.training.trainer import fit

try:
    from lightly import loss as losses
    from lightly.models import utils
    from lightly.models.modules import heads
except ImportError as error:  # it is no dependency, and `make benchmarks` goes on
    print(f"pretraining_steps: nothing to compare with ({error}); `pip install lightly`.")
    raise SystemExit(0) from None

Config = dict[str, Any]
OVERRIDES = {"dino": ["method.hidden_dims=[2048,2048]"]}
"""The head that lightly has."""


class SameViews:
    """Training data that are one batch of views, again and again, and notice when it is asked for.

    Args:
        views: of all images.
        clock: in seconds.
    """

    def __init__(self, views: tuple[Tensor, ...], clock: Callable[[], float]) -> None:
        self.views, self.clock = views, clock
        self.asked: list[float] = []

    def __len__(self) -> int:
        return len(self.views[0])

    def __getitems__(self, items: Items) -> Batch:
        """Return the batch."""
        self.asked.append(self.clock())
        return Batch(
            self.views, torch.zeros(len(items), dtype=torch.int64), torch.arange(len(items))
        )


def ours(config: Config, data: SameViews, steps: int, device: torch.device) -> list[float]:
    """Return the seconds of each step of our trainer."""
    node = {**config["method"], "batch_size": len(data), "bn_groups": 1, "clip_grad_norm": None}
    learner = methods.build(node, models.build(config["model"]), None).to(device)
    data.asked.clear()
    with tempfile.TemporaryDirectory() as folder:
        context = Context(Path(folder), Path(folder), device=device, progress_bar=False)
        fit(
            learner,
            data,
            TrainingOptions.of(node, steps=steps, drop_last=True),
            context,
            name="pretrain",
        )
        ended = data.clock()
    return [after - at for at, after in zip(data.asked, [*data.asked[1:], ended], strict=True)]


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


def theirs(config: Config, data: SameViews, steps: int, device: torch.device) -> list[float]:
    """Return the seconds of each step of a plain loop over lightly's parts."""
    node = config["method"]
    parts = LIGHTLY[node["name"]](models.build(config["model"]), node, device)
    for module in (*parts.modules, *(slow for _, slow in parts.slow)):
        module.to(device).train()
    trained = [p for module in parts.modules for p in module.parameters() if p.requires_grad]
    optimizer = optim.build(node["optimizer"], [{"params": trained}])
    seconds = []
    for _ in range(steps):
        began = data.clock()
        loss = parts.loss(*(view.to(device, non_blocking=True) for view in data.views))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        for fast, slow in parts.slow:
            utils.update_momentum(fast, slow, node["momentum"])
        loss.item()
        seconds.append(data.clock() - began)
    return seconds


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


def measure(name: str, options: argparse.Namespace) -> Iterator[tuple[float, float]]:
    """Yield, for ours and for lightly's, the seconds of the fastest step and peak memory in GiB."""
    device = torch.device(options.device)
    own = [f"method={name}", f"model={options.model}", *OVERRIDES.get(name, []), *options.overrides]
    config = resolve(plain(compose(own)))
    size = config["model"]["preprocessing"]["size"] if options.size is None else options.size
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    views = tuple(torch.randn(options.batch_size, 3, size, size) for _ in range(2))
    sides = (ours, theirs)
    data = SameViews(views, clock)
    seconds: dict[Any, list[float]] = {side: [] for side in sides}
    peaks = dict.fromkeys(sides, 0.0)
    for round_ in range(options.rounds):
        for side in sides if round_ % 2 == 0 else sides[::-1]:
            torch.manual_seed(0)
            reset_peak(options.device)
            seconds[side] += side(config, data, options.steps, device)
            peaks[side] = max(peaks[side], peak_gib(options.device))
    return ((min(seconds[side]), peaks[side]) for side in sides)


def main() -> None:
    """Print steps per second and peak memory of both sides for every method."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="of our configuration")
    parser.add_argument("--methods", default=",".join(LIGHTLY))
    parser.add_argument("--model", default="small_resnet")
    parser.add_argument("--size", type=int, default=None, help="in pixels (the model's)")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=4, help="of each side in each round")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_intermixed_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    per = "steps per CPU-second" if options.device == "cpu" else "steps per second"
    print(f"{'':<14}{per:^22}{'':>8}{'peak memory, GiB':^20}")
    print(f"{'method':<14}{'ours':>10}{'lightly':>12}{'ratio':>8}{'ours':>9}{'lightly':>9}")
    for name in options.methods.split(","):
        (mine, peak), (judge, other) = measure(name, options)
        print(f"{name:<14}{1 / mine:>10.2f}{1 / judge:>12.2f}{judge / mine:>8.2f}"
              f"{peak:>9.2f}{other:>9.2f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
