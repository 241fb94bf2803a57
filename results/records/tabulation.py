"""The long table: the labelled scores of runs, and the runs without scores."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from results.records.descriptions import Description, Run
from results.records.labels import Identity, label
from results.records.places import by_first_path, repeats_of
from results.records.rows import MissingRun, Row
from results.records.unscored_labels import beside
from results.records.versions import Version, versions


@dataclasses.dataclass
class Tabulated:
    """What tables show of runs; the fields are those of ``Results``."""

    rows: list[Row] = dataclasses.field(default_factory=list)
    gaps: list[MissingRun] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)
    finished: int = 0
    versions: dict[str, Version] = dataclasses.field(default_factory=dict)


def tabulate(runs: Sequence[Run], outputs: Path | None, mean_over: Sequence[str]) -> Tabulated:
    """Return the long table of runs.

    Args:
        runs: the runs, in the order of the rows.
        outputs: the folder that shown paths are relative to; None shows whole paths.
        mean_over: keys whose values are averaged, in addition to the seed.

    Raises:
        ResultsError: if no dataset or protocol has a key of ``mean_over``.
    """
    identities = identities_of(runs, mean_over)
    table = Tabulated()
    judged = [
        (identities[id(run.description)].encoder_id, run)
        for run in runs
        if run.description.status == "finished" and run.description.protocol != "pretrain"
    ]
    table.versions = versions(judged)
    repeats = repeats_of(runs)
    for run in runs:
        identity = identities[id(run.description)]
        if run.description.status != "finished":
            gap = _gap(run, identity, outputs, run.description.status, run.reason)
            table.gaps.append(gap._replace(stage=run.stage))
            continue
        table.finished += 1
        if run.run_id in repeats:
            continue
        if run.faults or not run.metrics:
            table.gaps += _invalid(run, identity, outputs)
        encoder_id, encoder, protocol, dataset = identity
        faulty = {place for place, _ in run.faults}
        table.rows += [
            Row(encoder, encoder_id, protocol, dataset, run.seed or 0, one.metric, value, one.unit,
                one.higher_is_better, one.primary, one.split, run.run_id)
            for place, (one, value) in enumerate(zip(run.metrics, run.values, strict=True))
            if place not in faulty
        ]  # fmt: skip
    _part_mixed_units(table)
    _tell_invalid(table)
    if repeats:
        number = "1 run repeats" if len(repeats) == 1 else f"{len(repeats)} runs repeat"
        table.problems.append(
            f"left out: {number} a later one on the same data, which another path names."
        )
    return table


def identities_of(
    runs: Iterable[Run], mean_over: Sequence[str], apart: Sequence[str] = ()
) -> dict[int, Identity]:
    """Return the labels of runs by the ``id`` of their descriptions, which runs share.

    Runs without scores do not change the labels of others. The arguments are those of ``label``.
    """
    runs = list(runs)
    distinct = _distinct(runs)
    place = by_first_path(distinct)
    judged = [place[one] for one in _distinct([run for run in runs if run.metrics])]
    labels = label(judged, mean_over, apart) if judged else {}
    every = [place[one] for one in distinct]
    if len(labels) < len(set(every)):
        labels = beside(label(every, mean_over, apart), labels, apart)
    return {id(one): labels[place[one]] for one in distinct}


def _distinct(runs: Sequence[Run]) -> list[Description]:
    """Return descriptions from which the same labels follow as from those of all runs.

    The labels depend on the orders of first and of last runs, not on the number of runs.
    """
    first = {id(run.description): run.description for run in runs}
    last = {id(run.description): run.description for run in reversed(runs)}
    return [*first.values(), *reversed(last.values())]


def _gap(run: Run, identity: Identity, outputs: Path | None, kind: str, reason: str) -> MissingRun:
    place = run.folder if outputs is None else os.path.relpath(run.folder, outputs)
    _, encoder, protocol, dataset = identity
    return MissingRun(encoder, protocol, dataset, run.seed, kind, reason, place, run.run_id)


def _invalid(run: Run, identity: Identity, outputs: Path | None) -> list[MissingRun]:
    """Return the impossible scores of a finished run, or that it has none."""
    if not run.metrics and run.description.protocol == "pretrain":
        return []
    if not run.metrics:
        gap = _gap(run, identity, outputs, "invalid", "the record holds no score")
        return [gap._replace(primary=True)]
    return [
        _gap(run, identity, outputs, "invalid", fault)._replace(
            metric=run.metrics[place].metric, primary=run.metrics[place].primary
        )
        for place, fault in run.faults
    ]


def _part_mixed_units(table: Tabulated) -> None:
    """Move scores whose unit or direction differs from the first one in the cell to the gaps."""
    first: dict[tuple[str, ...], Row] = {}
    consistent = []
    for row in table.rows:
        reference = first.setdefault((row.encoder, row.protocol, row.dataset, row.metric), row)
        if (reference.unit, reference.higher_is_better) == (row.unit, row.higher_is_better):
            consistent.append(row)
            continue
        reason = f"`{row.metric}` has another unit or direction than in run {reference.run_id}"
        table.gaps.append(
            MissingRun(row.encoder, row.protocol, row.dataset, row.seed, "invalid", reason, "",
                       row.run_id, row.metric, row.primary)
        )  # fmt: skip
    table.rows = consistent


def _tell_invalid(table: Tabulated) -> None:
    """Add one problem per run with impossible scores."""
    reasons: dict[str, list[MissingRun]] = {}
    for gap in table.gaps:
        if gap.kind == "invalid":
            reasons.setdefault(gap.run_id, []).append(gap)
    for run_id, gaps in reasons.items():
        what = f"`{gaps[0].folder}/record.json`" if gaps[0].folder else f"run {run_id}"
        table.problems.append(
            f"{what}: {'; '.join(gap.reason for gap in gaps)}; left out of means and correlations."
        )
