"""Compare each BatchNorm layer of an encoder before and after BN-tuning.

    python -m ssl_transfer.analysis.bn_tuning RUN_FOLDER [--images N] [--out DIR]

The run must have saved its encoder (``protocol.keep_encoder=true``). The encoder before tuning is
built again from the run's record, and must have the weights whose hash is in the record.
"""

import argparse
import csv
import dataclasses
import importlib.util
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from ssl_transfer import datasets, randomness
from ssl_transfer.analysis.similarity import MINIMUM, MinibatchCKA, gram
from ssl_transfer.config.trust import FLAG
from ssl_transfer.datasets.transforms import Pipeline, ViewDataset
from ssl_transfer.models import Encoder
from ssl_transfer.models.batch_norm import batch_norm_layers
from ssl_transfer.models.weights import WEIGHTS_FILE
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.runs import Run
from ssl_transfer.runs.finished import kept_encoder, only_run, read_finished, starting_encoder
from ssl_transfer.system.files import write_atomically
from ssl_transfer.system.plain_text import printable

BATCH = 64  # images per estimate of similarity
FEATURES = "(features)"
"""Row of the encoder's output, for which only the similarity is defined."""


@dataclasses.dataclass(frozen=True)
class Change:
    """The change of a layer; None for values that are not defined for the layer.

    Args:
        layer: name in the backbone.
        channels: C.
        tuned: whether the protocol trained it.
        weight_shift: ||γ' − γ|| / ||γ||.
        weight_change: mean over channels of |γ' − γ|.
        bias_shift: ||β' − β|| / ||β||; None if β was zero.
        bias_change: mean over channels of |β' − β|.
        mean_drift: mean over channels of |μ' − μ| / σ, the running statistics before tuning as
            μ and σ (σ² includes the layer's ε).
        std_drift: mean over channels of |σ' − σ| / σ.
        divergence: mean over channels of ``jeffreys``, in nats.
        cka: linear CKA of the layer's output on the same images, see ``similarity``.
    """

    layer: str
    channels: int
    tuned: bool
    weight_shift: float | None = None
    weight_change: float | None = None
    bias_shift: float | None = None
    bias_change: float | None = None
    mean_drift: float | None = None
    std_drift: float | None = None
    divergence: float | None = None
    cka: float | None = None


def relative_shift(before: Float[Tensor, " n"], after: Float[Tensor, " n"]) -> float | None:
    """Return ||after − before|| / ||before||; None if ``before`` is zero."""
    norm = torch.linalg.vector_norm
    length = float(norm(before))
    return float(norm(after - before)) / length if length else None


def jeffreys(
    mean: Float64[Tensor, " channels"],
    variance: Float64[Tensor, " channels"],
    other_mean: Float64[Tensor, " channels"],
    other_variance: Float64[Tensor, " channels"],
) -> Float64[Tensor, " channels"]:
    """Return KL(p‖q) + KL(q‖p) of two Gaussians per channel, in nats.

    Jeffreys 1946: of N(μ, σ²) and N(μ', σ'²) it is ((σ² + d²) / σ'² + (σ'² + d²) / σ²) / 2 − 1 with
    d = μ' − μ; the logarithms of the two directions cancel.
    """
    squared = (other_mean - mean).square()
    ratios = (variance + squared) / other_variance + (other_variance + squared) / variance
    return ratios / 2 - 1


def change(name: str, before: _BatchNorm, after: _BatchNorm, *, tuned: bool) -> Change:
    """Return the change of a layer's parameters and running statistics."""
    values: dict[str, float | None] = {}
    for key in ("weight", "bias"):
        old, new = getattr(before, key), getattr(after, key)
        if old is not None:
            old, new = old.detach().double(), new.detach().double()
            values[f"{key}_shift"] = relative_shift(old, new)
            values[f"{key}_change"] = float((new - old).abs().mean())
    if before.running_mean is not None:
        (mean, variance), (new_mean, new_variance) = _statistics(before), _statistics(after)
        std = variance.sqrt()
        values["mean_drift"] = float(((new_mean - mean).abs() / std).mean())
        values["std_drift"] = float(((new_variance.sqrt() - std).abs() / std).mean())
        values["divergence"] = float(jeffreys(mean, variance, new_mean, new_variance).mean())
    return Change(name, before.num_features, tuned, **values)


def _statistics(
    layer: _BatchNorm,
) -> tuple[Float64[Tensor, " channels"], Float64[Tensor, " channels"]]:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return layer.running_mean.double(), layer.running_var.double() + layer.eps


@dataclasses.dataclass(frozen=True)
class TunedRun:
    """A finished run with its encoder before and after.

    Args:
        record: the run's record.
        before: the encoder before the run, in eval mode.
        after: the encoder after the run, in eval mode.
        preprocessing: preprocessing of the run's images.
    """

    record: dict[str, Any]
    before: Encoder
    after: Encoder
    preprocessing: Preprocessing

    @property
    def protocol(self) -> Mapping[str, Any]:
        """The protocol's node."""
        return dict(self.record["config"]["protocol"])


@randomness.preserved()
def read_run(folder: Path, *, trust_targets: bool = False) -> TunedRun:
    """Return a run of ``bn_tune`` that saved its encoder.

    Args:
        folder: folder of the run.
        trust_targets: whether to call any code that the record names, and download files for it.

    Raises:
        ValueError: if it is something else, its encoder before tuning cannot be
            built any more, or its record names unknown code (``ssl_transfer.config.trust``).
    """
    run, record = read_finished(folder, trust_targets=trust_targets)
    if run.config["protocol"].get("trainable") != "batch_norm":
        raise ValueError(
            f"the run must have tuned BatchNorm layers (protocol=bn_tune), but `{folder}` is of "
            f"`{record['protocol']}`; name another folder."
        )
    if not (folder / WEIGHTS_FILE).is_file():
        raise ValueError(
            f"the run must have kept its encoder, but `{folder}` has no {WEIGHTS_FILE}; run it "
            "again with protocol.keep_encoder=true."
        )
    before = starting_encoder(run, record)
    after, preprocessing = kept_encoder(before, folder)
    return TunedRun(record, before.eval(), after.eval(), preprocessing)


@randomness.preserved()
def compare(
    run: TunedRun, images: ViewDataset, picked: Sequence[int], *, progress_bar: bool = True
) -> list[Change]:
    """Return the change of every BatchNorm layer in the network's order, then of the features.

    Args:
        run: the run; its two encoders are moved to the fastest device.
        images: images to compare the encoders on, without augmentation.
        picked: indices of at least four images.
        progress_bar: whether to draw a progress bar.

    Raises:
        ValueError: if there are fewer images.
    """
    _require_enough(len(picked))
    tuned = batch_norm_layers(run.before, run.protocol.get("bn_scope", "all"))
    pairs = {
        name: (before, run.after.backbone.get_submodule(name))
        for name, before in batch_norm_layers(run.before).items()
    }
    similarity = _similarities(run, list(pairs), images, picked, progress_bar=progress_bar)
    changes = []
    for name, (before, after) in pairs.items():
        assert isinstance(before, _BatchNorm)
        assert isinstance(after, _BatchNorm)
        difference = change(name, before, after, tuned=name in tuned)
        changes.append(dataclasses.replace(difference, cka=similarity[name]))
    return [*changes, Change(FEATURES, run.before.feature_dim, False, cka=similarity[FEATURES])]


def _require_enough(images: int) -> None:
    if images < MINIMUM:
        raise ValueError(
            f"at least {MINIMUM} images are needed to compare representations, but there are "
            f"{images}; raise --images."
        )


@torch.no_grad()
def _similarities(
    run: TunedRun,
    names: Sequence[str],
    images: ViewDataset,
    picked: Sequence[int],
    *,
    progress_bar: bool,
) -> dict[str, float | None]:
    """Return the CKA of each layer's outputs before and after."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoders = [encoder.to(device) for encoder in (run.before, run.after)]
    accumulators = {name: MinibatchCKA() for name in (*names, FEATURES)}
    # Divide the images into parts of about equal size, so that no part is too small.
    parts = np.array_split(np.asarray(picked), -(-len(picked) // BATCH))
    for part in tqdm(parts, desc="images", disable=not progress_bar, leave=False, delay=2.0):
        (views,) = images.__getitems__([(0, index) for index in part.tolist()]).views
        K, L = (_grams(encoder, names, views.to(device)) for encoder in encoders)
        for name, similarity in accumulators.items():
            if name in K:  # some layers are only used in training
                similarity.add(K[name], L[name])
    return {name: similarity.value() for name, similarity in accumulators.items()}


def _grams(encoder: Encoder, names: Sequence[str], images: Tensor) -> dict[str, Tensor]:
    """Return the Gram matrix of each layer's output; the outputs are discarded."""
    grams: dict[str, Tensor] = {}

    def noting(name: str) -> Any:
        def hook(layer: nn.Module, inputs: Any, output: Tensor) -> None:
            grams[name] = gram(output).cpu()  # at once: a ReLU may overwrite the output

        return hook

    hooks = [
        encoder.backbone.get_submodule(name).register_forward_hook(noting(name)) for name in names
    ]
    try:
        grams[FEATURES] = gram(encoder(images)).cpu()
    finally:
        for hook in hooks:
            hook.remove()
    return grams


@randomness.preserved()
def images_to_see(run: TunedRun, count: int) -> tuple[ViewDataset, list[int]]:
    """Return the test split with the run's preprocessing, and seeded indices of its images."""
    resolved = Run(run.record["config"]).resolved
    test = datasets.build(resolved["dataset"])["test"]
    order = randomness.permutation(int(run.record["seed"]), "analysis", 0, len(test))
    return ViewDataset(test, [Pipeline(run.preprocessing)], seed=0), sorted(order[:count].tolist())


def to_csv(changes: Sequence[Change]) -> str:
    """Return the changes as CSV with full precision; undefined values are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(Change)])
    writer.writerows(dataclasses.astuple(item) for item in changes)
    return text.getvalue()


def to_markdown(changes: Sequence[Change]) -> str:
    """Return the changes as a Markdown table with rounded values."""
    names = [field.name for field in dataclasses.fields(Change)]
    rows = [names, ["---", *["---:"] * (len(names) - 1)]]
    rows += [[_cell(value) for value in dataclasses.astuple(item)] for item in changes]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


_INK, _GRID = "#333333", "#e6e9ec"
_PANELS = {  # label -> key of a change -> name
    "mean change of\nparameters": {"weight_change": "|γ' − γ|", "bias_change": "|β' − β|"},
    "drift of running\nstatistics (in σ)": {"mean_drift": "mean", "std_drift": "std"},
    "linear CKA\n(before, after)": {"cka": "output"},
}
_COLOURS = ("#1f6fb4", "#d9822b")


def _require_matplotlib() -> None:
    """Raise ``ValueError`` if matplotlib is missing, before anything is computed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError(
            "the picture needs the package matplotlib, but it is not installed; install it (pip "
            "install 'ssl_transfer[report]')."
        )


def draw(changes: Sequence[Change], title: str) -> bytes:
    """Return a picture (PNG): layers from the input to the output, one panel per kind of change."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    width = min(16.0, max(6.4, 2.0 + 0.24 * len(changes)))
    figure = Figure(figsize=(width, 7.2), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(_PANELS), 1, sharex=True)
    places = range(len(changes))
    for axes, (label, series) in zip(panels, _PANELS.items(), strict=True):
        for (key, name), colour in zip(series.items(), _COLOURS, strict=False):
            # The parameters of a layer that is not tuned stay the same; only its inputs change.
            shown = [p for p in places if changes[p].tuned or key == "cka"]
            heights = {p: value for p in shown if (value := getattr(changes[p], key)) is not None}
            faces = [colour if changes[p].tuned else "white" for p in heights]
            axes.plot([*heights], [*heights.values()], color=colour, linewidth=0.8, alpha=0.5)
            axes.scatter(
                [*heights],
                [*heights.values()],
                s=20,
                facecolor=faces,
                edgecolor=colour,
                linewidths=0.9,
                zorder=3,
                label=name,
            )
        axes.set_ylabel(label, fontsize=9, color=_INK)
        axes.grid(color=_GRID, linewidth=0.7)
        axes.tick_params(labelsize=8, colors=_INK, length=2)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if len(series) > 1:
            axes.set_ylim(bottom=0)
            axes.legend(fontsize=8, frameon=False, ncols=len(series), labelcolor=_INK)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[-1].set_xticks(places, [item.layer for item in changes], rotation=90, fontsize=7)
    untuned = any(not item.tuned and item.layer != FEATURES for item in changes)
    figure.suptitle(title + ("   (hollow: not tuned)" if untuned else ""), fontsize=10, color=_INK,
                    parse_math=False)  # fmt: skip
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def report(run: TunedRun, changes: Sequence[Change], folder: Path) -> Iterator[Path]:
    """Write ``layers.csv``, ``layers.md`` and ``layers.png`` to the folder, and yield their paths.

    Raises:
        OSError: if that cannot be written.
    """
    record = run.record
    label, dataset = printable(str(record["encoder"]["label"])), printable(str(record["dataset"]))
    title = f"{label} tuned on {dataset}, seed {record['seed']}"
    contents = {
        "csv": to_csv(changes).encode(),
        "md": to_markdown(changes).encode(),
        "png": draw(changes, title),
    }
    for suffix, content in contents.items():
        path = folder / f"layers.{suffix}"
        write_atomically(path, content)
        yield path


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare a run's encoder before and after tuning; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m ssl_transfer.analysis.bn_tuning",
        description="Show the changes by BN-tuning in each layer: affine parameters, running "
        "statistics and the similarity of outputs (linear CKA) on test images.",
    )
    parser.add_argument("run", type=Path, nargs="+", metavar="RUN_FOLDER",
                        help="holds record.json")  # fmt: skip
    parser.add_argument("--images", type=int, default=256, help="of the test split (default: 256)")
    parser.add_argument("--out", type=Path, help="folder of the tables and the picture "
                        "(default: bn_tuning in the run's folder)")  # fmt: skip
    parser.add_argument(FLAG, action="store_true", help="call whatever code the record names")
    args = parser.parse_args(arguments)
    try:
        _require_enough(args.images)
        _require_matplotlib()
        folder = only_run(args.run)
        run = read_run(folder, trust_targets=args.trust_targets)
        images, picked = images_to_see(run, args.images)
        changes = compare(run, images, picked)
        sys.stdout.write(to_markdown(changes) + "\n")
        for path in report(run, changes, args.out or folder / "bn_tuning"):
            sys.stdout.write(f"wrote {path}\n")
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{printable(str(error))}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
