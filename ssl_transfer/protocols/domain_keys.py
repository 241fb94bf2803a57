"""The keys of training on several domains: batches, penalty, and the splits that select."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np

from ssl_transfer.config.ranges import Count, NotNegative, Range
from ssl_transfer.datasets import Dataset, concatenate
from ssl_transfer.datasets.reader import some
from ssl_transfer.protocols.domain_risks import DomainObjective, Variance
from ssl_transfer.training.options import DomainOrder, TrainingKeys

Selection = Literal["val", "id_val", "ood_val", "test"]
OF_DOMAINS = ("id_val", "ood_val")
"""Validation splits of data with domains; no classifier is trained on them if they select."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DomainKeys(TrainingKeys):
    """The keys of a training that can be one on several domains; see ``TrainingKeys``, too.

    ``selection`` may name one of the two validation splits of data with domains. The final
    classifier is then trained on the training split alone, as in published code: images of
    ``ood_val`` would add a domain to the training, and both choices stay comparable.

    Args:
        domains_per_batch: number of distinct domains in every batch, with equal shares (``None``:
            batches are drawn without regard to domains). The loss is the mean of their risks.
        penalty: ``vrex`` adds the variance of the risks of the domains in a batch, times λ
            (see ``vrex``).
        penalty_weight: λ, at least 0; null for a key that the grid sets.
        penalty_variance: see ``variance_of``.
        penalty_from_step: first step with the penalty, at which the optimizer forgets its momenta;
            λ is 0 before it.
        selection: split that selects the grid point and the epoch: ``val``; ``id_val`` or
            ``ood_val`` of data with domains; ``test`` reproduces published code, and the record
            states it.
    """

    domains_per_batch: Count | None = None
    penalty: Literal["vrex"] | None = None
    penalty_weight: NotNegative | None = None
    penalty_variance: Variance = "population"
    penalty_from_step: Annotated[int, Range(0, cap=10**9)] = 0
    selection: Selection = "val"

    def check_domain_keys(self, weights: Sequence[float] | None) -> None:
        """Refuse keys of domains that contradict each other.

        Args:
            weights: values of λ in the grid (``None``: none).

        Raises:
            ValueError: if they do.
        """
        domains = self.domains_per_batch
        if domains is not None and self.batch_size % domains:
            raise ValueError(
                f"`batch_size` must be a multiple of `domains_per_batch` ({domains}), since "
                f"domains have equal shares, but is {self.batch_size}; change either."
            )
        weighted = self.penalty_weight is not None or bool(weights)
        if self.penalty is None:
            superfluous = {
                "penalty_weight": weighted,
                "penalty_variance": self.penalty_variance != "population",
                "penalty_from_step": self.penalty_from_step > 0,
            }
            for key in (key for key, is_set in superfluous.items() if is_set):
                raise ValueError(
                    f"`{key}` must be left alone where there is no penalty, but `penalty` is null; "
                    "set `protocol.penalty=vrex`, or remove it."
                )
            return
        if domains is None or domains < 2:
            raise ValueError(
                "`domains_per_batch` must be at least 2 for `penalty=vrex`, which compares the "
                f"risks of the domains in a batch, but is "
                f"{'null' if domains is None else domains}; set it."
            )
        if not weighted:
            raise ValueError(
                "`penalty_weight` must be a number, or `grid.penalty_weight` must list some, for "
                "`penalty=vrex`, but both are null; set one."
            )

    def check_domains(self, dataset: Dataset) -> None:
        """Refuse a dataset without the domains, or without the split, that the keys need.

        Raises:
            ValueError: if something is missing.
        """
        if self.selection in OF_DOMAINS and self.selection not in dataset.splits:
            raise ValueError(
                f"`selection` must be val or test for `{dataset.name}`, which has no split "
                f"`{self.selection}`, but is {self.selection}; change it, or choose a dataset with "
                "such a split, e.g. camelyon17 or digits_domains."
            )
        if self.domains_per_batch is None:
            return
        numbers = dataset["train"].domains
        if numbers is None:
            raise ValueError(
                "`domains_per_batch` must be null for a dataset without domains such as "
                f"`{dataset.name}`, but is {self.domains_per_batch}; leave it and `penalty` out, "
                "or choose a dataset with domains, e.g. camelyon17 or digits_domains."
            )
        present = np.unique(numbers).tolist()
        if len(present) < self.domains_per_batch:
            names = some([dataset.domains[number] for number in present])
            raise ValueError(
                f"`domains_per_batch` must be at most the {len(present)} domains of the training "
                f"images of `{dataset.name}` ({names}), but is {self.domains_per_batch}; lower it."
            )

    def final_splits(self, *, by_epoch: bool) -> list[str]:
        """Return the splits that the final classifier is trained on.

        Args:
            by_epoch: whether ``selection`` selects the epoch, too, for which it must be held out.
        """
        held_out = self.selection in OF_DOMAINS or (by_epoch and self.selection == "val")
        return ["train"] if held_out else ["train", "val"]

    def objective(self, points: Sequence[Mapping[str, float]]) -> DomainObjective | None:
        """Return the loss of heads at points of a grid; None without ``domains_per_batch``."""
        if self.domains_per_batch is None:
            return None
        weights = None
        if self.penalty is not None:
            fixed = self.penalty_weight
            weights = [point["penalty_weight"] if fixed is None else fixed for point in points]
        return DomainObjective(
            self.domains_per_batch, weights, self.penalty_variance, self.penalty_from_step
        )

    def order(self, dataset: Dataset, splits: Sequence[str], seed: int) -> DomainOrder | None:
        """Return the order of batches of several domains; None without ``domains_per_batch``."""
        if self.domains_per_batch is None:
            return None
        domains = concatenate(*(dataset[split] for split in splits)).domains
        assert domains is not None, "checked before"
        return DomainOrder(
            samples=len(domains),
            batch_size=self.batch_size,
            drop_last=False,
            seed=seed,
            domains=domains,
            domains_per_batch=self.domains_per_batch,
        )
