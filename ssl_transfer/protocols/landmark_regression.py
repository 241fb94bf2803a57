"""``landmark_regression``: ridge regression of landmarks from frozen features."""

import dataclasses
import functools
import logging
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from ssl_transfer.config.ranges import NotEmpty, Positive, Range, checked
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.geometry import outside, to_view
from ssl_transfer.datasets.reader import some
from ssl_transfer.datasets.splitting import cross_validation_folds
from ssl_transfer.estimators import ridge
from ssl_transfer.metrics import landmarks as measures
from ssl_transfer.models import Encoder
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols.base import Score
from ssl_transfer.protocols.frozen import FrozenProtocol
from ssl_transfer.protocols.grid import Logarithm, check_logarithms
from ssl_transfer.protocols.selection import best, selection_facts
from ssl_transfer.system import distributed

log = logging.getLogger(__name__)

Places = Float64[np.ndarray, "images twice_landmarks"]


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class LandmarkRegression(FrozenProtocol):
    """Choose the penalty by cross-validation on train + validation, refit, test once.

    Ericsson et al. 2021, section on regression tasks (https://arxiv.org/abs/2111.11398;
    eval_downstream.py of https://github.com/linusericsson/ssl-invariances). Landmarks are regressed
    in pixels of the encoder's input, through the same resize and crop as the image. Those outside
    of the input are kept as targets. The folds depend on the dataset's ``split_seed`` only, so that
    all encoders are compared on the same ones; the published folds are not seeded. Of equally good
    penalties the largest wins, as published.

    Args:
        alpha_values: number of penalties, at least 1.
        alpha_log10: decimal logarithms of the smallest and the largest penalty, within
            ``[-300, 300]``.
        alpha: a fixed penalty (null: select it by cross-validation).
        folds: number of folds, at least 2.
        standardise: whether to divide each feature by its standard deviation over train +
            validation. It gives features of different scale the same penalty, for instance those of
            fused encoders.
        truncate_targets: whether to truncate the coordinates to integers, as published for CelebA.
        normaliser: length that divides the errors of ``nme`` and ``pck``: the distance between two
            landmarks by their names, or ``box``, the geometric mean of the sides of the box around
            all known landmarks (null: the dataset's own two landmarks; ``box`` if it names none).
        pck_thresholds: largest errors, divided by this length, that count as correct.
        image_size: see ``FrozenProtocol``.
        preprocessing: see ``FrozenProtocol``.

    Raises:
        ValueError: if a value is out of its range.
    """

    targets: ClassVar[frozenset[str]] = frozenset({"landmarks"})
    splits: ClassVar[tuple[str, ...]] = ("train", "test")

    alpha_values: Annotated[int, Range(1, cap=10**4)] = 45
    alpha_log10: Sequence[Logarithm] = (-5.0, 6.0)
    alpha: Positive | None = None
    folds: Annotated[int, Range(2, cap=1000)] = 5
    standardise: bool = False
    truncate_targets: bool = False
    normaliser: Literal["box"] | tuple[str, str] | None = None
    pck_thresholds: Annotated[Sequence[Positive], NotEmpty()] = (0.1, 0.2)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_logarithms("alpha_log10", self.alpha_log10, "penalty")

    def grid(self) -> list[float]:
        """Return the penalties from the largest to the smallest."""
        if self.alpha is not None:
            return [float(self.alpha)]
        low, high = self.alpha_log10
        return [float(alpha) for alpha in np.logspace(high, low, self.alpha_values)]

    def check(self, dataset: Dataset) -> None:
        """Refuse a dataset whose landmarks cannot be regressed or scored.

        Raises:
            ValueError: if landmarks are unknown, constant or without image sizes, if there are
                fewer images than folds, or if the normaliser is unknown.
        """
        for key in (*_trained_on(dataset), "test"):
            if dataset[key].sizes is None:
                raise ValueError(
                    f"landmarks need the sizes of their images, but the {key} split of "
                    f"`{dataset.name}` has none; let its reader give `sizes`."
                )
        trained, tested = _places(dataset, *_trained_on(dataset)), _places(dataset, "test")
        for places, words in ((trained, "training"), (tested, "test")):
            if not bool(measures.varying(torch.from_numpy(places)).any()):
                raise ValueError(
                    f"a landmark of `{dataset.name}` must have two different places in the {words} "
                    "images, but all are unknown or constant; correct the annotations."
                )
        if self.alpha is None and len(trained) < self.folds:
            raise ValueError(
                f"`folds` must be at most the number of training and validation images, "
                f"{len(trained)}, but is {self.folds}; lower it."
            )
        self._length(dataset, torch.from_numpy(tested))

    def _pair(self, dataset: Dataset) -> tuple[str, str] | None:
        """Return the two landmarks whose distance normalises errors; None for the box."""
        pair = dataset.facts.get("normaliser") if self.normaliser is None else self.normaliser
        if pair is None or pair == "box":
            return None
        assert isinstance(pair, list | tuple)
        unknown = [name for name in pair if name not in dataset.classes]
        if unknown:
            raise ValueError(
                f"`normaliser` must be `box` or two of the landmarks {list(dataset.classes)} of "
                f"`{dataset.name}`, but has {some(unknown)}."
            )
        return pair[0], pair[1]

    def _length(
        self, dataset: Dataset, places: Float[Tensor, "images twice_landmarks"]
    ) -> Float[Tensor, " images"]:
        """Return the length that normalises the errors of each image."""
        pair = self._pair(dataset)
        if pair is None:
            length = measures.box_side(places)
        else:
            first, second = (dataset.classes.index(name) for name in pair)
            length = measures.distance_between(places, first, second)
        if not bool((length > 0).any()):
            raise ValueError(
                f"the normaliser of errors, {_unit(pair)}, must be known and positive for a test "
                f"image of `{dataset.name}`, but is not; set another `normaliser`."
            )
        return length

    def run(self, encoder: Encoder, dataset: Dataset, context: Context) -> Iterator[Score]:
        """Yield the scores of the landmarks that are predicted on the test split."""
        self.check(dataset)
        preprocessing = encoder.preprocessing.replaced(self.image_size, self.preprocessing)
        keys = _trained_on(dataset)
        trained = torch.from_numpy(self._in_view(dataset, keys, preprocessing))
        tested = torch.from_numpy(self._in_view(dataset, ("test",), preprocessing))
        _warn_of_unseen(dataset, (*keys, "test"), preprocessing)
        learnt = ~trained.isnan().all(0)
        features = self.features(encoder, dataset, context)
        rows = {key: features.rows(key) for key in (*keys, "test")}

        def matrix(*keys: str) -> Float[Tensor, "_ dim"]:
            return torch.from_numpy(np.concatenate([rows[key] for key in keys])).to(context.dtype)

        # One process selects the penalty, since rounding could make processes select others.
        search: Search | None = None
        if distributed.is_main():
            known = trained[:, learnt]
            search = self._search(matrix(*keys), matrix("test"), known, dataset, context)
        search = distributed.broadcast_object(search)
        assert search is not None
        points = [{"alpha": alpha} for alpha in self.grid()]
        split = f"{self.folds} folds of {' + '.join(keys)}"
        context.note(selection=selection_facts(split, points, search.scores, search.best))
        predictions = torch.full_like(tested, torch.nan)
        predictions[:, learnt] = search.predictions
        yield from self._scores(predictions, tested, learnt, dataset, context)

    def _in_view(
        self, dataset: Dataset, keys: Sequence[str], preprocessing: Preprocessing
    ) -> Places:
        """Return the landmarks of some splits in pixels of the encoder's input."""
        places = to_view(_places(dataset, *keys), _sizes(dataset, *keys), preprocessing)
        return np.trunc(places) if self.truncate_targets else places

    def _search(
        self,
        trained_on: Float[Tensor, "images dim"],
        tested_on: Float[Tensor, "tested dim"],
        targets: Float[Tensor, "images outputs"],
        dataset: Dataset,
        context: Context,
    ) -> "Search":
        """Select the penalty, fit all training images with it and predict the test images."""
        # float64 does not exist on other accelerators.
        device = context.device if context.device.type == "cuda" else torch.device("cpu")
        grid = self.grid()
        trained_on, tested_on, targets = (
            rows.to(device) for rows in (trained_on, tested_on, targets)
        )
        if self.standardise:
            # A constant feature keeps its scale: ridge regression gives it no weight.
            scale = trained_on.double().std(0, correction=0)
            scale = torch.where(scale > 0, scale, 1.0).to(trained_on)
            trained_on, tested_on = trained_on / scale, tested_on / scale
        scores: list[float | None] = []
        chosen = 0
        if self.alpha is None:
            by_fold = ridge.cross_validate(
                trained_on,
                targets,
                grid,
                self._fold_numbers(dataset, len(targets)).to(device),
                measures.r2_by_output,
                functools.partial(context.progress, total=self.folds, label="cross-validation"),
            )
            # As published: the mean over outputs, then over folds.
            means = by_fold.nanmean(2).nanmean(1).tolist()
            scores = [mean if np.isfinite(mean) else None for mean in means]
            remedy = "use fewer `protocol.folds`, or give it more images with known landmarks"
            chosen = best([{"alpha": alpha} for alpha in grid], scores, remedy=remedy)
        fitted = ridge.fit(trained_on, targets, [grid[chosen]])
        return Search(scores, chosen, fitted.predict(tested_on)[0].cpu())

    def _fold_numbers(self, dataset: Dataset, count: int) -> Int64[Tensor, " images"]:
        numbers = torch.empty(count, dtype=torch.int64)
        for number, held in enumerate(
            cross_validation_folds(count, self.folds, dataset.split_seed)
        ):
            numbers[torch.from_numpy(held)] = number
        return numbers

    def _scores(
        self,
        predictions: Float[Tensor, "images outputs"],
        targets: Float[Tensor, "images outputs"],
        learnt: Tensor,
        dataset: Dataset,
        context: Context,
    ) -> Iterator[Score]:
        """Yield the scores of the test split, and save predictions and errors by image."""
        length = self._length(dataset, targets)
        scored = torch.where(learnt, targets, torch.nan)
        errors = measures.normalised_errors(predictions, scored, length)
        by_output = measures.r2_by_output(predictions, scored)
        _warn_of_unscored(dataset, learnt, by_output)
        counted = int((~errors.isnan().all(1)).sum())
        context.note(landmarks={"images_with_normaliser": counted, "images": len(targets)})
        context.save_arrays(
            "test_landmarks",
            files=np.asarray(dataset["test"].names, dtype=np.str_),
            landmarks=np.asarray(dataset.classes, dtype=np.str_),
            targets=targets.numpy(),
            predictions=predictions.numpy(),
            normaliser=length.numpy(),
            normalised_errors=errors.numpy(),
            r2_by_output=by_output.numpy(),
        )
        r2 = measures.mean_r2(predictions, scored)
        yield Score(metric="r2", value=r2, unit=measures.R2_UNIT, primary=True)
        yield Score(
            metric="nme",
            value=measures.nme(errors),
            unit=_unit(self._pair(dataset)),
            higher_is_better=False,
        )
        for threshold in self.pck_thresholds:
            yield Score(metric=f"pck@{threshold:g}", value=measures.pck(errors, threshold))
        mse = measures.mse(predictions, scored)
        yield Score(metric="mse", value=mse, unit="px²", higher_is_better=False)


@dataclasses.dataclass(frozen=True)
class Search:
    """The result of the search for a penalty.

    Args:
        scores: score of every penalty in cross-validation (empty if the penalty is given), larger
            is better (``None``: not defined).
        best: index of the best penalty.
        predictions: those of the refitted regression for the test images.
    """

    scores: list[float | None]
    best: int
    predictions: Float64[Tensor, "images outputs"]


def _trained_on(dataset: Dataset) -> tuple[str, ...]:
    """Return the splits that are fitted: train, and validation if there is one."""
    return ("train", "val") if len(dataset["val"]) else ("train",)


def _places(dataset: Dataset, *keys: str) -> Places:
    return np.concatenate([dataset[key].targets for key in keys]).astype(np.float64)


def _sizes(dataset: Dataset, *keys: str) -> Int64[np.ndarray, "images 2"]:
    sizes = [dataset[key].sizes for key in keys]
    return np.concatenate([part for part in sizes if part is not None])


def _unit(pair: tuple[str, str] | None) -> str:
    return "box side" if pair is None else f"{pair[0]}-{pair[1]}"


def _warn_of_unseen(dataset: Dataset, keys: tuple[str, ...], preprocessing: Preprocessing) -> None:
    """Warn of landmarks that the encoder does not see."""
    places = to_view(_places(dataset, *keys), _sizes(dataset, *keys), preprocessing)
    # A crop has whole pixels, so that a landmark on its edge may be a part of a pixel outside.
    unseen = outside(places, preprocessing.size, tolerance=1.0)
    if unseen.any() and distributed.is_main():
        log.warning(
            "%d of %d landmarks of `%s` lie outside of the encoder's input, in %d images; they are "
            "regressed as the others are, but cannot be seen",
            unseen.sum(), (~np.isnan(places[:, ::2])).sum(), dataset.name, unseen.any(axis=1).sum(),
        )  # fmt: skip


def _warn_of_unscored(
    dataset: Dataset, learnt: Tensor, by_output: Float[Tensor, " outputs"]
) -> None:
    """Name the landmarks that scores leave out."""
    names = [f"{name} {axis}" for name in dataset.classes for axis in "xy"]
    for numbers, reason in (
        (~learnt, "are unknown in all training images, and are left out of all scores"),
        (learnt & by_output.isnan(), "are constant or unknown in the test images, and are left out "
                                     "of R²"),
    ):  # fmt: skip
        left_out = [name for name, out in zip(names, numbers.tolist(), strict=True) if out]
        if left_out and distributed.is_main():
            log.warning("`%s`: %s %s", dataset.name, some(left_out), reason)
