"""``logistic_regression``: the linear evaluation of Ericsson et al. 2021 on frozen features."""

import dataclasses
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, ClassVar, Literal, TypeVar

import numpy as np
import sklearn.linear_model
import torch
from jaxtyping import Float, Int, Int64
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from ssl_transfer import metrics
from ssl_transfer.config.ranges import Count, Positive, ProperFraction, Range, checked
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.splitting import cross_validation_folds
from ssl_transfer.estimators.softmax_regression import Solution, fit_path, principal_axes
from ssl_transfer.metrics.calibration import require_folds
from ssl_transfer.models import Encoder
from ssl_transfer.models.heads import Head, linear_head, save_head
from ssl_transfer.protocols.base import ClassScores, Score
from ssl_transfer.protocols.classification import Calibration, require_metrics, scores_on_test
from ssl_transfer.protocols.frozen import FrozenProtocol
from ssl_transfer.protocols.grid import Logarithm, check_logarithms
from ssl_transfer.protocols.selection import best, selection_facts
from ssl_transfer.system import distributed

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Features = Float[Tensor, "_ dim"]
Logits = Float[Tensor, "_ classes"]
Labels = Int64[Tensor, " _"] | Int64[Tensor, "_ classes"]
Samples = tuple[Features, Labels]

PUBLISHED_MAX_ITER = 100  # scikit-learn's default
PUBLISHED_TOL = 1e-4  # likewise, then a bound on the gradient of the summed loss


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class LogisticRegression(FrozenProtocol):
    """Choose C on the validation split or by folds, refit on train + validation, test once.

    The classifier is multinomial logistic regression with an L2 penalty, a free intercept and
    unscaled features (Ericsson et al. 2021, App. A.1, https://arxiv.org/abs/2011.13377). With
    several classes per image there is one binary problem per class, without the images that are
    ignored for this class, and one C for all problems. A binary problem has two weight vectors, as
    in the published code, so that C is half of scikit-learn's C for a binary problem. If several
    values are equally good, the largest C wins, as published.

    Args:
        wd_values: number of weight decays, ``C = 1 / wd``; at least 1.
        wd_log10: decimal logarithms of the smallest and the largest, within ``[-300, 300]``.
        C: a fixed value, e.g. a published one (null: select the value).
        selection: ``val`` selects C by the score on the validation split; ``cv`` by the mean score
            of a cross-validation on train + validation, as in Ericsson et al. 2021
            (https://arxiv.org/abs/2111.11398, ``eval_downstream.py`` of
            https://github.com/linusericsson/ssl-invariances). The folds depend on
            ``dataset.split_seed`` only.
        folds: number of folds, at least 2.
        stratified: whether every fold has its share of each class; ``False`` as published. Without
            effect if there are several classes per image.
        tol: a problem has converged when the next step is expected to lower its loss by less than
            this share, in (0, 1).
        max_iter: maximum number of iterations per problem, at least 1.
        solver: ``converged`` fits every problem to convergence. ``sklearn_2021`` fits as the
            published code: scikit-learn's L-BFGS stops after 100 iterations; each fit starts from
            the result of the previous one (also from class to class), and the refit from the
            result for the smallest C; ``tol`` and ``max_iter`` are not used.
        calibration: also measure the calibration error before and after temperature scaling:
            ``val`` fits the temperature to the validation scores of the classifier that was trained
            without that split (not with ``selection=cv``), ``test_folds`` to fifths of the test
            split, as published (null: no calibration).
        image_size: see ``FrozenProtocol``.
        preprocessing: see ``FrozenProtocol``.

    Raises:
        ValueError: if a value is out of its range.
    """

    class_scores: ClassVar[ClassScores] = "logits"

    wd_values: Annotated[int, Range(1, cap=10**4)] = 45
    wd_log10: Sequence[Logarithm] = (-6.0, 5.0)
    C: Positive | None = None
    selection: Literal["val", "cv"] = "val"
    folds: Annotated[int, Range(2, cap=10**4)] = 5
    stratified: bool = True
    tol: ProperFraction = 1e-5
    max_iter: Count = 1000
    solver: Literal["converged", "sklearn_2021"] = "converged"
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_logarithms("wd_log10", self.wd_log10, "weight decay")
        if self.selection == "cv" and self.calibration == "val":
            raise ValueError(
                "`calibration` must be `test_folds` or null with `selection=cv`, which holds no "
                "validation split out of the classifier, but is `val`; or use `selection=val`."
            )

    def check(self, dataset: Dataset) -> None:
        """Refuse a dataset that cannot be scored by its metrics.

        Raises:
            ValueError: if a metric does not fit.
        """
        by_val = self.C is None and self.selection == "val"
        require_metrics(dataset, selects_on="val" if by_val else None)
        if self.C is None and self.selection == "cv":
            self._check_folds(dataset)
        if self.calibration == "test_folds" and dataset.target == "class":
            require_folds(len(dataset["test"]))

    def _check_folds(self, dataset: Dataset) -> None:
        """Refuse folds without images, or on which the metric that selects C is not defined."""
        labels = np.concatenate([dataset["train"].targets, dataset["val"].targets])
        if len(labels) < self.folds:
            raise ValueError(
                f"`protocol.folds` must be at most the number of images in train + validation, "
                f"which is {len(labels)} for `{dataset.name}`, but is {self.folds}; lower it."
            )
        for number, held in enumerate(self.held_out(labels, dataset.split_seed), start=1):
            try:
                where = f"fold {number} of train + validation"
                metrics.check_targets(dataset.metric, torch.from_numpy(labels[held]), where)
            except ValueError as error:
                raise ValueError(f"`{dataset.name}` cannot be scored: {error}") from error

    def held_out(
        self, labels: Int64[np.ndarray, "samples *classes"], split_seed: int
    ) -> list[Int64[np.ndarray, " _"]]:
        """Return the indices that each fold holds out.

        Args:
            labels: of train + validation.
            split_seed: seed of the folds.
        """
        by_class = self.stratified and labels.ndim == 1
        return cross_validation_folds(
            len(labels), self.folds, split_seed, labels if by_class else None
        )

    def grid(self) -> list[float]:
        """Return the values of C in ascending order of weight decay."""
        if self.C is not None:
            return [float(self.C)]
        low, high = self.wd_log10
        return [float(1 / wd) for wd in np.logspace(low, high, self.wd_values)]

    def run(self, encoder: Encoder, dataset: Dataset, context: Context) -> Iterator[Score]:
        """Yield the test scores of the selected classifier."""
        self.check(dataset)
        features = self.features(encoder, dataset, context)
        train, val, test = (features.load(split) for split in ("train", "val", "test"))
        search = Search(self, train, val, dataset, context)
        # One process selects C, since rounding could make processes select different values.
        result: SearchResult | None = None
        if distributed.is_main():
            result = (search.batched if self.solver == "converged" else search.one_by_one)(test[0])
        result = distributed.broadcast_object(result)
        assert result is not None
        points = [{"C": C} for C in self.grid()]
        context.note(selection=selection_facts(self.selection, points, result.scores, result.best))
        if distributed.is_main():
            classes, target = dataset.classes, dataset.target
            save_head(Head(result.head, "linear", classes, target), context.folder)
        yield from scores_on_test(
            result.test_logits,
            dataset,
            context,
            calibration=self.calibration,
            val_logits=result.val_logits,
        )


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    Args:
        scores: validation score of every C, or its mean over the folds (empty if C is given),
            larger is better (``None``: some class scores are not finite).
        best: index of the best C.
        test_logits: test scores of the classifier refitted on train + validation.
        head: that classifier.
        val_logits: validation scores of the best classifier, which was not trained on them.
    """

    scores: list[float | None]
    best: int
    test_logits: Logits
    head: nn.Linear
    val_logits: Logits | None


class Search:
    """The two algorithms for the grid.

    Args:
        protocol: the grid, and what selects a point of it.
        train: features and labels of the training split.
        val: likewise, of the validation split.
        dataset: its classes, its metric and the seed of the folds.
        context: shows a progress bar (``None``: no bar).
    """

    def __init__(
        self,
        protocol: LogisticRegression,
        train: Samples,
        val: Samples,
        dataset: Dataset,
        context: Context | None = None,
    ) -> None:
        self.context = context
        self.protocol, self.train, self.val = protocol, train, val
        self.dataset, self.classes, self.metric = dataset, len(dataset.classes), dataset.metric
        self.both = torch.cat([train[0], val[0]]), torch.cat([train[1], val[1]])

    def parts(self) -> Iterator[tuple[Samples, Samples]]:
        """Yield the samples to fit on and to judge on: train and validation, or those of a fold."""
        if self.protocol.selection == "val":
            yield self.train, self.val
            return
        features, labels = self.both
        for held in self.protocol.held_out(labels.cpu().numpy(), self.dataset.split_seed):
            mask = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
            mask[torch.from_numpy(held)] = True
            yield (features[~mask], labels[~mask]), (features[mask], labels[mask])

    def batched(self, test: Features) -> SearchResult:
        """Fit the whole grid at once, each problem to convergence."""
        grid, fixed = self.protocol.grid(), self.protocol.C is not None
        basis = self._basis()
        scores: list[float | None] = []
        chosen, val_logits, start = 0, None, None
        if not fixed or self.protocol.calibration == "val":
            by_part: list[list[float | None]] = []
            count = self.protocol.folds if self.protocol.selection == "cv" else 1
            for fitted, judged in self._shown(self.parts(), count, "fits"):
                path = self._fit_path(fitted, grid, basis)
                if not fixed:
                    each = (path.logits(problem, judged[0]) for problem in range(len(grid)))
                    by_part.append([self._goodness(logits, judged[1]) for logits in each])
            if not fixed:
                scores = [_mean(of_point) for of_point in zip(*by_part, strict=True)]
                chosen = self._best(scores)
            if self.protocol.selection == "val":
                val_logits = path.logits(chosen, self.val[0]).cpu()
            start = path[chosen:]
        final = self._fit_path(self.both, grid[chosen : chosen + 1], basis, start)
        if not bool(final.converged.all()):
            log.warning(
                "the fit at C = %.3g stopped after %d iterations before it converged; raise "
                "`protocol.max_iter` or `protocol.tol`", grid[chosen], int(final.iterations[0])
            )  # fmt: skip
        head = linear_head(final.weights[0], final.intercepts[0]).cpu()
        return SearchResult(scores, chosen, final.logits(0, test).cpu(), head, val_logits)

    def _basis(self) -> Float[Tensor, "dim axes"]:
        """Return the basis of all fits: most are to the training split, if it spans the space."""
        train = self.train[0]
        return principal_axes(train if len(train) >= train.shape[1] else self.both[0])

    def _fit_path(
        self,
        samples: Samples,
        grid: list[float],
        basis: Float[Tensor, "dim axes"],
        start: Solution | None = None,
    ) -> Solution:
        # C is defined for two weight vectors per problem; the penalty of one vector is half as
        # large.
        factor = 2 if samples[1].ndim == 2 else 1
        return fit_path(
            *samples,
            C=[factor * C for C in grid],
            classes=self.classes,
            tol=self.protocol.tol,
            max_iter=self.protocol.max_iter,
            basis=basis,
            start=start,
        )

    def one_by_one(self, test: Features) -> SearchResult:
        """Fit one C after the other as the published code does; a given C starts from nothing."""
        model, grid = self._estimator(), self.protocol.grid()
        if self.protocol.C is not None:
            val_logits = None
            if self.protocol.calibration == "val":
                val_logits, _ = self._fitted(self._estimator(), grid[0], self.train, self.val[0])
            logits, head = self._fitted(model, grid[0], self.both, test)
            return SearchResult([], 0, logits, head, val_logits)
        scores: list[float | None] = []
        val_logits = None
        for C in self._shown(grid, len(grid), "values of C"):
            by_part: list[float | None] = []
            for fitted, judged in self.parts():
                logits, _ = self._fitted(model, C, fitted, judged[0])
                by_part.append(self._goodness(logits, judged[1]))
            score = _mean(by_part)
            is_best = score is not None and all(s is None or s < score for s in scores)
            if is_best and self.protocol.selection == "val":
                val_logits = logits
            scores.append(score)
        chosen = self._best(scores)
        logits, head = self._fitted(model, grid[chosen], self.both, test)
        return SearchResult(scores, chosen, logits, head, val_logits)

    def _shown(self, items: Iterable[Item], total: int, label: str) -> Iterable[Item]:
        """Return the items, with a progress bar."""
        if self.context is None:
            return items
        return self.context.progress(items, total=total, label=label)

    def _goodness(self, logits: Logits, labels: Labels) -> float | None:
        if bool(logits.isnan().any()):
            return None
        return metrics.goodness(self.metric, logits, labels)

    def _best(self, scores: list[float | None]) -> int:
        points = [{"C": C} for C in self.protocol.grid()]
        return best(points, scores, remedy="choose a smaller C (`protocol.wd_log10`)")

    def _estimator(self) -> sklearn.linear_model.LogisticRegression:
        return sklearn.linear_model.LogisticRegression(
            solver="lbfgs", warm_start=True, max_iter=PUBLISHED_MAX_ITER
        )

    def _fitted(
        self,
        model: sklearn.linear_model.LogisticRegression,
        C: float,
        samples: Samples,
        queries: Features,
    ) -> tuple[Logits, nn.Linear]:
        """Fit ``model``, starting from its current weights; return logits and the classifier.

        Newer versions of scikit-learn divide the loss by the number of samples, and therefore also
        the gradient that ``tol`` bounds; dividing ``tol`` here restores the bound of 2021.
        """
        features, labels, test_features = (tensor.cpu().numpy() for tensor in (*samples, queries))
        logits = torch.full((len(test_features), self.classes), -torch.inf, dtype=torch.float64)
        # A class without a sample keeps these values and is never predicted.
        weight = torch.zeros(self.classes, features.shape[1], dtype=torch.float64)
        bias = torch.full((self.classes,), -torch.inf, dtype=torch.float64)
        if labels.ndim == 1:
            _fit(model, C, features, labels)
            scores, coefficients, intercepts = (
                torch.from_numpy(values).double()
                for values in (
                    model.decision_function(test_features),
                    model.coef_,
                    model.intercept_,
                )
            )
            if scores.ndim == 1:  # two classes: the log odds of the second
                scores = torch.stack([-scores, scores], dim=1) / 2
                coefficients = torch.cat([-coefficients, coefficients]) / 2
                intercepts = torch.cat([-intercepts, intercepts]) / 2
            classes = torch.from_numpy(model.classes_)
            logits[:, classes], weight[classes], bias[classes] = scores, coefficients, intercepts
            return logits, linear_head(weight, bias)
        for number, column in enumerate(labels.T):
            counted = column >= 0
            kinds = np.unique(column[counted])
            if len(kinds) == 2:
                _fit(model, C, features[counted], column[counted])
                logits[:, number] = torch.from_numpy(model.decision_function(test_features))
                weight[number] = torch.from_numpy(model.coef_[0])
                bias[number] = float(model.intercept_[0])
            elif 1 in kinds:  # all labels are equal: nothing to learn
                logits[:, number] = bias[number] = torch.inf
        return logits, linear_head(weight, bias)


def _mean(scores: Sequence[float | None]) -> float | None:
    """Return the mean; None if a score is missing."""
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if len(known) == len(scores) else None


def _fit(
    model: sklearn.linear_model.LogisticRegression,
    C: float,
    features: Float[np.ndarray, "samples dim"],
    labels: Int[np.ndarray, " samples"],
) -> None:
    model.tol = PUBLISHED_TOL / len(labels)
    # For two classes, scikit-learn has one weight vector today and had two in 2021.
    model.C = 2 * C if len(np.unique(labels)) == 2 else C
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, labels)
