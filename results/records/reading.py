"""Reading of records, and their long table with one row per run and metric."""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from results.errors import ResultsError, unknown
from results.records.encoder_facts import EncoderFacts, facts_of
from results.records.labels import identify, natural
from results.records.validity import impossible, require_valid
from results.records.versions import Version, complaint, versions

if TYPE_CHECKING:
    import pandas as pd


class Row(NamedTuple):
    """One score of one run; ``encoder``, ``protocol`` and ``dataset`` are unique short labels.

    ``value`` is a fraction in ``[0, 1]`` if ``unit`` is ``"fraction"``. ``dataset`` is empty for a
    score of the encoder itself, which has no downstream task.
    """

    encoder: str
    encoder_id: str
    protocol: str
    dataset: str
    seed: int
    metric: str
    value: float
    unit: str
    higher_is_better: bool
    primary: bool
    split: str
    run_id: str


class MissingRun(NamedTuple):
    """A run without scores (``kind``: ``failed``, ``not_applicable``, ``missing`` or ``required``).

    With ``kind`` ``invalid`` it is a single impossible score, with ``metric`` and ``primary`` set.
    """

    encoder: str
    protocol: str
    dataset: str
    seed: int | None
    kind: str
    reason: str
    folder: str
    run_id: str
    metric: str = ""
    primary: bool = False
    stage: str = ""
    """``check`` if the run was refused before its work, e.g. because its data do not exist."""


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
        documents: run id -> the whole record or failure.
        folders: run id -> the folder of the run's files; published tables have none.
        stated_facts: label of an encoder -> facts that a published table states.
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

    def keep(
        self,
        *,
        protocols: Iterable[str] = (),
        datasets: Iterable[str] = (),
        without: Iterable[str] = (),
    ) -> "Results":
        """Return only these protocols and datasets (empty: all), without some encoders.

        A name is a label, or the part of labels before their first space.

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
        labels = (getattr(entry, axis) for entry in (*self.rows, *self.gaps))
        return sorted({label for label in labels if label}, key=natural)

    def facts(self, encoder: str) -> EncoderFacts:
        """Return what is known about an encoder, from one record per protocol.

        Args:
            encoder: its label.
        """
        if encoder in self.stated_facts:
            return self.stated_facts[encoder]
        runs = {row.protocol: row.run_id for row in self.rows if row.encoder == encoder}
        own = (self.documents[run] for run in runs.values() if run in self.documents)
        return facts_of(own, self.documents)

    def _named(self, axis: str, names: Iterable[str]) -> set[str]:
        known, selected = self.known(axis), set()
        for name in names:
            matches = {name} & set(known) or {
                label for label in known if label.split(" ")[0] == name
            }
            if not matches:
                raise unknown(f"the {axis}", name, known)
            selected |= matches
        return selected


def frame(results: Results) -> "pd.DataFrame":
    """Return the long table as a data frame."""
    import pandas as pd  # slow to import, so only where it is needed

    return pd.DataFrame(results.rows, columns=list(Row._fields))


def read(outputs: Path, sweep: str | None = None, mean_over: Sequence[str] = ()) -> Results:
    """Read every record and failure below ``outputs``, or those of one sweep.

    Args:
        outputs: the folder that runs write to.
        sweep: ``latest``, a path, or a name below ``outputs/sweeps``; None reads everything.
        mean_over: keys of datasets or protocols, e.g. ``dataset.split``. Runs that differ only in
            these keys belong to one cell, like runs with different seeds.

    Returns:
        The results; ``problems`` names the unusable files.

    Raises:
        ResultsError: if there is no such folder, sweep or key.
    """
    if not outputs.is_dir():
        raise ResultsError(
            f"`--outputs` must be the folder that runs write to, but `{outputs}` is no folder; "
            f"start a run first, or name another one."
        )
    if sweep is None:
        folders, contents, where = list(all_folders(outputs)), None, None
    else:
        where, contents = find_sweep(outputs, sweep)
        folders = [outputs / place for place in contents["folders"]]
    documents, problems = _read_folders(folders)
    real = [pair for pair in documents if not (pair[1].get("config") or {}).get("debug")]
    if real and len(real) < len(documents):
        # Runs of two steps are no results, so they are shown only if there are no other runs.
        left_out = len(documents) - len(real)
        problems.append(f"left out: {left_out} runs with debug=true, which train for two steps.")
        documents = real
    results = _tabulate(documents, outputs, mean_over)
    problems += [*results.problems, *filter(None, [complaint(results.versions)])]
    results.problems, results.sweep = problems, where
    if contents is not None:
        _explain_missing(results, contents, {d["run_id"] for _, d in documents})
    return results


def find_sweep(outputs: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """Return a sweep's folder and the content of its ``sweep.json``.

    Raises:
        ResultsError: if there is no such sweep; the message lists the newest five.
    """
    known = sorted(path.parent.name for path in outputs.glob("sweeps/*/sweep.json"))
    if name == "latest" and known:
        name = known[-1]
    for folder in (outputs / "sweeps" / name, Path(name), Path(name).parent):
        if (folder / "sweep.json").is_file():
            return folder, _load_sweep(folder / "sweep.json")
    raise unknown("`--sweep`", name, ["latest", *reversed(known[-5:])] if known else [])


def _load_sweep(path: Path) -> dict[str, Any]:
    try:
        sweep = dict(json.loads(path.read_bytes()))
        lists, reasons = (sweep["runs"], sweep["folders"]), sweep.get("failures") or {}
        if len(lists[0]) != len(lists[1]):
            raise ValueError("the numbers of folders and runs differ")
        if not all(isinstance(item, str) for item in (*lists[0], *lists[1], *reasons.values())):
            raise ValueError("a run, folder or reason is not text")
        for place in sweep["folders"]:
            # A file must not make this process read outside of the outputs.
            if Path(place).is_absolute() or ".." in Path(place).parts:
                raise ValueError("it names a folder outside of the outputs")
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise ResultsError(
            f"`{path}` must list runs and folders, but is damaged ({error})."
        ) from error
    return sweep


def _read_folders(
    folders: Iterable[Path],
) -> tuple[list[tuple[Path, dict[str, Any]]], list[str]]:
    """Return the records and failures in these folders, and a sentence for each unusable file."""
    by_id: dict[str, tuple[Path, dict[str, Any]]] = {}
    problems = []
    for folder in folders:
        try:
            document = load_document(folder)
        except ResultsError as error:
            problems.append(str(error))
            continue
        if document is None:
            continue
        first, _ = by_id.setdefault(document["run_id"], (folder, document))
        if first != folder:
            problems.append(f"`{folder}` was skipped: `{first}` holds the same run.")
    return list(by_id.values()), problems


def all_folders(outputs: Path) -> Iterator[Path]:
    """Yield the folder of every run below an outputs folder, in alphabetical order."""
    for protocol in sorted(os.scandir(outputs), key=lambda entry: entry.name):
        if protocol.is_dir() and protocol.name != "sweeps":
            for run in sorted(os.scandir(protocol), key=lambda entry: entry.name):
                if run.is_dir():
                    yield Path(run)


def load_document(folder: Path) -> dict[str, Any] | None:
    """Return a folder's record, else its failure, else None.

    Raises:
        ResultsError: if the file is damaged or newer than this code.
    """
    for name in ("record.json", "failure.json"):
        path = folder / name
        try:
            document = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (ValueError, OSError, RecursionError) as error:
            raise ResultsError(f"`{path}` was skipped: it is damaged ({error}).") from error
        require_valid(document, path)
        return dict(document)
    return None


def _tabulate(
    documents: list[tuple[Path, dict[str, Any]]], outputs: Path, mean_over: Sequence[str]
) -> Results:
    results = Results([], mean_over=mean_over)
    results.documents = {document["run_id"]: document for _, document in documents}
    results.folders = {document["run_id"]: folder for folder, document in documents}
    names = identify([document for _, document in documents], mean_over)
    results.versions = versions(
        (name.encoder_id, document)
        for name, (_, document) in zip(names, documents, strict=True)
        if document.get("status") == "finished" and document["protocol"] != "pretrain"
    )
    for (folder, document), (encoder, label, protocol, dataset) in zip(
        documents, names, strict=True
    ):
        run_id, seed = document["run_id"], document.get("seed")
        place = os.path.relpath(folder, outputs)
        if document.get("status") == "finished":
            results.finished += 1
            if not document["scores"] and document["protocol"] != "pretrain":
                reason = "the record holds no score"
                results.gaps.append(
                    MissingRun(
                        label, protocol, dataset, seed, "invalid", reason, place, run_id, "", True
                    )
                )
            for score in document["scores"]:
                if (fault := impossible(score)) is None:
                    row = Row(label, encoder, protocol, dataset, seed or 0, *_score(score), run_id)
                    results.rows.append(row)
                else:
                    results.gaps.append(
                        MissingRun(label, protocol, dataset, seed, "invalid", fault, place, run_id,
                            score["metric"], score["primary"])
                    )  # fmt: skip
            continue
        kind = "failed" if "error" in document else "not_applicable"
        reason = document.get("error") or document.get("reason") or "no reason was recorded"
        gap = MissingRun(label, protocol, dataset, seed, kind, reason, place, run_id)
        results.gaps.append(gap._replace(stage=str(document.get("stage") or "")))
    _part_mixed_units(results)
    _tell_invalid(results)
    return results


def _part_mixed_units(results: Results) -> None:
    """Move scores whose unit or direction differs from the first one in the cell to the gaps."""
    first: dict[tuple[str, ...], Row] = {}
    consistent = []
    for row in results.rows:
        reference = first.setdefault((row.encoder, row.protocol, row.dataset, row.metric), row)
        if (reference.unit, reference.higher_is_better) == (row.unit, row.higher_is_better):
            consistent.append(row)
            continue
        reason = f"`{row.metric}` has another unit or direction than in run {reference.run_id}"
        results.gaps.append(
            MissingRun(row.encoder, row.protocol, row.dataset, row.seed, "invalid", reason, "",
                       row.run_id, row.metric, row.primary)
        )  # fmt: skip
    results.rows = consistent


def _tell_invalid(results: Results) -> None:
    """Add one problem per run with impossible scores."""
    reasons: dict[str, list[MissingRun]] = {}
    for gap in results.gaps:
        if gap.kind == "invalid":
            reasons.setdefault(gap.run_id, []).append(gap)
    for run_id, gaps in reasons.items():
        what = f"`{gaps[0].folder}/record.json`" if gaps[0].folder else f"run {run_id}"
        results.problems.append(
            f"{what}: {'; '.join(gap.reason for gap in gaps)}; left out of means and correlations."
        )


def _score(score: Mapping[str, Any]) -> tuple[str, float, str, bool, bool, str]:
    return (
        score["metric"],
        float(score["value"]),
        score["unit"],
        score["higher_is_better"],
        score["primary"],
        score.get("split") or "",
    )


def _explain_missing(results: Results, sweep: Mapping[str, Any], run_ids: set[str]) -> None:
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
