"""The first section of a report: the sentences that answer its question."""

from collections.abc import Iterator

from results.agreement.analysis import Analysis
from results.agreement.baselines import STATIC_RANK
from results.agreement.choosing import MEAN, Choice, random_choice, verdict
from results.agreement.headline import Agreement
from results.agreement.ranks import OVERALL
from results.report import answer, losses
from results.statistics.intervals import FEWEST

COEFFICIENT = "Spearman's ρ"
"""The name of ``headline.HEADLINE`` in sentences."""
FEW_DATASETS = 3
"""Number of datasets up to which the answer names the best encoder of each."""


def lead(analysis: Analysis) -> str:
    """Return the sentence that answers the question."""
    target, encoders, best = analysis.target.name, len(analysis.encoders), analysis.best
    if not analysis.proxies:
        return f"There is no proxy to compare with {answer.name(target)}."
    if best is None:
        return answer.too_few(encoders, FEWEST)
    kind = "baseline" if best.proxy in analysis.baselines else "proxy"
    others = len(_known(analysis, baselines=kind == "baseline")) - 1
    return answer.best_proxy(best, target, encoders, others, COEFFICIENT, kind=kind)


def basis(analysis: Analysis) -> str:
    """Return how many encoders, datasets and proxies the answer rests on."""
    proxies = len(analysis.proxies) - len(analysis.baselines)
    target, encoders = analysis.target.name, len(analysis.encoders)
    return answer.basis(target, encoders, analysis.datasets, proxies, len(analysis.baselines))


def agreement(analysis: Analysis) -> Iterator[str]:
    """Yield what qualifies the answer: other proxies, baselines, and the choice of the best."""
    best, encoders = analysis.best, len(analysis.encoders)
    if best is None:
        return
    proxies, baselines = _known(analysis, baselines=False), _known(analysis, baselines=True)
    for group, kind in ((proxies, ""), (baselines, "baseline" if proxies else "")):
        if kind and (text := answer.baselines(group, COEFFICIENT)):
            yield text
        differences = {
            one.proxy: analysis.advantages[one.proxy] for one in group if one.proxy != best.proxy
        }
        yield from answer.comparison(best.proxy, differences, encoders, kind)
    if text := answer.optimism(len(proxies)):
        yield text
    yield answer.ceiling(analysis.ceiling, analysis.target.name, COEFFICIENT)
    compared = {one.proxy for one in proxies} | {best.proxy}
    for by, influences in analysis.influences.items():
        rivals = [one for one in influences if one.proxy in compared]
        if text := answer.influence(best.proxy, rivals, by):
            yield text


def best_encoders(analysis: Analysis) -> Iterator[str]:
    """Yield the best encoder over all datasets, and of each dataset if there are few."""
    rankings = sorted(analysis.ranks, key=lambda ranking: ranking.dataset != OVERALL)
    for ranking in rankings if len(rankings) <= FEW_DATASETS else rankings[:1]:
        if text := answer.best_encoder(ranking, analysis.target.name):
            yield text


def choosing(analysis: Analysis) -> Iterator[str]:
    """Yield what choosing by the best proxy loses, which encoders it misses, and what it costs."""
    if analysis.best is None:
        return
    proxy, target = analysis.best.proxy, analysis.target.name
    own = [choice for choice in analysis.choices if choice.proxy == proxy]
    per_dataset = [choice for choice in own if choice.dataset != MEAN]
    whole: Choice = own[-1]  # the mean over datasets is the last one
    random = losses.of_random(analysis.choices, whole.dataset)
    missed = [miss for choice in per_dataset for miss in choice.misses]
    yield from filter(
        None,
        [
            losses.loss(whole, per_dataset, random),
            losses.hits(per_dataset),
            *_verdicts(analysis, proxy),
            losses.misses(proxy, missed, target) if any(per_dataset) else None,
            losses.cost(proxy, analysis.costs.get(proxy), target, analysis.costs.get(target)),
        ],
    )


def _verdicts(analysis: Analysis, proxy: str) -> Iterator[str | None]:
    """Yield what a random choice and the static rank lose beside a proxy, unless it is better."""
    by_name = {one.name: one for one in analysis.proxies}
    for reference in (random_choice(analysis.target), by_name.get(STATIC_RANK)):
        if reference is not None and reference.name != proxy:
            text = verdict(analysis.target, by_name[proxy], reference)
            yield text and text.replace("the regret", "The regret", 1)


def _known(analysis: Analysis, *, baselines: bool) -> list[Agreement]:
    """Return the agreements of the baselines, or of the other proxies, that have a coefficient."""
    return [
        one
        for one in analysis.agreements
        if one.coefficient and (one.proxy in analysis.baselines) == baselines
    ]
