"""The commands that run the target for a proxy's best encoders only, and the answer of those done.

In practice every encoder has the cheap score and few or none the expensive one. The commands are
built from the records of the cheap scores, so that they mean the same encoders.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from results.agreement.baselines import STATIC_RANK, proxy_scores
from results.agreement.run_commands import PLAIN, commands_for, stated_overrides
from results.agreement.scores import Scores, scores
from results.agreement.specs import NoVariant, chosen, keys_of, target_spec
from results.errors import ResultsError
from results.records.cells import Cell, Cells, cells, choose
from results.records.labels import natural
from results.records.reading import Results
from results.statistics.selection import ROUNDING


@dataclasses.dataclass(frozen=True)
class Next:
    """What to run next on one dataset according to one proxy.

    Args:
        dataset: the dataset.
        proxy: the proxy's name.
        target: the target's name.
        ranked: the proxy's best encoders, the best first.
        scores: target score of those that are finished, in the target's unit.
        commands: what runs the target for the others.
        notes: sentences about encoders that are passed over, ties, and assumptions.
    """

    dataset: str
    proxy: str
    target: str
    ranked: tuple[str, ...]
    scores: Mapping[str, str]
    commands: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """Yield what a terminal shows: comments begin with ``#``."""
        first = "best" if len(self.ranked) == 1 else f"{len(self.ranked)} best"
        yield f"# {self.dataset}: the {first} by {self.proxy}: {', '.join(self.ranked)}"
        for note in self.notes:
            yield f"# {note}"
        done = [f"{encoder} {score}" for encoder, score in self.scores.items()]
        if done and self.commands:
            yield f"# {self.target} is finished for: {', '.join(done)}"
        elif done:
            yield f"# {self.target} is finished for all of them; the best is {done[0]}" + (
                f", then {', '.join(done[1:])}" if done[1:] else ""
            )
        yield from self.commands


def next_runs(results: Results, proxies: Sequence[str], target: str, k: int) -> list[Next]:
    """Return what to run next for each proxy and dataset.

    Args:
        results: the results; they need no record of the target.
        proxies: protocols or baselines.
        target: the protocol to run, ``PROTOCOL[:METRIC]``.
        k: number of encoders per dataset.

    Raises:
        ResultsError: for an unknown proxy, and for results without records.
    """
    target = target_spec(target, proxies)
    if not results.documents:
        raise ResultsError("`--next` needs the records of runs, but published tables have none.")
    aim = _Target.of(results, target)
    found = []
    for name in dict.fromkeys(proxies):
        proxy = proxy_scores(results, name, aim.scores)
        if name == STATIC_RANK and not aim.cells:
            raise ResultsError(f"`{name}` needs scores of `{target}` on other datasets.")
        if proxy.undefined:
            raise ResultsError(f"{proxy.undefined}; choose another proxy.")
        known = chosen(results, name).results if keys_of(name) else results
        own = [dataset for dataset in proxy.raw if dataset]
        datasets = own or results.scored("dataset")
        for dataset in sorted(datasets, key=natural):
            found.append(_next(known, proxy, aim, dataset, k, keys_of(name)))
    return found


@dataclasses.dataclass(frozen=True)
class _Target:
    """The target as far as it has been run.

    Args:
        spec: the user's name for it.
        cells: its cells; empty if it was never run.
        scores: its scores, or equal ones of all encoders if it was never run.
        overrides: dataset -> overrides of its protocol there; ``""`` for other datasets.
        seeds: the seeds of its runs.
    """

    spec: str
    cells: Cells
    scores: Scores
    overrides: Mapping[str, Sequence[str]]
    seeds: Sequence[int]

    @classmethod
    def of(cls, results: Results, spec: str) -> "_Target":
        name = spec.partition("@")[0].partition(":")[0]
        if not any(row.protocol.split(" ")[0] == name.split(" ")[0] for row in results.rows):
            return cls._never_run(results, spec, name)
        protocol, metric = choose(results, spec.partition("@")[0])
        overrides: dict[str, Sequence[str]] = {}
        rows = [row for row in results.rows if row.protocol == protocol]
        for row in rows:
            if stated := stated_overrides(results.documents.get(row.run_id), "protocol"):
                overrides[row.dataset] = stated
                overrides.setdefault("", stated)
        overrides.setdefault("", [f"protocol={name.split(' ')[0]}"])
        seeds = sorted({row.seed for row in rows})
        try:
            own = cells(chosen(results, spec).results, protocol, metric)
        except NoVariant:  # it was run on other variants of the datasets only
            return cls(spec, {}, _equal(results, spec), overrides, seeds)
        return cls(spec, own, scores(results, spec), overrides, seeds)

    @classmethod
    def _never_run(cls, results: Results, spec: str, name: str) -> "_Target":
        if not PLAIN.fullmatch(name):
            raise ResultsError(
                f"`--target` must be the name of a protocol, but is `{spec}`, which was never run."
            )
        return cls(spec, {}, _equal(results, spec), {"": [f"protocol={name}"]}, [])


def _equal(results: Results, spec: str) -> Scores:
    """Return equal scores of all encoders on all datasets, for a target that was never run."""
    equal: dict[str, dict[str, float]] = {}
    for row in results.rows:
        equal.setdefault(row.dataset, {})[row.encoder] = 0.0
    return Scores(spec, equal, equal)


def _next(
    results: Results,
    proxy: Scores,
    target: _Target,
    dataset: str,
    k: int,
    left_out: Sequence[str],
) -> Next:
    """Return what to run next on one dataset, without the keys of datasets that the proxy names."""
    values = proxy.on(dataset)[0]
    ordered = sorted(values, key=lambda encoder: (-values[encoder], natural(encoder)))
    cell_of = {encoder: target.cells.get((encoder, dataset), Cell()) for encoder in ordered}
    passed = [e for e in ordered if cell_of[e].not_applicable and not cell_of[e].values]
    ranked = [encoder for encoder in ordered if encoder not in passed][:k]
    notes = [f"{target.spec} is not applicable to {encoder}" for encoder in passed]
    notes += _ties(values, ordered, ranked)
    finished = [encoder for encoder in ranked if cell_of[encoder].values]
    missing = [encoder for encoder in ranked if encoder not in finished]
    sign = -1.0 if target.scores.negated else 1.0
    finished.sort(key=lambda encoder: (-sign * cell_of[encoder].mean, natural(encoder)))
    failed = [encoder for encoder in missing if cell_of[encoder].failed]
    protocol = target.overrides.get(dataset, target.overrides[""])
    commands, remarks = commands_for(
        results,
        missing,
        dataset,
        proxy=proxy.name,
        protocol=protocol,
        seeds=target.seeds,
        failed=failed,
        without=left_out,
    )
    return Next(
        dataset,
        proxy.name,
        target.spec,
        tuple(ranked),
        {encoder: _shown(cell_of[encoder]) for encoder in finished},
        tuple(commands),
        (*notes, *remarks),
    )


def _ties(values: Mapping[str, float], ordered: Sequence[str], ranked: Sequence[str]) -> list[str]:
    """Return a note if encoders outside are as good by the proxy as the last one inside."""
    if not ranked:
        return []
    last = values[ranked[-1]]
    equal = [
        e for e in ordered if e not in ranked and abs(values[e] - last) <= ROUNDING * abs(last)
    ]
    return [f"as good by the proxy as {ranked[-1]}: {', '.join(equal)}"] if equal else []


def _shown(cell: Cell) -> str:
    percent = cell.row is not None and cell.row.unit == "fraction"
    return f"{100 * cell.mean:.2f}" if percent else f"{cell.mean:.4g}"
