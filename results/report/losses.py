"""Sentences on what choosing an encoder by a proxy loses, what it misses, and what it costs."""

import math
from collections.abc import Sequence

from results.agreement.choosing import RANDOM, Choice, Miss
from results.agreement.cost import Cost, comparable
from results.report.answer import count, listed, name
from results.tables.units import duration


def loss(choice: Choice, per_dataset: Sequence[Choice], random: Choice | None) -> str | None:
    """Return what is lost by fine-tuning only the encoder that a proxy ranks first.

    Args:
        choice: the choice on the only dataset, or the mean over datasets.
        per_dataset: the choices on each dataset, for the one on which most is lost.
        random: the same as ``choice`` for a random choice.
    """
    if not choice:
        return None
    by_chance = f"; a random choice loses {random.regret.value:.2f}" if random else ""
    lost = f"{choice.regret.value:.2f}{_interval(choice)} {choice.unit} of {name(choice.target)}"
    known = [one for one in per_dataset if one]
    if len(known) < 2:
        where = f" on {name(known[0].dataset)}" if known else ""
        return f"Choosing the encoder by {name(choice.proxy)} loses {lost}{where}{by_chance}."
    worst = max(known, key=lambda one: one.regret.value)
    return (
        f"Choosing the encoder by {name(choice.proxy)} loses {lost}, mean over "
        f"{len(known)} datasets, and most on {name(worst.dataset)}: "
        f"{worst.regret.value:.2f}{by_chance}."
    )


def hits(per_dataset: Sequence[Choice]) -> str | None:
    """Return on how many datasets a proxy finds the best encoder; None for fewer than two."""
    known = [one for one in per_dataset if one]
    if len(known) < 2:
        return None
    first, three = (math.fsum(getattr(one, key) for one in known) for key in
                    ("hit_at_1", "hit_at_3"))  # fmt: skip
    return (
        f"{name(known[0].proxy)} ranks the best encoder first on {first:.3g} of {len(known)} "
        f"datasets, and among its first three on {three:.3g}."
    )


def misses(proxy: str, missed: Sequence[Miss], target: str) -> str:
    """Return by name the encoders that a proxy ranks far below their rank by the target."""
    if not missed:
        return f"{name(proxy)} ranks no encoder of the top third by {name(target)} far too low."
    parts = [
        f"{name(miss.encoder)} on {name(miss.dataset)} ({miss.target_rank:g} of {miss.encoders} by "
        f"{name(target)}, {miss.proxy_rank:g} by {name(proxy)})"
        for miss in missed
    ]
    return f"{name(proxy)} misses {listed(parts)}."


def cost(proxy: str, cheap: Cost | None, target: str, dear: Cost | None) -> str | None:
    """Return what the scores of a proxy cost beside those of the target; None if unknown.

    Costs are compared per encoder and dataset, and only on one device.

    Args:
        proxy: the proxy's name.
        cheap: its cost.
        target: the target's name.
        dear: the cost of the target.
    """
    if cheap is None or not cheap.runs:
        return None
    if math.isnan(cheap.total):
        return (
            f"The runs of {name(proxy)} took place on {listed(cheap.devices)}, whose times are "
            "not comparable."
        )
    text = (
        f"The scores of {name(proxy)} took {_bound(cheap)}{duration(cheap.per_cell)} per encoder "
        f"and dataset, {_bound(cheap)}{duration(cheap.total)} for "
        f"{count(cheap.runs, 'run')} on {listed(cheap.devices)}"
    )
    if dear is None or not comparable(cheap, dear) or not dear.per_cell > 0:
        return f"{text}."
    target_took = f"those of {name(target)} {_bound(dear)}{duration(dear.per_cell)}"
    if cheap.unknown or dear.unknown:
        return f"{text}; {target_took}."
    share = 100 * cheap.per_cell / dear.per_cell
    return f"{text}; {target_took}, so the proxy takes {share:.3g} % of the time."


def of_random(choices: Sequence[Choice], dataset: str) -> Choice | None:
    """Return what a random choice gives on a dataset or on average; None if it is not known."""
    return next((c for c in choices if c and c.proxy == RANDOM and c.dataset == dataset), None)


def _interval(choice: Choice) -> str:
    low, high = choice.regret.low, choice.regret.high
    return "" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]"


def _bound(spent: Cost) -> str:
    return "at least " if spent.unknown else ""
