"""``logistic_regression``: the linear evaluation of Ericsson et al. 2021 on frozen features."""

import dataclasses
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import sklearn.linear_model
import torch
from jaxtyping import Float, Int64
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from ssl_transfer import distributed, metrics
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.features import FrozenFeatures
from ssl_transfer.models import Encoder
from ssl_transfer.protocols.base import Score
from ssl_transfer.protocols.classification import scores_on_test
from ssl_transfer.softmax_regression import fit_path

log = logging.getLogger(__name__)

Samples = tuple[Float[Tensor, "_ dim"], Int64[Tensor, " _"]]

PUBLISHED_MAX_ITER = 100  # scikit-learn's default
PUBLISHED_TOL = 1e-4  # likewise, then a bound on the gradient of the summed loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogisticRegression:
    """Choose C on the validation split, refit on train + validation, test once.

    Multinomial, L2 penalty, free intercept, features as they come (Ericsson et al. 2021, App. A.1,
    https://arxiv.org/abs/2011.13377). Of equally good values the one with the largest C wins, as
    published.

    Args:
        wd_values: number of weight decays, ``C = 1 / wd``.
        wd_log10: decimal logarithms of the smallest and the largest.
        tol: share of its loss that a converged problem may still lose in the next step.
        max_iter: iterations per problem.
        published: fit as the published code: scikit-learn's L-BFGS stops after 100 iterations,
            each fit starts from the previous one's end, and the refit from the smallest C's.
            ``tol`` and ``max_iter`` are not used.
        image_size: in pixels (null: what the encoder's weights expect).
    """

    targets: ClassVar[frozenset[str]] = frozenset({"class"})
    needs: ClassVar[str] = "features"

    wd_values: int = 45
    wd_log10: Sequence[float] = (-6.0, 5.0)
    tol: float = 1e-5
    max_iter: int = 1000
    published: bool = False
    image_size: int | None = None

    def grid(self) -> list[float]:
        """Return the values of C in ascending order of weight decay."""
        if self.wd_values < 1:
            raise ValueError(f"`protocol.wd_values` must be at least 1, but is {self.wd_values}.")
        low, high = self.wd_log10
        return [float(1 / wd) for wd in np.logspace(low, high, self.wd_values)]

    def run(self, encoder: Encoder, dataset: Dataset, context: Context) -> Iterator[Score]:
        """Yield the test scores of the selected classifier."""
        features = FrozenFeatures(encoder, dataset, context, image_size=self.image_size)
        train, val, test = (features.load(split) for split in ("train", "val", "test"))
        search = Search(self, train, val, dataset)
        # One process decides, so that rounding cannot make two of them choose differently.
        found: Found | None = None
        if distributed.is_main():
            found = (search.published if self.published else search.batched)(test[0])
        found = distributed.broadcast_object(found)
        assert found is not None
        scores, best, logits = found
        grid = self.grid()
        context.note(
            selection={
                "split": "val",
                "chosen": {"C": grid[best]},
                "scores": [{"C": C, "value": s} for C, s in zip(grid, scores, strict=True)],
            }
        )
        yield from scores_on_test(logits, dataset, context)


Found = tuple[list[float], int, Float[Tensor, "samples classes"]]
"""Validation score of every C, index of the best, and the refitted classifier's test logits."""


class Search:
    """The two ways to go through the grid."""

    def __init__(
        self, protocol: LogisticRegression, train: Samples, val: Samples, dataset: Dataset
    ) -> None:
        self.protocol, self.train, self.val = protocol, train, val
        self.classes = len(dataset.classes)
        self.metric = metrics.CLASSIFICATION[dataset.metric]
        self.both = torch.cat([train[0], val[0]]), torch.cat([train[1], val[1]])

    def batched(self, test: Float[Tensor, "samples dim"]) -> Found:
        """Fit the whole grid at once, every problem to its optimum."""
        grid = self.protocol.grid()
        tol, max_iter = self.protocol.tol, self.protocol.max_iter
        path = fit_path(*self.train, C=grid, classes=self.classes, tol=tol, max_iter=max_iter)
        scores = [
            self.metric(path.logits(problem, self.val[0]), self.val[1])
            for problem in range(len(grid))
        ]
        best = int(np.argmax(scores))
        final = fit_path(
            *self.both,
            C=grid[best : best + 1],
            classes=self.classes,
            tol=tol,
            max_iter=max_iter,
            start=path[best : best + 1],
        )
        if not bool(final.converged.all()):
            log.warning(
                "the fit at C = %.3g stopped after %d iterations before it converged; raise "
                "`protocol.max_iter` or `protocol.tol`", grid[best], int(final.iterations[0])
            )  # fmt: skip
        return scores, best, final.logits(0, test).cpu()

    def published(self, test: Float[Tensor, "samples dim"]) -> Found:
        """Fit one C after the other as the published code does.

        scikit-learn has since come to divide the loss by the number of samples, and with it the
        gradient that ``tol`` bounds; the division here restores the bound of 2021.
        """
        model = sklearn.linear_model.LogisticRegression(
            solver="lbfgs",
            warm_start=True,
            max_iter=PUBLISHED_MAX_ITER,
        )
        scores = []
        for C in self.protocol.grid():
            self._fit(model, C, self.train)
            scores.append(self.metric(self._logits(model, self.val[0]), self.val[1]))
        best = int(np.argmax(scores))
        self._fit(model, self.protocol.grid()[best], self.both)
        return scores, best, self._logits(model, test)

    def _fit(
        self, model: sklearn.linear_model.LogisticRegression, C: float, samples: Samples
    ) -> None:
        features, labels = (tensor.cpu().numpy() for tensor in samples)
        model.tol = PUBLISHED_TOL / len(labels)
        # For two classes today's scikit-learn has one weight vector, then it had two.
        model.C = 2 * C if len(np.unique(labels)) == 2 else C
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(features, labels)

    def _logits(
        self, model: sklearn.linear_model.LogisticRegression, features: Tensor
    ) -> Float[Tensor, "samples classes"]:
        found = torch.from_numpy(model.decision_function(features.cpu().numpy()))
        if found.ndim == 1:  # two classes: the second's score
            found = torch.stack([-found, found], dim=1)
        logits = found.new_full((len(found), self.classes), -torch.inf)
        logits[:, torch.from_numpy(model.classes_)] = found
        return logits
