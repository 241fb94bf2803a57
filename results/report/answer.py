"""The answer of a report in sentences, built from numbers by pure functions.

No sentence claims more than its interval carries: a coefficient whose interval contains 0 shows
nothing, and two proxies whose difference has such an interval cannot be told apart.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

from results.agreement.headline import Agreement
from results.agreement.leave_one_out import Influence
from results.agreement.ranks import OVERALL, Rank, Ranking
from results.statistics.estimate import Estimate

LONGEST = 8
"""Number of names that a sentence lists."""
MOST_ENCODERS = 4
"""Number of encoders that it lists, whose labels may be long."""


def question(target: str) -> str:
    """Return the question that the report answers.

    Example:
        >>> question("finetune")
        'Which cheap score predicts `finetune`?'
    """
    return f"Which cheap score predicts {name(target)}?"


def basis(target: str, encoders: int, datasets: Sequence[str], proxies: int, baselines: int) -> str:
    """Return how many encoders, datasets, proxies and baselines the answer rests on."""
    where = f"on {name(datasets[0])}" if len(datasets) == 1 else f"on {len(datasets)} datasets"
    compared = [count(proxies, "proxy"), *([count(baselines, "baseline")] if baselines else [])]
    return (
        f"{count(encoders, 'encoder')} {'has' if encoders == 1 else 'have'} scores of "
        f"{name(target)} {where}; {listed(compared)} "
        f"{'is' if proxies + baselines == 1 else 'are'} compared with it."
    )


def baselines(agreements: Sequence[Agreement], coefficient: str) -> str | None:
    """Return how well the baselines agree; None without any.

    Args:
        agreements: those of the baselines, the best first.
        coefficient: the coefficient's name.
    """
    known = [one for one in agreements if one.coefficient]
    if not known:
        return None
    parts = [f"{name(one.proxy)} {number(one.coefficient)}" for one in known]
    return (
        f"Baselines, which need no evaluation on the dataset: {listed(parts)} ({coefficient}"
        f"{over(known[0].datasets)})."
    )


def best_encoder(ranking: Ranking, target: str) -> str | None:
    """Return which encoder ranks first, and which ones cannot be told apart from it.

    Args:
        ranking: the ranks on one dataset or over all.
        target: the target's name.
    """
    if len(ranking.ranks) < 2:
        return None
    first = ranking.ranks[0]
    ties = tied_with_best(ranking)
    where = "over all datasets" if ranking.dataset == OVERALL else f"on {name(ranking.dataset)}"
    start = f"{name(first.encoder)} ranks first by {name(target)} {where}{_rank(first)}"
    equals = [rank.encoder for rank in ranking.ranks[1:] if rank.rank == first.rank]
    if ties is None:
        also = f", like {_encoders(equals)}" if equals else ""
        return (
            f"{start}{also}; the uncertainty of ranks is unknown, because it needs several seeds "
            "or kept predictions of every encoder."
        )
    if not ties:
        return f"{start}, and is told apart from all others."
    return f"{start}, but cannot be told apart from {_encoders(ties)}."


def tied_with_best(ranking: Ranking) -> list[str] | None:
    """Return the encoders that cannot be told apart from the best one; None if this is unknown."""
    first, *others = ranking.ranks
    if not first.group:
        return None
    return [rank.encoder for rank in others if set(rank.group) & set(first.group)]


def _rank(rank: Rank) -> str:
    if rank.low is None or rank.high is None:
        return "" if rank.rank == 1 else f" (mean rank {rank.rank:.1f})"
    return f" (rank {rank.rank:.3g} [{rank.low:.3g}, {rank.high:.3g}])"


def too_few(encoders: int, fewest: int) -> str:
    """Return why there is no coefficient."""
    return (
        f"Too few: a correlation needs at least {fewest} encoders with both scores, but there are "
        f"{encoders}; the scores themselves are shown below."
    )


def best_proxy(
    best: Agreement, target: str, encoders: int, others: int, coefficient: str, *, kind: str
) -> str:
    """Return which proxy agrees best with the target, or that none is shown to agree.

    Args:
        best: the agreement of the best proxy; its coefficient is defined.
        target: the target's name.
        encoders: number of encoders with scores of the target.
        others: number of other proxies.
        coefficient: the coefficient's name.
        kind: what the best proxy is, ``proxy`` or ``baseline``.
    """
    numbers = f"{coefficient} {number(best.coefficient)}{over(best.datasets)}"
    if best.coefficient.low > 0:
        agrees = "agrees best" if others else "agrees"
        among = (
            f"Of {others + 1} {plural(kind)}, {name(best.proxy)}" if others else name(best.proxy)
        )
        return f"{among} {agrees} with {name(target)}: {numbers}, {encoders} encoders."
    if others:
        return (
            f"None of {others + 1} {plural(kind)} is shown to agree with {name(target)}: the best "
            f"one, {name(best.proxy)}, has {numbers}, {encoders} encoders, and the interval "
            f"{does_not_exclude(best.coefficient)}."
        )
    return (
        f"{name(best.proxy)} is not shown to agree with {name(target)}: {numbers}, {encoders} "
        f"encoders, and the interval {does_not_exclude(best.coefficient)}."
    )


def does_not_exclude(coefficient: Estimate) -> str:
    """Return what an interval says about 0."""
    return "lies below 0" if coefficient.high < 0 else "contains 0"


def comparison(
    best: str, differences: Mapping[str, Estimate], encoders: int, kind: str = ""
) -> list[str]:
    """Return which proxies the best one is better than, and which it cannot be told apart from.

    Args:
        best: the name of the best proxy.
        differences: other proxy -> coefficient of the best one minus that of the other one, on the
            encoders and datasets that both have.
        encoders: number of encoders with the target; fewer ones of a difference are stated.
        kind: what the others are, e.g. ``baseline``; empty if they are proxies like the best one.
    """
    known = {other: c for other, c in differences.items() if c}
    texts = {other: _difference(other, c, encoders) for other, c in known.items()}
    better = [texts[other] for other, c in known.items() if c.low > 0]
    worse = [texts[other] for other, c in known.items() if c.high < 0]
    undecided = [texts[other] for other, c in known.items() if c.low <= 0 <= c.high]
    return list(_comparison(best, better, undecided, worse, kind))


def _comparison(
    best: str, better: Sequence[str], undecided: Sequence[str], worse: Sequence[str], kind: str
) -> Iterator[str]:
    if better:
        yield f"{name(best)} agrees better than {_of(kind, better)}{listed(better)}."
    if undecided:
        interval = "each interval" if len(undecided) > 1 else "the interval"
        yield (
            f"These encoders do not decide whether {name(best)} agrees better than "
            f"{_of(kind, undecided)}{listed(undecided, 'or')}: {interval} of the difference "
            "contains 0."
        )
    if worse:
        yield f"{name(best)} agrees less than {_of(kind, worse)}{listed(worse)}."


def _of(kind: str, names: Sequence[str]) -> str:
    return f"the {kind if len(names) == 1 else plural(kind)} " if kind else ""


def optimism(proxies: int) -> str | None:
    """Return that the best of several proxies looks better than it is; None for a single one."""
    if proxies < 2:
        return None
    return (
        f"The best of {proxies} proxies is chosen by the same numbers, so its coefficient is "
        "somewhat too high, and the intervals do not correct for the number of comparisons."
    )


def ceiling(agreement: Estimate, target: str, coefficient: str) -> str:
    """Return how well the target agrees with itself, which bounds what a proxy can reach.

    Args:
        agreement: the coefficient between seeds; NaN with a note if it is not known.
        target: the target's name.
        coefficient: the coefficient's name.
    """
    if not agreement:
        reason = agreement.note.partition(": ")[2] or f"the encoders are {agreement.note}"
        return f"How well {name(target)} agrees with itself is unknown: {reason}."
    return (
        f"{name(target)} itself, repeated with other seeds, would agree with {coefficient} "
        f"{number(agreement)}; no proxy can be expected to agree better with it."
    )


def influence(best: str, influences: Sequence[Influence], by: str) -> str | None:
    """Return whether the answer depends on one encoder or one family; None if it is not known.

    Args:
        best: the proxy that agrees best.
        influences: those of all proxies that it is compared with, its own included.
        by: ``encoder`` or ``family``.
    """
    own = next((one for one in influences if one.proxy == best and one.without), None)
    if own is None:
        return None
    low, high = (end(own.without, key=own.without.__getitem__) for end in (min, max))
    start = (
        f"If one {by} is left out, the coefficient of {name(best)} lies between "
        f"{own.without[low]:.2f} (without {name(low)}) and {own.without[high]:.2f} (without "
        f"{name(high)})"
    )
    if len(influences) < 2:
        return f"{start}."
    first = {
        group: max(
            influences, key=lambda one: (one.without.get(group, -math.inf), one.proxy == best)
        ).proxy
        for group in own.without
    }
    changes = {group: proxy for group, proxy in first.items() if proxy != best}
    if not changes:
        return f"{start}, and it stays the best proxy whichever {by} is left out."
    parts = [f"{name(proxy)} without {name(group)}" for group, proxy in changes.items()]
    return f"{start}, but other proxies agree better: {listed(parts, most=MOST_ENCODERS)}."


def _difference(other: str, difference: Estimate, encoders: int) -> str:
    on_fewer = f", {difference.n} encoders" if difference.n < encoders else ""
    return f"{name(other)} ({number(difference, '+')}{on_fewer})"


def over(datasets: Sequence[str]) -> str:
    """Return over which datasets a number is averaged."""
    if not datasets:
        return ""
    if len(datasets) == 1:
        return f" on {name(datasets[0])}"
    return f", mean over {len(datasets)} datasets"


def number(value: Estimate, sign: str = "") -> str:
    """Return a coefficient with its 95 % interval.

    Example:
        >>> number(Estimate(0.5, -0.1, 0.9, 6))
        '0.50 [-0.10, 0.90]'
    """
    return f"{value.value:{sign}.2f} [{value.low:.2f}, {value.high:.2f}]"


def name(label: str) -> str:
    """Return a name as code; backticks would end it early."""
    return f"`{label.replace('`', chr(39))}`"


def _encoders(labels: Sequence[str]) -> str:
    return listed([name(label) for label in labels], most=MOST_ENCODERS)


def listed(parts: Sequence[str], last: str = "and", most: int = LONGEST) -> str:
    """Return an enumeration of at most ``most`` parts and the number of the others.

    Example:
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    if len(parts) > most:
        return f"{', '.join(parts[:most])} {last} {len(parts) - most} more"
    return f" {last} ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def count(size: int, noun: str) -> str:
    """Return a number with its noun.

    Example:
        >>> count(1, "encoder"), count(2, "proxy")
        ('1 encoder', '2 proxies')
    """
    return f"{size} {noun if size == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """Return the plural of a regular noun."""
    return f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
