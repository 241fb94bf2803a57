"""Choosing an encoder by a cheap score: what is lost, and which encoders are missed.

A proxy is there to say which encoder to fine-tune. Correlations do not say what that costs; regret
does: the target score of the best encoder minus that of the encoder that the proxy ranks first. The
same numbers for a random choice and for the baselines show what the proxy is worth.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from results.agreement.baselines import proxy_scores
from results.agreement.scores import Scores, Values, scores
from results.agreement.specs import target_spec
from results.errors import ResultsError
from results.records.labels import natural
from results.records.reading import Results
from results.statistics.estimate import Estimate
from results.statistics.intervals import FEWEST
from results.statistics.means import FEWEST_FOR_INTERVAL, mean
from results.statistics.selection import ROUNDING, descending_ranks, expected_best, first, hit_rate

Floats = NDArray[np.float64]

MEAN = "mean over datasets"
RANDOM = "random choice"
NONE = Estimate.none(0, "too few")
FAR = 0.5
"""Places between the two ranks of a miss, as a share of the number of encoders."""


@dataclasses.dataclass(frozen=True)
class Miss:
    """An encoder in the target's top third that the proxy ranks far below its rank by the target.

    Args:
        encoder: the encoder's label.
        dataset: the dataset.
        target_rank: its rank by the target, 1 for the best; equal scores have their average rank.
        proxy_rank: its rank by the proxy.
        target_score: its score of the target, in percent if it is a fraction (errors with their
            sign changed).
        proxy_score: its score of the proxy, likewise.
        encoders: number of encoders that are ranked.
    """

    encoder: str
    dataset: str
    target_rank: float
    proxy_rank: float
    target_score: float
    proxy_score: float
    encoders: int


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a proxy's choice among the encoders of one dataset, or of each dataset, gives.

    Expected values are over all orders of encoders that the proxy ranks equally.

    Args:
        dataset: the dataset, or ``MEAN``.
        proxy: the proxy's name, or ``RANDOM``.
        target: the target's name.
        encoders: number of encoders with both scores (the smallest one of a mean).
        chosen: the encoders that the proxy ranks first; empty for a mean.
        best: the encoders with the best target score; empty for a mean.
        chosen_score: expected target score of the chosen encoder, signed so that higher is better.
        best_score: the best target score.
        regret: difference between both in the target's unit (points: percent of a fraction); for a
            mean with its 95 % interval over datasets.
        regret_at_3: the same if the proxy's first three encoders are fine-tuned and the best one of
            them is kept.
        relative_top1: chosen score over best score; NaN unless scores lie in [0, 1].
        hit_at_1: probability that the chosen encoder is the best one.
        hit_at_3: probability that the best encoder is among the proxy's first three.
        misses: see ``Miss``.
        num_misses: their number; of a random choice the expected one.
        unit: ``points`` for fractions, else the unit ``scores``.
        left_out: encoders with a target score but without one of the proxy.
        note: why there are no numbers, or which datasets a mean leaves out.
    """

    dataset: str
    proxy: str
    target: str
    encoders: int = 0
    chosen: tuple[str, ...] = ()
    best: tuple[str, ...] = ()
    chosen_score: float = math.nan
    best_score: float = math.nan
    regret: Estimate = NONE
    regret_at_3: Estimate = NONE
    relative_top1: float = math.nan
    hit_at_1: float = math.nan
    hit_at_3: float = math.nan
    misses: tuple[Miss, ...] = ()
    num_misses: float = math.nan
    unit: str = "points"
    left_out: tuple[str, ...] = ()
    note: str = ""

    def __bool__(self) -> bool:
        return bool(self.regret)


def choices(
    results: Results, proxies: Sequence[str], target: str, *, far: float = FAR
) -> list[Choice]:
    """Return what each proxy's choice gives on each dataset, then the means over datasets.

    Args:
        results: the results.
        proxies: protocols, baselines, or ``RANDOM``.
        target: the protocol and metric that the choice is judged by.
        far: see ``misses_of``.

    Raises:
        ResultsError: for an unknown protocol or metric, or a proxy that is the target.
    """
    aim = scores(results, target_spec(target, proxies))
    sources = [
        random_choice(aim) if proxy == RANDOM else proxy_scores(results, proxy, aim)
        for proxy in proxies
    ]
    return choices_by_scores(aim, sources, far=far)


def choices_by_scores(
    target: Scores, proxies: Iterable[Scores], *, far: float = FAR
) -> list[Choice]:
    """Return the result of ``choices`` for given scores."""
    proxies, datasets = list(proxies), datasets_of(target)
    found = [choice(target, proxy, name, far=far) for name in datasets for proxy in proxies]
    if len(datasets) > 1:
        for proxy in proxies:
            found.append(_mean([entry for entry in found if entry.proxy == proxy.name]))
    return found


def datasets_of(target: Scores) -> list[str]:
    """Return the datasets with target scores in natural order.

    Raises:
        ResultsError: if there are none.
    """
    datasets = sorted((dataset for dataset in target.raw if dataset), key=natural)
    if not datasets:
        raise ResultsError(
            f"the target must have scores on a dataset, but `{target.name}` has none."
        )
    return datasets


def random_choice(target: Scores) -> Scores:
    """Return equal scores of all encoders with a target score: their choice is random."""
    raw = {name: dict.fromkeys(values, 0.0) for name, values in target.raw.items()}
    return Scores(RANDOM, raw, raw)


def choice(target: Scores, proxy: Scores, dataset: str, *, far: float = FAR) -> Choice:
    """Return what a proxy's choice on one dataset gives."""
    goal, source = target.on(dataset)[0], proxy.on(dataset)[0]
    shared = _shared(goal, source)
    head = Choice(
        dataset,
        proxy.name,
        target.name,
        len(shared),
        unit="points" if target.percent(dataset) == 100 else "scores",
        left_out=tuple(sorted(goal.keys() - source.keys(), key=natural)) if source else (),
    )
    if len(shared) < FEWEST:
        return dataclasses.replace(head, note=_why_none(proxy))
    x, y = _column(source, shared), _column(goal, shared)
    best, expected = float(y.max()), expected_best(x, y, 1)
    scale = target.percent(dataset)
    found = misses_of(shared, proxy.percent(dataset) * x, scale * y, dataset, far=far)
    constant = proxy.name == RANDOM
    return dataclasses.replace(
        head,
        chosen=_first(shared, x),
        best=_first(shared, y),
        chosen_score=expected,
        best_score=best,
        regret=Estimate.exact(scale * (best - expected)),
        regret_at_3=Estimate.exact(scale * (best - expected_best(x, y, 3))),
        relative_top1=_relative(expected, best, fractions=scale == 100 and not target.negated),
        hit_at_1=hit_rate(x, y, 1),
        hit_at_3=hit_rate(x, y, 3),
        misses=found,
        num_misses=expected_misses(y, far=far) if constant else float(len(found)),
    )


def _why_none(proxy: Scores) -> str:
    return f"undefined: {proxy.undefined}" if proxy.undefined else "too few"


def misses_of(
    encoders: Sequence[str], proxy: Floats, target: Floats, dataset: str = "", *, far: float = FAR
) -> tuple[Miss, ...]:
    """Return the encoders that a proxy misses, worst first.

    A miss is one of the best third of the encoders by the target (rank at most n / 3) whose rank by
    the proxy is larger by at least ``far * n``. With the default of one half, the best of 12
    encoders is a miss at the proxy's rank 7 or below, and the fourth at rank 10 or below. The rule
    compares ranks because the units of both scores differ.

    Args:
        encoders: their labels.
        proxy: one score per encoder.
        target: likewise.
        dataset: the dataset, for the misses.
        far: places between both ranks as a share of the number of encoders, in (0, 1].
    """
    n, by_target, by_proxy = len(encoders), descending_ranks(target), descending_ranks(proxy)
    far_below = (by_target <= n / 3) & (by_proxy - by_target >= far * n)
    found = [
        Miss(
            encoders[i],
            dataset,
            float(by_target[i]),
            float(by_proxy[i]),
            float(target[i]),
            float(proxy[i]),
            n,
        )
        for i in map(int, np.flatnonzero(far_below))
    ]
    return tuple(sorted(found, key=lambda miss: (miss.target_rank - miss.proxy_rank, miss.encoder)))


def expected_misses(target: Floats, *, far: float = FAR) -> float:
    """Return the expected number of misses of a proxy that ranks encoders at random.

    The rank of each encoder is then uniform over 1 … n.
    """
    n, ranks = len(target), descending_ranks(target)
    places = np.arange(1, n + 1)
    return float(sum(np.mean(places - rank >= far * n) for rank in ranks if rank <= n / 3))


def regret_difference(target: Scores, proxy: Scores, reference: Scores) -> Estimate:
    """Return the mean over datasets of a proxy's regret minus that of a reference.

    On each dataset, both choose among the encoders that have all three scores; datasets with fewer
    than five of them are left out. The interval is that of the paired differences.
    """
    differences = []
    for dataset in datasets_of(target):
        goal = target.on(dataset)[0]
        shared = _shared(goal, proxy.on(dataset)[0], reference.on(dataset)[0])
        if len(shared) < FEWEST:
            continue
        y = _column(goal, shared)
        own, other = (_column(one.on(dataset)[0], shared) for one in (proxy, reference))
        difference = expected_best(other, y, 1) - expected_best(own, y, 1)
        differences.append(target.percent(dataset) * difference)
    return mean(differences)


def verdict(target: Scores, proxy: Scores, reference: Scores) -> str | None:
    """Return one sentence if a proxy is not shown to choose better than a reference, else None."""
    difference = regret_difference(target, proxy, reference)
    if not difference:
        return None
    other = reference.name if reference.name == RANDOM else f"`{reference.name}`"
    sets = "1 dataset" if difference.n == 1 else f"{difference.n} datasets"
    if difference.value >= 0:
        return (
            f"`{proxy.name}` chooses no better than {other}: its regret is "
            f"{difference.value:.2f} larger (mean of {sets})."
        )
    smaller = f"the regret of `{proxy.name}` is {-difference.value:.2f} smaller than that of"
    if difference.note:
        few = f"{sets} are" if difference.n > 1 else "one dataset is"
        equal = difference.n >= FEWEST_FOR_INTERVAL  # the same difference on all of them
        return f"{smaller} {other}" + (
            f" on each of {sets}." if equal else f", but {few} too few to test it."
        )
    if difference.high >= 0:
        interval = f"[{difference.low:.2f}, {difference.high:.2f}]"
        return f"{smaller} {other}, but the interval of the difference {interval} holds 0."
    return None


def front(costs: dict[str, float], agreement: dict[str, float]) -> list[str]:
    """Return the proxies that no cheaper or equally cheap proxy matches, the cheapest first.

    Args:
        costs: proxy -> its cost, in one unit.
        agreement: proxy -> its agreement with the target; higher is better.

    A proxy without a finite number in both is left out.

    Example:
        >>> front({"knn": 1.0, "probe": 9.0, "slow": 12.0}, {"knn": 0.5, "probe": 0.8, "slow": 0.7})
        ['knn', 'probe']
    """
    both = [
        name
        for name in costs
        if math.isfinite(costs[name]) and math.isfinite(agreement.get(name, math.nan))
    ]
    ordered = sorted(both, key=lambda name: (costs[name], -agreement[name], natural(name)))
    on_front: list[str] = []
    for name in ordered:
        if all(agreement[name] > agreement[other] for other in on_front):
            on_front.append(name)
    return on_front


def _mean(per_dataset: Sequence[Choice]) -> Choice:
    """Return the mean of choices of one proxy over datasets; those without numbers are named."""
    known = [entry for entry in per_dataset if entry]
    head = Choice(MEAN, per_dataset[0].proxy, per_dataset[0].target)
    if not known:
        return dataclasses.replace(head, note=per_dataset[0].note)
    if len({entry.unit for entry in known}) > 1:
        return dataclasses.replace(head, note="undefined: the datasets differ in unit")
    left_out = [entry.dataset for entry in per_dataset if not entry]
    return dataclasses.replace(
        head,
        encoders=min(entry.encoders for entry in known),
        regret=mean([entry.regret.value for entry in known], lowest=0.0),
        regret_at_3=mean([entry.regret_at_3.value for entry in known], lowest=0.0),
        relative_top1=_average(entry.relative_top1 for entry in known),
        hit_at_1=_average(entry.hit_at_1 for entry in known),
        hit_at_3=_average(entry.hit_at_3 for entry in known),
        misses=tuple(miss for entry in known for miss in entry.misses),
        num_misses=math.fsum(entry.num_misses for entry in known),
        unit=known[0].unit,
        note=f"without {', '.join(left_out)}: too few encoders" if left_out else "",
    )


def _average(values: Iterable[float]) -> float:
    column = list(values)
    return math.fsum(column) / len(column)


def _shared(*columns: Values) -> list[str]:
    """Return the encoders with all scores, in natural order."""
    return sorted(set.intersection(*(set(column) for column in columns)), key=natural)


def _column(values: Values, encoders: Sequence[str]) -> Floats:
    return np.array([values[encoder] for encoder in encoders], dtype=np.float64)


def _first(encoders: Sequence[str], values: Floats) -> tuple[str, ...]:
    """Return the encoders that share the highest value."""
    certain, tied, _ = first(values, 1)
    return tuple(encoders[i] for i in (*certain, *tied))


def _relative(chosen: float, best: float, *, fractions: bool) -> float:
    return chosen / best if fractions and best > ROUNDING else math.nan
