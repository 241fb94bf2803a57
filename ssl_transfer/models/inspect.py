"""Describe a checkpoint, and convert it to a safetensors file of the encoder.

python -m ssl_transfer.models.inspect FILE|RUN_FOLDER [--to encoder.safetensors]

No code in the file is executed: only the tensors of PyTorch's checkpoints are read, and BYOL's
pickle is read by ``ssl_transfer.models.haiku``.
"""

import argparse
import functools
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_transfer import randomness
from ssl_transfer.config import options
from ssl_transfer.models.backbones import timm_backbone, torchvision_backbone, torchvision_resnet
from ssl_transfer.models.comparison import LoadReport, compare
from ssl_transfer.models.inspect_run import describe_run
from ssl_transfer.models.layouts import LAYOUTS, STEMS, below, in_order, recognised
from ssl_transfer.models.reading import State, read_state
from ssl_transfer.models.small_networks import small_network
from ssl_transfer.models.weights import prefixes
from ssl_transfer.system.downloads import checksum
from ssl_transfer.system.files import replace_atomically
from ssl_transfer.system.plain_text import printable

ALIKE = ("cifar", "tiny", "cifar_pad2")
"""Stems of a ResNet whose tensors have the same names and shapes."""

_TRIED = 5
"""Number of prefixes that are tried."""

ARCHITECTURES = (
    "resnet50", "resnet18", "resnet34", "resnet101", "resnet152", "wide_resnet50_2",
    "wide_resnet101_2", "resnext50_32x4d", "resnext101_32x8d", "resnet50w2", "resnet50w3",
    "resnet50w4", "resnet50w5", "resnet18w3", "densenet121", "mobilenet_v3_small",
    "mobilenet_v3_large", "efficientnet_b0", "vit_tiny",
    *(f"{arch} model.stem={stem}" for arch in ("resnet18", "resnet50", "resnet34")
      for stem in ALIKE),
    *(f"{arch} model.variant=ssl_small" for arch in
      ("mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0", "vit_tiny")),
)  # fmt: skip
"""The architectures that a file is compared with by default, some with a key of their option."""


@randomness.preserved()
def best_match(state: State, path: Path, arch: str | None, layout: str | None) -> LoadReport | None:
    """Return the comparison with the architecture that matches the file best.

    Args:
        state: the file's tensors by their names in the file.
        path: the file.
        arch: a model of torchvision or timm (``None``: each of ``ARCHITECTURES``).
        layout: a name in ``LAYOUTS`` (``None``: each).

    Returns:
        The comparison, with ``architecture/layout`` as its layout; None if no tensor fits any.

    Raises:
        ValueError: if the architecture is unknown.
    """
    best: LoadReport | None = None
    for key in _layouts(state, layout):
        renamed = LAYOUTS[key](state)
        for name in (arch,) if arch else ARCHITECTURES:
            if not _may_have_stem(name, key):
                continue
            report = compare(_tensors_of(name), renamed, path, f"{name}/{key}")
            if report.complete:
                return report
            if report.matched and (best is None or len(report.matched) > len(best.matched)):
                best = report
    return best


def with_prefix(
    state: State, path: Path, arch: str | None, layout: str | None
) -> tuple[str, State, LoadReport] | None:
    """Return the prefix under which a file holds a whole network, the network and its match.

    Trainers such as Lightning put the name of an attribute before each tensor's name. The arguments
    are those of ``best_match``; None if there is no such prefix.
    """
    tried = dict.fromkeys(
        prefix
        for name in ((arch,) if arch else ARCHITECTURES)
        for prefix in prefixes(state, next(iter(_tensors_of(name))))
    )
    networks = {prefix: below(prefix, state) for prefix in tried}
    # The prefix of a layer has fewer tensors below it than that of the network.
    for prefix in sorted(networks, key=lambda one: -len(networks[one]))[:_TRIED]:
        report = best_match(networks[prefix], path, arch, layout)
        if report is not None and report.complete:
            return prefix, networks[prefix], report
    return None


def _layouts(state: State, layout: str | None) -> list[str]:
    """Return the layouts to try, one name per distinct layout (``plain`` has several names)."""
    names = [name for name in in_order(state) if name not in ("ssl_transfer", "plain")]
    return [name for name in names if layout in (None, name)]


def _may_have_stem(name: str, layout: str) -> bool:
    _, _, stem = name.partition(" model.stem=")
    return (stem or "imagenet") in STEMS.get(layout, (stem or "imagenet",))


@functools.cache
def _tensors_of(name: str) -> dict[str, Tensor]:
    from torchvision.models import list_models

    arch, _, setting = name.partition(" model.")
    keys: dict[str, Any] = dict([setting.split("=")]) if setting else {}
    with torch.device("meta"):  # names and shapes without memory
        if arch == "vit_tiny" or "variant" in keys:
            net = small_network(arch, **keys)
        elif "stem" in keys or re.match(r"resnet\d+w\d+$", arch):
            net = torchvision_resnet(arch, **keys)
        else:
            net = torchvision_backbone(arch) if arch in list_models() else timm_backbone(arch)
    return net.state_dict()


def describe(
    path: Path, whole: State, state: State, report: LoadReport | None, prefix: str = ""
) -> Iterator[str]:
    """Yield the lines of a checkpoint's description.

    Args:
        path: the file.
        whole: its tensors.
        state: those of them that are compared, without ``prefix``.
        report: the comparison with the architecture that matches best.
        prefix: what stands before the names of the compared tensors in the file.
    """
    size = sum(tensor.numel() for tensor in whole.values())
    yield f"file          {path} ({path.stat().st_size / 1e6:,.1f} MB)"
    yield f"sha256        {checksum(path, 'sha256')}"
    yield f"tensors       {len(whole)} with {size:,} numbers: {_groups(whole)}"
    looks = recognised(state)
    if prefix:
        yield f"prefix        {prefix} stands before the names of {len(state)} tensors"
    if looks or not prefix:
        yield f"looks like    {looks[0] if looks else 'nothing known'}"
    if report is None:
        yield "architecture  none of those tried; name one by --arch"
        return
    arch, _, layout = report.layout.partition("/")
    yield f"architecture  {arch}" + ("" if report.complete else ", but not all fits")
    yield f"layout        {layout}"
    counters = report.total - len(report.matched) - len(report.missing) - len(report.reshaped)
    without = f" (without BatchNorm's {counters} counters)" if counters else ""
    yield f"matched       {len(report.matched)} of {report.total}{without}"
    if report.dropped:
        yield f"heads         {len(report.dropped)}: {', '.join(report.dropped[:4])}"
    left = len(whole) - len(report.matched) - len(report.dropped) - len(report.unexpected)
    left -= len(report.reshaped)
    if left:
        yield f"left out      {left} that do not belong to the encoder"
    if not report.complete:
        yield f"differences   {report.differences()}"
    elif arch.split()[0] in options("model"):
        # These two layouts need another preprocessing than most; their model options set it.
        model = layout if arch == "resnet50" and layout in ("byol", "simclr_v2") else arch
        keys = f" model.weights.prefix={prefix}" if prefix else ""
        yield (f"use           model={model} model.weights.path={path} "
               f"model.weights.layout={layout}{keys}")  # fmt: skip
        alike = [stem for stem in ALIKE if stem in STEMS.get(layout, ALIKE)]
        if "stem=" in arch and len(alike) > 1:
            yield (f"stem          {', '.join(alike[:-1])} and {alike[-1]} have the same tensors; "
                   "the file does not tell which")  # fmt: skip


def _groups(state: State) -> str:
    counts = Counter(name.partition(".")[0] for name in state)
    return ", ".join(f"{group} {count}" for group, count in counts.most_common(6))


def convert(state: State, report: LoadReport | None, target: Path) -> int:
    """Write the encoder's tensors under the architecture's names to a safetensors file.

    Returns:
        The number of tensors.

    Raises:
        ValueError: if the file does not match one of the architectures completely.
        OSError: if the target cannot be written.
    """
    from safetensors.torch import save

    if target.suffix != ".safetensors":
        raise ValueError(f"`--to` must end in .safetensors, but is `{target}`.")
    if report is None or not report.complete:
        why = report.differences() if report else "nothing matches"
        raise ValueError(
            f"The whole encoder must be in the file to be converted, but is not ({why}); name its "
            "architecture by --arch."
        )
    renamed = LAYOUTS[report.layout.partition("/")[2]](state)
    tensors = {name: renamed[name].clone().contiguous() for name in report.matched}
    replace_atomically(target, lambda file: file.write(save(tensors)))
    return len(tensors)


def main(arguments: Sequence[str] | None = None) -> int:
    """Describe a file, convert it with ``--to``, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m ssl_transfer.models.inspect",
        description="Say what a checkpoint is: layout, architecture, matched tensors, heads.",
    )
    parser.add_argument("file", type=Path, help="safetensors, PyTorch checkpoint, numpy archive, "
                        "BYOL's pickle, or the folder of a run")  # fmt: skip
    parser.add_argument("--to", type=Path, metavar="OUT.safetensors",
                        help="write the encoder there, under its architecture's names")  # fmt: skip
    parser.add_argument("--arch", help="of torchvision or timm (default: the usual ones)")
    parser.add_argument("--layout", choices=_layouts({}, None),
                        help="default: the one that fits")  # fmt: skip
    args = parser.parse_args(arguments)
    try:
        if args.file.is_dir() and args.to is None:
            for line in describe_run(args.file):
                sys.stdout.write(f"{printable(line)}\n")
            return 0
        whole = state = read_state(args.file)
        report, prefix = best_match(state, args.file, args.arch, args.layout), ""
        if report is None or not report.complete:
            below_prefix = with_prefix(state, args.file, args.arch, args.layout)
            prefix, state, report = below_prefix or (prefix, state, report)
        for line in describe(args.file, whole, state, report, prefix):
            sys.stdout.write(f"{printable(line)}\n")
        if args.to:
            count = convert(state, report, args.to)
            sys.stdout.write(f"wrote         {args.to}, {count} tensors\n")
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{printable(str(error))}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
