"""Reading of records, and their long table with one row per run and metric."""

import contextlib
import dataclasses
import gc
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from results.errors import ResultsError, unknown
from results.records.descriptions import Run, hyperparameter
from results.records.differences import fits, natural
from results.records.encoder_facts import EncoderFacts, facts_of
from results.records.rows import MissingRun, Row
from results.records.store import (
    Documents,
    Files,
    Folders,
    all_folders,
    load_document,
    merged,
    read_runs,
)
from results.records.sweeps import find_sweep
from results.records.tabulation import tabulate
from results.records.versions import Version, complaint

__all__ = [
    "MissingRun", "Results", "Row", "all_folders", "find_sweep", "load_document", "read"
]  # fmt: skip


@dataclasses.dataclass
class Results:
    """All scores, and the runs without scores.

    Args:
        rows: the long table.
        gaps: runs without scores, and why.
        problems: one sentence per unusable file.
        finished: number of finished runs, including pre-trainings.
        sweep: the folder of the requested sweep, if any.
        mean_over: keys, in addition to the seed, whose values are averaged.
        versions: run id -> the data and weights that its scores belong to.
        documents: run id -> the whole record or failure, which is read when it is asked for.
        folders: run id -> the folder of the run's files; published tables have none.
        stated_facts: label of an encoder -> facts that a published table states.
        runs: run id -> what the table knows of the run beside its scores.
    """

    rows: list[Row]
    gaps: list[MissingRun] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)
    finished: int = 0
    sweep: Path | None = None
    mean_over: Sequence[str] = ()
    versions: Mapping[str, Version] = dataclasses.field(default_factory=dict)
    documents: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    folders: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    stated_facts: Mapping[str, EncoderFacts] = dataclasses.field(default_factory=dict)
    runs: Mapping[str, Run] = dataclasses.field(default_factory=dict)

    def keep(
        self,
        *,
        protocols: Iterable[str] = (),
        datasets: Iterable[str] = (),
        without: Iterable[str] = (),
    ) -> "Results":
        """Return only these protocols and datasets (empty: all), without some encoders.

        A name is a label, or the part of labels before their first space with some or none of
        their ``key=value`` pairs.

        Raises:
            ResultsError: if a name is unknown; the message lists the known ones.
        """
        chosen = {
            "protocol": self._named("protocol", protocols),
            "dataset": self._named("dataset", datasets),
        }
        dropped = self._named("encoder", without)

        def kept(entry: Row | MissingRun) -> bool:
            inside = all(
                not names or getattr(entry, axis) in names | {""} for axis, names in chosen.items()
            )
            return inside and entry.encoder not in dropped

        rows, gaps = [r for r in self.rows if kept(r)], [g for g in self.gaps if kept(g)]
        return dataclasses.replace(self, rows=rows, gaps=gaps)

    def known(self, axis: str) -> list[str]:
        """Return the labels that occur on an axis, in natural order."""
        return sorted(self._labels(axis, self.rows) | self._labels(axis, self.gaps), key=natural)

    def scored(self, axis: str) -> list[str]:
        """Return the labels of runs with scores on an axis, in natural order."""
        return sorted(self._labels(axis, self.rows), key=natural)

    def matching(self, axis: str, name: str) -> list[str]:
        """Return the labels of runs with scores that a name selects, in natural order."""
        known = self.scored(axis)
        return [name] if name in known else [label for label in known if fits(label, name)]

    def facts(self, encoder: str) -> EncoderFacts:
        """Return what is known about an encoder, from one record per protocol.

        Args:
            encoder: its label.
        """
        return self.facts_by_encoder([encoder])[encoder]

    def facts_by_encoder(self, encoders: Iterable[str]) -> dict[str, EncoderFacts]:
        """Return label of an encoder -> ``facts``, in one pass over the rows."""
        runs: dict[str, dict[str, str]] = {encoder: {} for encoder in encoders}
        for row in self.rows:
            if row.encoder in runs:
                runs[row.encoder][row.protocol] = row.run_id
        documents = self.documents
        return {
            encoder: self.stated_facts.get(encoder)
            or facts_of((documents[run] for run in own.values() if run in documents), documents)
            for encoder, own in runs.items()
        }

    def hyperparameter(self, run_id: str, key: str) -> Any:
        """Return a run's hyper-parameter, such as ``protocol.epochs``.

        It is None if the run does not have it, or if nothing is known of the run, as of one in a
        published table.
        """
        run = self.runs.get(run_id)
        return None if run is None else hyperparameter(run.description, key)

    def _named(self, axis: str, names: Iterable[str]) -> set[str]:
        names = list(names)
        selected: set[str] = set()
        without_scores = set(self.known(axis)).difference(self.scored(axis)) if names else set()
        for name in names:
            matches = {label for label in without_scores if fits(label, name)}
            matches.update(self.matching(axis, name))
            if not matches:
                raise unknown(f"the {axis}", name, self.known(axis))
            selected |= matches
        return selected

    @staticmethod
    def _labels(axis: str, entries: Iterable[Row | MissingRun]) -> set[str]:
        return {label for entry in entries if (label := getattr(entry, axis))}


def read(
    outputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    sweep: str | None = None,
    mean_over: Sequence[str] = (),
    files: Mapping[Path, Files] | None = None,
) -> Results:
    """Read every record and failure below one or more outputs folders, or those of one sweep.

    Args:
        outputs: the folder that runs write to, or several of them.
        sweep: ``latest``, a path, or a name below ``outputs/sweeps``; None reads everything.
        mean_over: keys of datasets or protocols, e.g. ``dataset.split``. Runs that differ only in
            these keys belong to one cell, like runs with different seeds.
        files: what ``stamps_of`` returned for each folder a moment ago, which saves asking again.

    Returns:
        The results; ``problems`` names the unusable files.

    Raises:
        ResultsError: if there is no such folder, sweep or key.
    """
    with _without_collection():
        return _read(folders_of(outputs), sweep, mean_over, files or {})


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Pause the search for reference cycles, which takes long among many new tuples."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read(
    folders: Sequence[Path],
    sweep: str | None,
    mean_over: Sequence[str],
    files: Mapping[Path, Files],
) -> Results:
    contents, where = None, None
    if sweep is not None:
        if len(folders) > 1:
            raise ResultsError(
                f"a sweep lies in one folder, but `--outputs` names {len(folders)}; name only the "
                "one with the sweep."
            )
        where, contents = find_sweep(folders[0], sweep)
    places = contents and contents["folders"]
    read_ones = [read_runs(one, places, files.get(one)) for one in folders]
    problems = [problem for _, some in read_ones for problem in some]
    runs, contradictions = merged(run for some, _ in read_ones for run in some)
    problems += contradictions
    real = [run for run in runs if not run.description.trial]
    if real and len(real) < len(runs):
        # Runs of two steps are no results, so they are shown only if there are no other runs.
        left_out = len(runs) - len(real)
        problems.append(f"left out: {left_out} runs with debug=true, which train for two steps.")
        runs = real
    table = tabulate(runs, folders[0] if len(folders) == 1 else None, mean_over)
    problems += [*table.problems, *filter(None, [complaint(table.versions)])]
    own = {run.run_id: run for run in runs}
    results = Results(
        table.rows,
        table.gaps,
        problems,
        table.finished,
        where,
        mean_over,
        table.versions,
        documents=Documents(own),
        folders=Folders(own),
        runs=own,
    )
    if contents is not None:
        _explain_missing(results, contents, own.keys())
    return results


def folders_of(
    outputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> list[Path]:
    """Return different outputs folders as paths.

    Raises:
        ResultsError: if one of them is no folder.
    """
    several = [outputs] if isinstance(outputs, str | os.PathLike) else outputs
    folders = list(dict.fromkeys(Path(one) for one in several))
    for folder in folders:
        if not folder.is_dir():
            raise ResultsError(
                f"`--outputs` must be the folder that runs write to, but `{folder}` is no folder; "
                f"start a run first, or name another one."
            )
    return folders


def _explain_missing(results: Results, sweep: Mapping[str, Any], run_ids: Collection[str]) -> None:
    """Add a gap for each run of a sweep without files, and for failed runs that it required."""
    why = sweep.get("failures") or {}
    for run_id, place in zip(sweep["runs"], sweep["folders"], strict=True):
        if run_id not in run_ids:
            reason = why.get(run_id, "there is no record: it was not started, or was interrupted")
            protocol = place.split("/")[0]
            results.gaps.append(
                MissingRun("", protocol, "", None, "missing", reason, place, run_id)
            )
    for run_id in why:
        if run_id not in run_ids and run_id not in sweep["runs"]:
            gap = MissingRun("", "pretrain", "", None, "required", why[run_id], "", run_id)
            results.gaps.append(gap)
