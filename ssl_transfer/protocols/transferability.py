"""``transferability``: cheap scores of a frozen encoder that may predict its fine-tuned score."""

import dataclasses
import inspect
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ssl_transfer.config.ranges import Count, Range, checked, faults
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset, Split
from ssl_transfer.datasets.transforms import views as parsed_views
from ssl_transfer.errors import NotApplicable
from ssl_transfer.estimators import transferability as estimators
from ssl_transfer.estimators.transferability import NotDefined
from ssl_transfer.features import FrozenFeatures
from ssl_transfer.models import Encoder
from ssl_transfer.models.heads import Head
from ssl_transfer.protocols.base import Score
from ssl_transfer.protocols.frozen import FrozenProtocol
from ssl_transfer.randomness import derive
from ssl_transfer.system import distributed

log = logging.getLogger(__name__)

PRIMARY = "logme"
HEAD_ROWS = 4096
"""Rows per pass through the source classifier."""


@dataclasses.dataclass(frozen=True)
class Material:
    """What the estimators of one run measure.

    Args:
        features: of the training and validation images.
        targets: of these images.
        kind: kind of target of the dataset.
        views: features of several views of some training images (``None``: not asked for).
        head: classifier of the features in the weights (``None``: there is none).
        seed: seed of subsets and of the mixture.
        max_samples: maximum number of images for estimators whose cost is quadratic.
    """

    features: Float[Tensor, "samples dim"]
    targets: Tensor
    kind: str
    views: Float[Tensor, "images views dim"] | None
    head: Head | None
    seed: int
    max_samples: int

    @property
    def labels(self) -> Tensor:
        """The class numbers.

        Raises:
            NotDefined: if the images do not have one class each.
        """
        if self.kind != "class":
            raise NotDefined("it is defined for one class per image only")
        return self.targets

    @property
    def probabilities(self) -> Float[Tensor, "samples source"]:
        """The probabilities of the source classes.

        Raises:
            NotDefined: if the weights hold no classifier with one class per image.
        """
        if self.head is None:
            raise NotDefined("the weights hold no source classifier of this representation")
        if self.head.target != "class":
            raise NotDefined("the source classifier gives several classes per image")
        layers = self.head.layers.to(self.features.device, self.features.dtype)
        with torch.no_grad():
            rows = torch.split(self.features, HEAD_ROWS)
            return torch.cat([layers(part).softmax(dim=1) for part in rows])

    def subset(self) -> tuple[Float[Tensor, "picked dim"], Tensor]:
        """Return the features and class numbers of at most ``max_samples`` random images."""
        labels = self.labels
        picked = estimators.random_subset(len(labels), self.max_samples, self.seed)
        places = torch.from_numpy(picked).to(labels.device)
        return self.features[places], labels[places]


@dataclasses.dataclass(frozen=True)
class Estimator:
    """An estimator as an option of the protocol.

    Args:
        function: the estimator; its keyword arguments are its settings.
        unit: unit of its score.
        arguments: its positional arguments, and the keyword arguments that the run sets.
    """

    function: Callable[..., float]
    unit: str
    arguments: Callable[[Material], tuple[tuple[Any, ...], dict[str, Any]]]

    @property
    def settings(self) -> list[str]:
        """The names of the settings."""
        parameters = inspect.signature(self.function).parameters.values()
        run_sets = ("seed", "max_samples")
        return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in run_sets]

    def measure(self, material: Material, settings: Mapping[str, Any]) -> float:
        """Return the value.

        Raises:
            NotDefined: if there is none.
        """
        positional, keys = self.arguments(material)
        try:
            value = self.function(*positional, **keys, **settings)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise NotDefined(f"a matrix cannot be decomposed ({error})") from error
        if not math.isfinite(value):
            raise NotDefined(f"its value is {value}")
        return value


def _with_labels(material: Material) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (material.features, material.labels), {}


def _with_targets(material: Material) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (material.features, material.targets), {}


def _with_nothing(material: Material) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (material.features,), {}


def _of_subset(material: Material) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return material.subset(), {}


def _of_mixture(material: Material) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return material.subset(), {"seed": derive(material.seed, "mixture") % 2**32}


def _of_pairs(material: Material) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if material.kind == "values":
        raise NotDefined("it is defined for classes only")
    keys = {"max_samples": material.max_samples, "seed": material.seed}
    return (material.features, material.targets), keys


def _of_predictions(material: Material) -> tuple[tuple[Any, ...], dict[str, Any]]:
    labels = material.labels
    return (material.probabilities, labels), {}


def _of_decisions(material: Material) -> tuple[tuple[Any, ...], dict[str, Any]]:
    labels = material.labels
    return (material.probabilities.argmax(dim=1), labels), {}


def _of_views(material: Material) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (material.views,), {}


ESTIMATORS = {
    "logme": Estimator(estimators.logme, "nats", _with_targets),
    "h_score": Estimator(estimators.h_score, "trace", _with_labels),
    "h_score_shrinkage": Estimator(estimators.h_score_shrinkage, "trace", _with_labels),
    "leep": Estimator(estimators.leep, "nats", _of_predictions),
    "nce": Estimator(estimators.nce, "nats", _of_decisions),
    "n_leep": Estimator(estimators.n_leep, "nats", _of_mixture),
    "transrate": Estimator(estimators.transrate, "nats", _with_labels),
    "gbc": Estimator(estimators.gbc, "overlap", _with_labels),
    "sfda": Estimator(estimators.sfda, "nats", _with_labels),
    "parc": Estimator(estimators.parc, "correlation", _of_pairs),
    "knn_loo": Estimator(estimators.knn_loo, "fraction", _of_subset),
    "rankme": Estimator(estimators.rankme, "dimensions", _with_nothing),
    "alpha_req": Estimator(estimators.alpha_req, "exponent", _with_nothing),
    "lidar": Estimator(estimators.lidar, "dimensions", _of_views),
}
"""Every estimator by its name; larger is better for all."""


class _Results(NamedTuple):
    """Values and reasons by estimator, and facts for the record."""

    values: dict[str, float]
    reasons: dict[str, str]
    facts: dict[str, Any]


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class Transferability(FrozenProtocol):
    """Measure the estimators of transferability on the training and validation images.

    No test image is read. An estimator without a value for this encoder or dataset is left out; the
    record names it with its reason. The choice of images, of views and of the mixture's start
    depends on the dataset's ``split_seed``, so that all encoders are measured on the same ones. The
    primary score is ``logme``, or the first score that has a value.

    Args:
        views: entries of ``View``; the views of LiDAR are random draws of the first one.
        estimators: names of estimators (null: all).
        settings: keyword arguments of estimators by the estimator's name, such as
            ``{knn_loo: {k: 20}}``.
        max_samples: maximum number of images for ``parc`` (balanced over classes), ``knn_loo`` and
            ``n_leep`` (random), whose cost would be quadratic or more.
        lidar_images: maximum number of training images of LiDAR, at least 2.
        lidar_views: views of each of these images, at least 2.
        image_size: see ``FrozenProtocol``.
        preprocessing: see ``FrozenProtocol``.
        representation: see ``FrozenProtocol``; ``leep`` and ``nce`` need features.
        feature_precision: see ``FrozenProtocol``.

    Raises:
        ValueError: if a value is out of its range, or for an unknown estimator or setting.
    """

    targets: ClassVar[frozenset[str]] = frozenset({"class", "classes", "values"})
    splits: ClassVar[tuple[str, ...]] = ("train",)

    views: Sequence[Mapping[str, Any]]
    estimators: Sequence[str] | None = None
    settings: dict[str, Any] | None = None
    max_samples: Count = 5000
    lidar_images: Annotated[int, Range(2, cap=10**6)] = 1000
    lidar_views: Annotated[int, Range(2, cap=1000)] = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if not parsed_views(self.views):
            raise ValueError(
                "`views` must describe one view at least, but is empty; choose others with "
                "views@protocol=NAME."
            )
        for name in (*(self.estimators or ()), *(self.settings or ())):
            if name not in ESTIMATORS:
                raise ValueError(
                    f"an estimator must be one of {list(ESTIMATORS)}, but one is {name!r}."
                )
        if self.estimators is not None and len(set(self.estimators)) != len(self.estimators):
            raise ValueError(f"`estimators` must not repeat a name, but is {self.estimators}.")
        if self.estimators is not None and not self.estimators:
            raise ValueError("`estimators` must name one at least, but is empty; null means all.")
        for name, settings in (self.settings or {}).items():
            _require_settings(name, settings)

    def run(self, encoder: Encoder, dataset: Dataset, context: Context) -> Iterator[Score]:
        """Yield the values of the estimators.

        Raises:
            NotApplicable: if no estimator has a value.
        """
        names = list(ESTIMATORS if self.estimators is None else self.estimators)
        split, images = self._lidar_split(dataset)
        splits = {**dataset.splits, split: images}
        sampled = dataclasses.replace(dataset, splits=splits)
        features = self.features(encoder, sampled, context)
        rows, targets = features.load(*(key for key in ("train", "val") if len(dataset[key])))
        material = Material(
            rows,
            targets,
            dataset.target,
            self._views(features, split) if "lidar" in names else None,
            encoder.head if self.representation == "features" else None,
            dataset.split_seed,
            self.max_samples,
        )
        # One process measures, since rounding could differ between processors.
        results: _Results | None = None
        if distributed.is_main():
            results = self._measure(names, material, context)
        values, reasons, facts = distributed.broadcast_object(results) or _Results({}, {}, {})
        facts |= {"images": len(rows), "not_defined": reasons}
        context.note(transferability=facts)
        if not values:
            raise NotApplicable(
                f"no estimator of transferability is defined for `{encoder.name}` on "
                f"`{dataset.name}`: {'; '.join(f'{n}: {r}' for n, r in reasons.items())}."
            )
        primary = PRIMARY if PRIMARY in values else next(iter(values))
        for name, value in values.items():
            unit = ESTIMATORS[name].unit
            yield Score(name, value, split="train", unit=unit, primary=name == primary)

    def _measure(self, names: Sequence[str], material: Material, context: Context) -> _Results:
        """Return the values, and the reasons of estimators without one."""
        values, reasons, facts = _Results({}, {}, {})
        for name in context.progress(names, total=len(names), label="estimators"):
            settings = (self.settings or {}).get(name, {})
            try:
                values[name] = ESTIMATORS[name].measure(material, settings)
                if name == "alpha_req":
                    exponent = estimators.decay_exponent(material.features, **settings)
                    facts["decay_exponent"] = exponent
            except NotDefined as reason:
                reasons[name] = str(reason)
                log.info("`%s` is not defined here: %s", name, reason)
        return _Results(values, reasons, facts)

    def _lidar_split(self, dataset: Dataset) -> tuple[str, Split]:
        """Return the training images of LiDAR, and a name of this split that says how many."""
        train = dataset["train"]
        picked = estimators.random_subset(len(train), self.lidar_images, dataset.split_seed)
        return f"train, {len(picked)} images", train.subset(picked)

    def _views(self, features: FrozenFeatures, split: str) -> Float[Tensor, "images views dim"]:
        """Return the features of several views of the images of a split."""
        augmentation = parsed_views(self.views)[0].augmentation
        if not features.dataset.flip:
            augmentation = augmentation.without_flip()
        rows = [
            np.array(features.view_rows(split, augmentation, view=number))
            for number in range(self.lidar_views)
        ]
        return torch.from_numpy(np.stack(rows, axis=1)).to(features.context.device)


def _require_settings(name: str, settings: Any) -> None:
    """Refuse unknown settings of an estimator, and values of a wrong type or range.

    Raises:
        ValueError: naming the setting.
    """
    known = ESTIMATORS[name].settings
    if not isinstance(settings, Mapping):
        raise ValueError(f"`settings.{name}` must be a mapping, but is {settings!r}.")
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ValueError(f"`settings.{name}` may have the keys {known}, but has {unknown}.")
    for key, fault in faults(ESTIMATORS[name].function, settings).items():
        raise ValueError(fault.sentence(f"settings.{name}.{key}"))
