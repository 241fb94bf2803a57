"""``factor_regression``: how well the factors of a scene can be read from frozen features."""

import dataclasses
import functools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from ssl_transfer.config.ranges import Count, NotEmpty, Positive, Range, checked
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.base import fingerprint
from ssl_transfer.datasets.reader import some
from ssl_transfer.datasets.splitting import cross_validation_folds
from ssl_transfer.estimators.kernel_ridge import KernelRidge, bytes_needed, held_out_r2
from ssl_transfer.metrics.landmarks import R2_UNIT
from ssl_transfer.metrics.regression import r2
from ssl_transfer.models import Encoder
from ssl_transfer.protocols.base import Score
from ssl_transfer.protocols.frozen import FrozenProtocol
from ssl_transfer.protocols.selection import best, edge_keys
from ssl_transfer.randomness import permutation
from ssl_transfer.system import distributed
from ssl_transfer.system.memory import require_memory

log = logging.getLogger(__name__)

Targets = Float64[np.ndarray, "samples factors"]
Folds = Sequence[Int64[np.ndarray, " _"]]
"""The indices that each fold holds out."""


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class FactorRegression(FrozenProtocol):
    """Regress every factor of a scene on the features, and score the predictions by R2.

    A high R2 means that the features tell the factor, a low one that they are invariant to it: the
    "extrinsic invariance" of Ericsson et al. 2021 (https://arxiv.org/abs/2111.11398;
    ``eval_causal3dident.py`` of https://github.com/linusericsson/ssl-invariances). The estimator
    is kernel ridge regression with an RBF kernel on standardised features and without an intercept.
    For each factor, a cross-validation on train + validation chooses ``alpha`` and ``gamma`` by the
    mean R2 of the folds; of equal points the first one wins, with ``alpha`` in the outer loop, as
    published. The model is then fitted on all of these samples and tested once. Samples and folds
    depend on ``dataset.split_seed`` only, so that all encoders are compared on the same ones.

    Args:
        alphas: penalties, each once.
        gammas: parameters of the kernel ``exp(-gamma |x - y|^2)``, each once.
        folds: number of folds, at least 2.
        max_train: largest number of samples to fit on, drawn from train + validation. The fit needs
            three square matrices of that size in float64 (10 GiB for 20,480).
        max_test: largest number of test samples, drawn likewise.
        circular: how a factor with a period is regressed: ``sine_cosine`` as two numbers, whose
            common R2 is that of the factor; ``angle``, as published, as a plain number, so that
            both ends of the circle count as far apart.
        image_size: see ``FrozenProtocol``.
        preprocessing: see ``FrozenProtocol``.

    Raises:
        ValueError: if a value is out of its range.
    """

    targets: ClassVar[frozenset[str]] = frozenset({"values"})
    splits: ClassVar[tuple[str, ...]] = ("train", "test")

    alphas: Annotated[Sequence[Positive], NotEmpty()] = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
    gammas: Annotated[Sequence[Positive], NotEmpty()] = (
        1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2,
    )  # fmt: skip
    folds: Annotated[int, Range(2, cap=10**4)] = 5
    max_train: Count = 20_480
    max_test: Count = 40_960
    circular: Literal["sine_cosine", "angle"] = "sine_cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("alphas", "gammas"):
            values = list(getattr(self, key))
            if len(set(values)) < len(values):
                raise ValueError(f"`{key}` must list each value once, but is {values}.")

    def check(self, dataset: Dataset) -> None:
        """Refuse a dataset whose factors cannot be regressed.

        Raises:
            ValueError: if there are too few images, or a factor is constant where it is scored.
        """
        data = self._drawn(dataset)
        count = len(data["train"]) + len(data["val"])
        outputs = len(self._outputs(dataset).factors)
        for images, where in ((count, "train + validation"), (len(data["test"]), "test")):
            least = 2 * self.folds if where != "test" else 2
            if images < least:
                raise ValueError(
                    f"`factor_regression` needs {least} images at least in {where}"
                    f"{f' for {self.folds} folds' if where != 'test' else ''}, but "
                    f"`{dataset.name}` has {images}; add images"
                    f"{', or lower `protocol.folds`' if where != 'test' else ''}."
                )
        if outputs > count:
            raise ValueError(
                f"`factor_regression` must have as many images in train + validation as numbers to "
                f"regress, but `{dataset.name}` has {count} images and {outputs} numbers; add "
                "images."
            )
        _refuse_constant(dataset, data, self._held(dataset, count))

    def run(self, encoder: Encoder, dataset: Dataset, context: Context) -> Iterator[Score]:
        """Yield the R2 of each factor on the test split, and their mean."""
        self.check(dataset)
        data, outputs = self._drawn(dataset), self._outputs(dataset)
        # float64 does not exist on other accelerators.
        device = context.device if context.device.type == "cuda" else torch.device("cpu")
        fitted_splits = [key for key in ("train", "val") if len(data[key])]
        fitted = sum(len(data[key]) for key in fitted_splits)
        require_memory(
            bytes_needed(fitted, encoder.feature_dim, len(data["test"])),
            device,
            f"the kernel of `factor_regression` on `{dataset.name}`",
            "lower `protocol.max_train`",
        )
        features = self.features(encoder, data, context)
        rows, test = (
            torch.from_numpy(np.concatenate([features.rows(key) for key in keys])).to(device)
            for keys in (fitted_splits, ["test"])
        )
        expected = outputs.of(np.concatenate([data[key].targets for key in fitted_splits]))
        search = _Search(self, rows, expected.to(device), outputs.factors.to(device), context)
        # One process computes, since rounding could make processes choose different points.
        chosen = search.chosen(self._held(dataset, len(rows)), dataset.classes)
        predicted = distributed.broadcast_object(
            search.predictions(test, chosen) if distributed.is_main() else None
        )
        assert predicted is not None
        test_targets = data["test"].targets
        context.save_arrays(
            "factor_predictions",
            files=np.asarray(data["test"].names, dtype=np.str_),
            factors=np.asarray(dataset.classes, dtype=np.str_),
            targets=test_targets,
            outputs=np.asarray(outputs.names, dtype=np.str_),
            predictions=predicted,
        )
        scores = r2(torch.from_numpy(predicted), outputs.of(test_targets), outputs.factors)
        yield Score(metric="r2", value=float(scores.mean()), unit=R2_UNIT, primary=True)
        for name, score in zip(dataset.classes, scores.tolist(), strict=True):
            yield Score(metric=f"r2_{name}", value=score, unit=R2_UNIT)

    def points(self) -> list[dict[str, float]]:
        """Return the points of the grid in their published order."""
        return [{"alpha": a, "gamma": g} for a in self.alphas for g in self.gammas]

    def _drawn(self, dataset: Dataset) -> Dataset:
        """Return the dataset with the samples that are used, so that no others are encoded."""
        first = len(dataset["train"])
        fitted = _draw(dataset, "train", first + len(dataset["val"]), self.max_train)
        tested = _draw(dataset, "test", len(dataset["test"]), self.max_test)
        if fitted is None and tested is None:
            return dataset
        splits = dict(dataset.splits)
        if fitted is not None:
            splits["train"] = dataset["train"].subset(fitted[fitted < first])
            splits["val"] = dataset["val"].subset(fitted[fitted >= first] - first)
        if tested is not None:
            splits["test"] = dataset["test"].subset(tested)
        content = fingerprint(dataset.classes, splits, dataset.fingerprint)
        return dataclasses.replace(dataset, splits=splits, fingerprint=content)

    def _held(self, dataset: Dataset, count: int) -> Folds:
        return cross_validation_folds(count, self.folds, dataset.split_seed)

    def _outputs(self, dataset: Dataset) -> "Outputs":
        periods = dataset.periods if self.circular == "sine_cosine" else {}
        return Outputs.of_factors(dataset.classes, periods)


@dataclasses.dataclass(frozen=True, eq=False)
class Outputs:
    """The numbers that are regressed: a factor, or sine and cosine of one with a period.

    Args:
        names: name of each number.
        factors: position of each number's factor, ascending.
        periods: period of each factor (``None``: no period).
    """

    names: tuple[str, ...]
    factors: Int64[Tensor, " outputs"]
    periods: tuple[float | None, ...]

    @classmethod
    def of_factors(cls, factors: Sequence[str], periods: Mapping[str, float]) -> "Outputs":
        """Return the numbers of these factors.

        Args:
            factors: their names.
            periods: name -> period, of those that become sine and cosine.
        """
        names = [
            (f"{name}_sine", f"{name}_cosine") if name in periods else (name,) for name in factors
        ]
        return cls(
            tuple(name for pair in names for name in pair),
            torch.tensor([position for position, pair in enumerate(names) for _ in pair]),
            tuple(periods.get(name) for name in factors),
        )

    def of(self, targets: Targets) -> Float64[Tensor, "samples outputs"]:
        """Return the numbers of samples with these factors."""
        columns = []
        for column, period in zip(targets.T, self.periods, strict=True):
            angle = None if period is None else column * (2 * math.pi / period)
            columns += [column] if angle is None else [np.sin(angle), np.cos(angle)]
        return torch.from_numpy(np.stack(columns, axis=1))


class _Search:
    """The cross-validation of all factors at once, and the final predictions.

    Args:
        protocol: the grid.
        rows: features to fit on.
        targets: numbers to regress.
        factors: position of each number's factor.
        context: the run's context.
    """

    def __init__(
        self,
        protocol: FactorRegression,
        rows: Tensor,
        targets: Tensor,
        factors: Tensor,
        context: Context,
    ) -> None:
        self.protocol, self.context = protocol, context
        self.rows, self.targets, self.factors = rows, targets, factors

    def chosen(self, folds: Folds, names: Sequence[str]) -> list[dict[str, float]]:
        """Return each factor's best point, and note the scores of all points in the record."""
        by_fold = [
            self.context.once(f"fold {number}", functools.partial(self._fold, number, held))
            for number, held in enumerate(folds, start=1)
        ]
        means = np.array(by_fold, dtype=np.float64).mean(axis=0)  # points, factors
        points, winners, selection, at_edge = self.protocol.points(), [], {}, {}
        for name, column in zip(names, means.T, strict=True):
            scores = [None if math.isnan(score) else float(score) for score in column]
            winner = best(points, scores, remedy="raise the values of `protocol.alphas`")
            winners.append(points[winner])
            selection[name] = {"chosen": points[winner], "value": scores[winner], "scores": scores}
            if keys := edge_keys(points, scores):
                at_edge[name] = keys
        self.context.note(
            selection={"folds": len(folds), "points": points, "factors": selection},
            fitted_samples=len(self.rows),
            at_edge=at_edge,
        )
        if at_edge and distributed.is_main():
            log.warning(
                "the best point lies at an end of the grid for %s; a better one may lie beyond",
                "; ".join(f"`{name}` ({', '.join(keys)})" for name, keys in at_edge.items()),
            )
        return winners

    def _fold(
        self, number: int, held: Int64[np.ndarray, " held"]
    ) -> list[list[float | None]] | None:
        """Return the R2 of a fold as plain JSON: for each point of the grid, that of each factor.

        The processes that do not compute return None.
        """
        if not distributed.is_main():
            return None
        protocol = self.protocol
        by_gamma = held_out_r2(
            self.rows,
            self.targets,
            held,
            alphas=protocol.alphas,
            gammas=protocol.gammas,
            values=self.factors,
        )
        label = f"fold {number} of {protocol.folds}"
        scores = torch.stack(
            list(self.context.progress(by_gamma, total=len(protocol.gammas), label=label))
        )
        by_point = scores.transpose(0, 1).flatten(0, 1)  # alphas outside, gammas inside
        return [[x if math.isfinite(x) else None for x in point] for point in by_point.tolist()]

    def predictions(
        self, test: Tensor, chosen: Sequence[dict[str, float]]
    ) -> Float64[np.ndarray, "test outputs"]:
        """Return the predictions of the models that are fitted on all samples.

        Args:
            test: features of the test samples.
            chosen: each factor's point of the grid.
        """
        model = KernelRidge(self.rows, self.targets)
        predicted = torch.empty(len(test), self.targets.shape[1], dtype=torch.float64)
        gammas = sorted({point["gamma"] for point in chosen})
        for gamma in self.context.progress(gammas, total=len(gammas), label="test"):
            # Factors with the same gamma share the kernel, those with the same alpha its factor.
            alphas = sorted({point["alpha"] for point in chosen if point["gamma"] == gamma})
            of_alphas = model.predict(test, gamma, model.coefficients(gamma, alphas)).cpu()
            for output, factor in enumerate(self.factors.tolist()):
                if chosen[factor]["gamma"] == gamma:
                    of_output = of_alphas[alphas.index(chosen[factor]["alpha"])]
                    predicted[:, output] = of_output[:, output]
        return predicted.numpy()


def _draw(
    dataset: Dataset, purpose: str, count: int, limit: int
) -> Int64[np.ndarray, " drawn"] | None:
    """Return the ascending indices of ``limit`` samples; None if all are used."""
    if count <= limit:
        return None
    order = permutation(dataset.split_seed, f"{purpose} samples of factor regression", 0, count)
    return np.sort(order[:limit])


def _refuse_constant(dataset: Dataset, data: Dataset, folds: Folds) -> None:
    """Refuse factors that are constant in the test split or in a fold: R2 is not defined there."""
    pool = np.concatenate([data["train"].targets, data["val"].targets])
    scored = {"the test split": data["test"].targets}
    scored |= {f"fold {n} of train + validation": pool[held] for n, held in enumerate(folds, 1)}
    for where, targets in scored.items():
        constant = np.flatnonzero(np.ptp(targets, axis=0) == 0).tolist()
        if constant:
            raise ValueError(
                f"every factor of `{dataset.name}` must vary where it is scored, but "
                f"{some([dataset.classes[i] for i in constant])} "
                f"{'is' if len(constant) == 1 else 'are'} constant in {where}; add images, or "
                "leave the factor out of the dataset."
            )
