"""Does the answer depend on one encoder or one family? The coefficients without each of them."""

import csv
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from results.agreement.baselines import STATIC_RANK, static_rank
from results.agreement.correlations import MEAN, Name, value_of
from results.agreement.headline import HEADLINE
from results.agreement.scores import Scores
from results.errors import ResultsError
from results.records.cells import ordered
from results.records.reading import Results
from results.tables.rendering import Table

By = Literal["encoder", "family"]


@dataclasses.dataclass(frozen=True)
class Influence:
    """How far the coefficient of one proxy depends on single encoders or families.

    Args:
        dataset: the dataset, or ``MEAN``.
        proxy: the proxy's name.
        value: the coefficient of all encoders; NaN if it is not defined.
        without: encoder or family -> the coefficient without it, where it is defined.
    """

    dataset: str
    proxy: str
    value: float
    without: Mapping[str, float]

    @property
    def most_influential(self) -> str | None:
        """The encoder or family without which the coefficient differs most; None if unknown."""
        if math.isnan(self.value) or not self.without:
            return None
        return max(self.without, key=lambda name: abs(self.without[name] - self.value))


def families_of(
    results: Results, encoders: Iterable[str], path: Path | None = None
) -> dict[str, str]:
    """Return the family of each encoder; one of unknown family is a family of its own.

    Args:
        results: the results that state facts about encoders.
        encoders: their labels.
        path: a CSV file with columns ``encoder`` and ``family``, which precede the facts.

    Raises:
        ResultsError: if the file lacks a column.
    """
    stated = {} if path is None else _read(path)
    facts = results.facts_by_encoder(encoders)
    return {encoder: stated.get(encoder) or one.family or encoder for encoder, one in facts.items()}


def _read(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(line for line in file if not line.startswith("#"))
        if not {"encoder", "family"} <= set(reader.fieldnames or ()):
            raise ResultsError(
                f"`--families` must name a CSV file with the columns `encoder` and `family`, but "
                f"`{path}` has {list(reader.fieldnames or ())}."
            )
        return {line["encoder"]: line["family"] for line in reader if line["family"]}


def leave_one_out(
    target: Scores,
    proxies: Sequence[Scores],
    name: Name = HEADLINE,
    families: Mapping[str, str] | None = None,
) -> list[Influence]:
    """Return for each dataset and proxy the coefficients without each encoder or family.

    The mean over datasets follows if there are several; it is defined where all are. Fewer than
    five remaining encoders give no coefficient. The static rank is computed anew without the
    encoders left out.

    Args:
        target: the target's scores.
        proxies: the scores of each proxy.
        name: the coefficient.
        families: encoder -> family; families instead of encoders are left out.
    """
    datasets = ordered(dataset for dataset in target.raw if dataset)
    encoders = ordered(encoder for d in datasets for encoder in target.raw[d])
    groups: dict[str, set[str]] = {}
    for encoder in encoders:
        groups.setdefault(encoder if families is None else families[encoder], set()).add(encoder)
    whole = _values(target, proxies, datasets, name)
    parts = {
        group: _values(_without(target, members), proxies, datasets, name)
        for group, members in groups.items()
    }
    places = [*datasets, MEAN] if len(datasets) > 1 else datasets
    return [
        Influence(
            place,
            proxy.name,
            whole[place, proxy.name],
            {
                group: values[place, proxy.name]
                for group, values in parts.items()
                if not math.isnan(values[place, proxy.name])
            },
        )
        for place in places
        for proxy in proxies
    ]


def _without(target: Scores, left_out: set[str]) -> Scores:
    raw, logits = (
        {d: {e: v for e, v in column.items() if e not in left_out} for d, column in table.items()}
        for table in (target.raw, target.logits)
    )
    return dataclasses.replace(target, raw=raw, logits=logits)


def _values(
    target: Scores, proxies: Sequence[Scores], datasets: Sequence[str], name: Name
) -> dict[tuple[str, str], float]:
    """Return the coefficient by dataset and proxy, and the means over datasets."""
    values: dict[tuple[str, str], float] = {}
    for proxy in proxies:
        current = static_rank(target) if proxy.name == STATIC_RANK and proxy.no_mean else proxy
        single = [value_of(target, current, dataset, name) for dataset in datasets]
        values |= {(d, proxy.name): v for d, v in zip(datasets, single, strict=True)}
        values[MEAN, proxy.name] = math.fsum(single) / len(single)
    return values


def sentences(influences: Sequence[Influence], by: By) -> list[str]:
    """Return whether the best proxy and the order of each pair survive every omission."""
    place = influences[-1].dataset
    decisive = [one for one in influences if one.dataset == place and not math.isnan(one.value)]
    if not decisive:
        return []
    best = max(decisive, key=lambda one: one.value)
    others = {
        group: max(
            (one for one in decisive if group in one.without), key=lambda one: one.without[group]
        ).proxy
        for group in best.without
    }
    changed = {group: proxy for group, proxy in others.items() if proxy != best.proxy}
    told = ", ".join(f"without `{group}` it is `{proxy}`" for group, proxy in changed.items())
    lines = [
        f"`{best.proxy}` agrees best with the target ({place}), whichever {by} is left out."
        if not changed
        else f"`{best.proxy}` agrees best with the target ({place}), but {told}."
    ]
    for number, one in enumerate(decisive):
        for two in decisive[:number]:
            turned = [
                group
                for group in one.without.keys() & two.without.keys()
                if (one.without[group] - two.without[group]) * (one.value - two.value) < 0
            ]
            if turned:
                lines.append(
                    f"Which one of `{one.proxy}` and `{two.proxy}` agrees better depends on a "
                    f"single {by}: {', '.join(f'`{group}`' for group in ordered(turned))}."
                )
    return lines


def to_table(influences: Sequence[Influence], name: Name, by: By) -> Table:
    """Return the ranges of the coefficients as a table of texts."""
    rows = []
    for one in influences:
        group = one.most_influential
        if group is None:
            rows.append([one.dataset, one.proxy, "undefined", "–", "–", "–"])
            continue
        ends = min(one.without.values()), max(one.without.values())
        rows.append(
            [
                one.dataset,
                one.proxy,
                f"{one.value:.2f}",
                f"{ends[0]:.2f} to {ends[1]:.2f}",
                group,
                f"{one.without[group]:.2f}",
            ]
        )
    header = ["dataset", "proxy", name, "range", f"most influential {by}", "without it"]
    return Table(f"{name} without each {by} in turn", header, rows, sentences(influences, by), 2)
