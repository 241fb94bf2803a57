"""What choosing by proxies gives, as tables of texts, sentences and CSV."""

import math
from collections.abc import Mapping, Sequence

from results.agreement.baselines import STATIC_RANK
from results.agreement.choosing import (
    MEAN,
    RANDOM,
    Choice,
    Miss,
    front,
    verdict,
)
from results.agreement.cost import Cost, comparable, together
from results.agreement.scores import Scores
from results.records.labels import natural
from results.statistics.estimate import Estimate
from results.statistics.intervals import FEWEST
from results.statistics.means import FEWEST_FOR_INTERVAL
from results.tables.rendering import Table, to_csv
from results.tables.units import duration

_HEADER = ["regret", "regret@3", "relative top-1", "hit@1", "hit@3", "misses"]
_SHOWN_MISSES = 10


def to_tables(choices: Sequence[Choice], far: float) -> list[Table]:
    """Return the choices on each dataset, then the means over datasets if there are several."""
    target = choices[0].target
    single = [entry for entry in choices if entry.dataset != MEAN]
    means = [entry for entry in choices if entry.dataset == MEAN]
    rows = [
        [entry.dataset, entry.proxy, str(entry.encoders), _names(entry), *_numbers(entry)]
        for entry in single
    ]
    header = ["dataset", "proxy", "n", "chosen", *_HEADER]
    title = f"Choosing the encoder for {target} by each proxy"
    tables = [Table(title, header, rows, [] if means else legend(choices, far), left=2)]
    if means:
        rows = [[m.proxy, str(m.regret.n), str(m.encoders), *_numbers(m)] for m in means]
        header = ["proxy", "datasets", "n", *_HEADER]
        tables.append(Table(f"{target}: {MEAN}", header, rows, legend(choices, far)))
    return tables


def legend(choices: Sequence[Choice], far: float) -> list[str]:
    """Return the notes that explain the numbers."""
    units = {entry.unit for entry in choices if entry}
    notes = [
        f"regret: score of the best encoder minus that of the proxy's first one, in "
        f"{' or '.join(sorted(units)) or 'points'}; regret@3: if its first three are fine-tuned; "
        "of encoders that the proxy ranks equally, each order is equally likely",
        f"misses: encoders of the target's top third that the proxy ranks lower by at least "
        f"{far:g} n of n encoders; a random choice has so many by chance",
    ]
    means = [entry for entry in choices if entry.dataset == MEAN]
    if any(not math.isnan(entry.regret.low) for entry in means):
        notes.append("[ ]: 95 % interval, bootstrap over datasets")
    elif means:
        notes.append(f"intervals need at least {FEWEST_FOR_INTERVAL} datasets")
    if any(entry.note.startswith("too few") for entry in choices):
        notes.append(f"fewer than {FEWEST} encoders with both scores are too few")
    for entry in choices:
        if entry.note and not entry.note.startswith("too few"):
            notes.append(f"{entry.proxy} {entry.note}")
    return [*dict.fromkeys(notes), *_left_out(choices)]


def sentences(
    target: Scores,
    proxies: Sequence[Scores],
    references: Sequence[Scores],
    choices: Sequence[Choice],
) -> list[str]:
    """Return which encoders are missed, and which proxies are not shown to be worth their cost.

    Args:
        target: the target.
        proxies: the proxies that the user asks about.
        references: what they are compared with.
        choices: the choices of all of them.
    """
    named = {proxy.name for proxy in proxies}
    missed = [
        miss_sentence(entry, miss)
        for entry in choices
        if entry.dataset != MEAN and entry.proxy in named
        for miss in entry.misses
    ]
    lines = missed[:_SHOWN_MISSES]
    if not any(choices):
        lines.append(
            f"too few encoders have both scores to judge a choice; `--next 3` prints the commands "
            f"that run {target.name} for each proxy's three best"
        )
    if len(missed) > _SHOWN_MISSES:
        lines.append(f"… and {len(missed) - _SHOWN_MISSES} more misses; `--format csv` has all")
    for proxy in proxies:
        compared = [one for one in references if one.name in (RANDOM, STATIC_RANK)]
        texts = (verdict(target, proxy, one) for one in compared if one.name != proxy.name)
        lines += [text for text in texts if text is not None]
    return lines


def miss_sentence(entry: Choice, miss: Miss) -> str:
    """Return one sentence about an encoder that a proxy misses."""
    return (
        f"missed by {entry.proxy} on {miss.dataset}: {miss.encoder} is rank {miss.target_rank:g} "
        f"of {miss.encoders} by {entry.target} ({miss.target_score:.4g}) and rank "
        f"{miss.proxy_rank:g} by {entry.proxy} ({miss.proxy_score:.4g})"
    )


def cost_table(costs: Mapping[str, Cost], choices: Sequence[Choice], target: str) -> Table | None:
    """Return what each proxy and the target cost; None if nothing is known."""
    ran = {name: cost for name, cost in costs.items() if cost.runs}
    if not ran:
        return None
    aim = costs.get(target)
    rows = [[name, *_cost(cost), _share(cost, aim)] for name, cost in costs.items()]
    proxies = [cost for name, cost in ran.items() if name != target]
    if len(proxies) > 1:
        runs, *times, _, device = _cost(together(proxies))
        rows.append(["all proxies together", runs, *times, "–", device, "–"])
    notes = [
        "seconds of wall time times processes; stored features are extracted once, whoever did it"
    ]
    if any(cost.unknown for cost in ran.values()):
        notes.append(
            "≥: a lower bound, because records of earlier code do not say what the extraction of "
            "their features cost, nor the whole time of interrupted runs"
        )
    devices = together(ran.values()).devices
    if len(devices) > 1:
        notes.append(f"times on {' and '.join(devices)} are not comparable or added up")
    elif best := _front(costs, choices, target):
        notes.append(f"no proxy that is as cheap has as little regret: {', '.join(best)}")
    header = ["proxy", "runs", "own time", "extraction", "total", "per score", "device"]
    header.append(f"of {target}")
    notes.append("per score: of an encoder on a dataset, all its seeds together")
    return Table("What the scores cost", header, rows, notes)


def to_csv_long(choices: Sequence[Choice], costs: Mapping[str, Cost]) -> str:
    """Return CSV with one row of numbers per dataset and proxy; scores are as stored."""
    header = ["dataset", "proxy", "target", "n", "chosen", "best", "chosen_score", "best_score"]
    header += ["unit", "regret", "regret_low", "regret_high", "regret_at_3", "relative_top1"]
    header += ["hit_at_1", "hit_at_3", "num_misses", "misses", "left_out", "note"]
    header += ["seconds_per_cell", "device", "cost_is_lower_bound"]
    rows: list[list[object]] = []
    for entry in choices:
        missed = [
            f"{m.encoder} ({m.target_rank:g} by target, {m.proxy_rank:g} by proxy)"
            for m in entry.misses
        ]
        regret, cost = entry.regret, costs.get(entry.proxy)
        numbers = (regret.value, regret.low, regret.high, entry.regret_at_3.value)
        shares = (entry.relative_top1, entry.hit_at_1, entry.hit_at_3, entry.num_misses)
        spent = [None, None, None]
        rows.append(
            [
                *(entry.dataset, entry.proxy, entry.target, entry.encoders),
                *("; ".join(entry.chosen), "; ".join(entry.best)),
                *(_rounded(entry.chosen_score), _rounded(entry.best_score), entry.unit),
                *(_rounded(number) for number in (*numbers, *shares)),
                *("; ".join(missed), "; ".join(entry.left_out), entry.note),
                *(spent if cost is None else _spent(cost)),
            ]
        )
    return to_csv(header, rows)


def _spent(cost: Cost) -> list[object]:
    return [_rounded(cost.per_cell), " and ".join(cost.devices), bool(cost.unknown)]


def _rounded(number: float) -> float:
    return round(number, 6) if math.isfinite(number) else math.nan


def _front(costs: Mapping[str, Cost], choices: Sequence[Choice], target: str) -> list[str]:
    """Return the proxies on the front of cost against mean regret."""
    overall = {entry.proxy: entry for entry in choices if entry.dataset == MEAN}
    overall = overall or {entry.proxy: entry for entry in choices}
    comparable = {name: cost.per_cell for name, cost in costs.items() if name != target}
    return front(comparable, {name: -entry.regret.value for name, entry in overall.items()})


def _cost(cost: Cost) -> list[str]:
    if not cost.runs:
        return ["0", "–", "–", "–", "none", "–"]
    bound = "≥ " if cost.unknown else ""
    seconds = (cost.seconds, cost.extraction_seconds, cost.total, cost.per_cell)
    times = [duration(one) for one in seconds]
    shown = [time if time == "–" else f"{bound}{time}" for time in times]
    return [str(cost.runs), *shown, " and ".join(cost.devices)]


def _share(cost: Cost, target: Cost | None) -> str:
    """Return the cost of a score as a share of the target's, if both ran on the same device."""
    if target is None or cost is target or not cost.runs or not comparable(cost, target):
        return "–"
    share = cost.per_cell / target.per_cell if target.per_cell > 0 else math.nan
    return f"{share:.1%}" if math.isfinite(share) else "–"


def _numbers(entry: Choice) -> list[str]:
    if not entry:
        return [entry.note.split(":")[0] or "–", *["–"] * 5]
    shares = (entry.relative_top1, entry.hit_at_1, entry.hit_at_3)
    counts = f"{entry.num_misses:.1f}" if entry.proxy == RANDOM else f"{entry.num_misses:.0f}"
    return [
        _with_interval(entry.regret),
        f"{entry.regret_at_3.value:.2f}",
        *("–" if math.isnan(share) else f"{share:.1%}" for share in shares),
        counts,
    ]


def _with_interval(mean: Estimate) -> str:
    interval = "" if math.isnan(mean.low) else f" [{mean.low:.2f}, {mean.high:.2f}]"
    return f"{mean.value:.2f}{interval}"


def _names(entry: Choice) -> str:
    if len(entry.chosen) > 2:
        return f"one of {len(entry.chosen)}"
    return " or ".join(entry.chosen) or "–"


def _left_out(choices: Sequence[Choice]) -> list[str]:
    """Return one sentence per proxy that some encoders with a target score lack."""
    missing: dict[str, set[str]] = {}
    for entry in choices:
        missing.setdefault(entry.proxy, set()).update(entry.left_out)
    return [
        f"without a score of {proxy}: {', '.join(sorted(encoders, key=natural))}"
        for proxy, encoders in missing.items()
        if encoders
    ]
