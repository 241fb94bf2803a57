"""Every pre-training loss, forward and backward, against its literal form and against lightly's.

    python benchmarks/losses.py [--batch 256] [--dims 1024 2048] [--device cpu]

Literal: the published formula, matrix by matrix. lightly (https://github.com/lightly-ai/lightly,
MIT) is compared where it is installed and has the loss. All sides alternate, beginning with each in
turn (who begins finds colder memory); the ratio is that of the medians, of CPU seconds on a CPU.
W-MSE and SwAV have the published widths of their own: a whitened width must be smaller than the
sub-batch.
"""

import argparse
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("LIGHTLY_DID_VERSION_CHECK", "True")  # it asks a server otherwise
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_transfer.methods.barlow_twins import barlow_twins
from ssl_transfer.methods.byol import byol
from ssl_transfer.methods.dino import dino
from ssl_transfer.methods.mixed_barlow_twins import mixed_barlow_twins
from ssl_transfer.methods.moco import info_nce
from ssl_transfer.methods.simclr import nt_xent
from ssl_transfer.methods.simsiam import simsiam
from ssl_transfer.methods.swav import sinkhorn, swav
from ssl_transfer.methods.vicreg import vicreg
from ssl_transfer.methods.w_mse import w_mse

Loss = Callable[..., Tensor]


def standardised(z: Tensor) -> Tensor:
    """Return what the published code of Mixed Barlow Twins correlates."""
    return (z - z.mean(0)) / z.std(0)


def literal_barlow_twins(a: Tensor, b: Tensor, weight: float = 0.0051) -> Tensor:
    """Return the released code's formula."""
    c = F.batch_norm(a, None, None, training=True).T @ F.batch_norm(b, None, None, training=True)
    c = c / len(a)
    off = c.flatten()[:-1].view(len(c) - 1, len(c) + 1)[:, 1:].flatten()
    return (c.diagonal() - 1).square().sum() + weight * off.square().sum()


def literal_mixed_barlow_twins(
    a: Tensor, b: Tensor, m: Tensor, permutation: Tensor, share: float
) -> Tensor:
    """Return the README's formulas, with the seven matrices of the released code."""
    a, b, m = standardised(a), standardised(b), standardised(m)
    n = len(a)
    c = a.T @ b / n
    off = c.flatten()[:-1].view(len(c) - 1, len(c) + 1)[:, 1:].flatten()
    twins = (c.diagonal() - 1).square().sum() + 0.0051 * off.square().sum()
    target_a = share * a.T @ a / n + (1 - share) * b[permutation].T @ a / n
    target_b = share * a.T @ b / n + (1 - share) * b[permutation].T @ b / n
    distances = (m.T @ a / n - target_a).square().sum() + (m.T @ b / n - target_b).square().sum()
    return twins + 4 * 0.0051 * distances


def our_mixed_barlow_twins(
    a: Tensor, b: Tensor, m: Tensor, permutation: Tensor, share: float
) -> Tensor:
    """Return the same by residuals and inner products."""
    keys: dict[str, Any] = {"lambda_bt": 0.0051, "unbiased": True, "eps": 0.0}
    terms = mixed_barlow_twins(a, b, m, permutation, share, **keys)
    return terms.twins.loss + 4 * 0.0051 * (terms.to_first + terms.to_second)


def literal_vicreg(a: Tensor, b: Tensor) -> Tensor:
    """Return the paper's pseudocode."""
    total = 25 * F.mse_loss(a, b)
    for z in (a, b):
        total = total + 12.5 * F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean()
        z = z - z.mean(0)
        c = z.T @ z / (len(z) - 1)
        off = c.flatten()[:-1].view(len(c) - 1, len(c) + 1)[:, 1:].flatten()
        total = total + off.square().sum() / z.shape[1]
    return total


def our_vicreg(a: Tensor, b: Tensor) -> Tensor:
    """Return the weighted terms."""
    terms = vicreg(a, b)
    return 25 * terms.invariance + 25 * terms.variance + terms.covariance


def cases(batch: int, dim: int, device: torch.device) -> dict[str, tuple[dict[str, Loss], Any]]:
    """Return, for each loss, the sides and their leaves, all embeddings of one width."""
    torch.manual_seed(0)
    a, b, m, n = (torch.randn(batch, dim, device=device, requires_grad=True) for _ in range(4))
    permutation = torch.randperm(batch, device=device)
    queue = F.normalize(torch.randn(4096, dim, device=device))
    centre = torch.zeros(dim, device=device)
    temperatures = {"student_temperature": 0.1, "teacher_temperature": 0.04}
    found: dict[str, tuple[dict[str, Loss], Any]] = {
        "barlow_twins": (
            {
                "ours": lambda a, b: barlow_twins(a, b, lambda_bt=0.0051).loss,
                "literal": literal_barlow_twins,
            },
            [a, b],
        ),
        "mixed_barlow_twins": (
            {
                "ours": lambda a, b, m: our_mixed_barlow_twins(a, b, m, permutation, 0.3),
                "literal": lambda a, b, m: literal_mixed_barlow_twins(a, b, m, permutation, 0.3),
            },
            [a, b, m],
        ),
        "vicreg": ({"ours": our_vicreg, "literal": literal_vicreg}, [a, b]),
        "simclr": ({"ours": lambda a, b: nt_xent(a, b, 0.5)}, [a, b]),
        "simsiam": ({"ours": simsiam}, [a, b, m, n]),
        "byol": ({"ours": byol}, [a, b, m, n]),
        "moco": ({"ours": lambda a, b: info_nce(a, b, queue, 0.2)}, [a, b]),
        "dino": (
            {
                "ours": lambda a, b, m, n: dino(
                    torch.stack([a, b], 1), torch.stack([m, n], 1), centre, **temperatures
                )
            },
            [a, b, m, n],
        ),
    }
    try:
        from lightly import loss as theirs
    except ImportError:
        return found
    cosine, contrast = theirs.NegativeCosineSimilarity(), theirs.NTXentLoss(0.5)
    memory = theirs.NTXentLoss(0.2, memory_bank_size=(4096, dim)).to(device)
    # Initialised, and left as it is, so that both sides compare with the same number of rows.
    memory.memory_bank.bank = queue.clone()
    memory.memory_bank._dequeue_and_enqueue = lambda *_: None
    distil = theirs.DINOLoss(dim).to(device)
    lightly: dict[str, Loss] = {
        "barlow_twins": theirs.BarlowTwinsLoss(0.0051),
        "vicreg": theirs.VICRegLoss(),
        "simclr": contrast,
        "simsiam": lambda a, b, m, n: (cosine(a, n.detach()) + cosine(b, m.detach())) / 2,
        "byol": lambda a, b, m, n: 4 + 2 * (cosine(a, n.detach()) + cosine(b, m.detach())),
        "moco": lambda a, b: memory(F.normalize(a), F.normalize(b.detach())),
        "dino": lambda a, b, m, n: distil([m.detach(), n.detach()], [a, b]),
    }
    for name, function in lightly.items():
        found[name][0]["lightly"] = function
    return found


def own_widths(batch: int, device: torch.device) -> dict[str, tuple[dict[str, Loss], Any]]:
    """Return the losses whose published widths are their own: W-MSE 64, SwAV 512 and 3000."""
    torch.manual_seed(0)
    found: dict[str, tuple[dict[str, Loss], Any]] = {}
    for views in (2, 4):
        z = torch.randn(views, batch, 64, device=device, requires_grad=True)
        found[f"w_mse, {views} views, D=64"] = (
            {
                "ours": lambda z: w_mse(
                    z, [torch.randperm(z.shape[1], device=z.device)], sub_batch=128, eps=0.0
                )[0]
            },
            [z],
        )
    for prototypes in (512, 3000):
        directions = F.normalize(torch.randn(prototypes, 128, device=device))
        scores = F.normalize(torch.randn(batch, 2, 128, device=device), dim=2) @ directions.T
        found[f"swav, K={prototypes}"] = ({"ours": our_swav}, [scores.requires_grad_()])
    try:
        from lightly import loss as theirs
    except ImportError:
        return found
    swap = theirs.SwaVLoss()
    for name, (sides, leaves) in found.items():
        if name.startswith("swav"):
            sides["lightly"] = lambda s: swap([s[:, 0], s[:, 1]], [])
        elif device.type == "cpu":  # its identity matrix is on the CPU
            whitening = theirs.WMSELoss(
                64, w_size=128, num_samples=len(leaves[0]), track_running_stats=False
            )
            sides["lightly"] = lambda z, loss=whitening: loss(z.flatten(0, 1))
    return found


def our_swav(scores: Tensor) -> Tensor:
    """Return the loss, codes included."""
    codes = [sinkhorn(view.detach(), eps=0.05, iterations=3) for view in scores.unbind(1)]
    return swav(scores, codes, 0.1)


def once(loss: Loss, leaves: list[Tensor]) -> float:
    """Return the seconds of a forward and a backward pass."""
    clock = time.perf_counter if leaves[0].is_cuda else time.process_time
    for leaf in leaves:
        leaf.grad = None
    began = clock()
    loss(*leaves).sum().backward()
    if leaves[0].is_cuda:
        torch.cuda.synchronize()
    return clock() - began


def compare(name: str, sides: dict[str, Loss], leaves: list[Tensor], repeats: int) -> None:
    """Check that the sides agree, measure them in turn, print seconds and ratios."""
    values = {side: loss(*leaves).sum().item() for side, loss in sides.items()}
    random_cuts = name.startswith("w_mse")
    if not random_cuts and max(values.values()) - min(values.values()) > 1e-4 * abs(values["ours"]):
        raise SystemExit(f"{name}: the sides must agree, but are {values}.")
    taken: dict[str, list[float]] = {side: [] for side in sides}
    names = list(sides)
    for round_ in range(repeats):
        first = round_ % len(names)
        for side in names[first:] + names[:first]:
            taken[side].append(once(sides[side], leaves))
    medians = {side: statistics.median(times) for side, times in taken.items()}
    parts = [f"{name:34} ours {1000 * medians['ours']:8.2f} ms"]
    parts += [
        f"{side} {1000 * seconds:8.2f} ms ({seconds / medians['ours']:5.2f} x)"
        for side, seconds in medians.items()
        if side != "ours"
    ]
    print(" | ".join(parts), flush=True)


def main() -> None:
    """Measure all losses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--dims", type=int, nargs="+", default=[1024, 2048])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="lightly")
    device = torch.device(options.device)
    torch.set_num_threads(1)  # several wait for each other where other work goes on
    print(f"batch {options.batch}, {device}, one thread")
    for dim in options.dims:
        for name, (sides, leaves) in cases(options.batch, dim, device).items():
            compare(f"{name}, D={dim}", sides, leaves, options.repeats)
    for name, (sides, leaves) in own_widths(options.batch, device).items():
        compare(name, sides, leaves, options.repeats)


if __name__ == "__main__":
    main()
