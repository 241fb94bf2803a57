"""Records on disk, and the long table made of them: one row per run and metric."""

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from results.errors import ResultsError, unknown
from results.labels import identify, natural
from results.versions import Version, complaint, versions

if TYPE_CHECKING:
    import pandas as pd

KNOWN_SCHEMA = 1


class Row(NamedTuple):
    """One score of one run; ``encoder``, ``protocol`` and ``dataset`` are unique short labels.

    ``value`` is a fraction in ``[0, 1]`` where ``unit`` is ``"fraction"``. ``dataset`` is empty
    for a score of the encoder itself, which belongs to no downstream task.
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


class Gap(NamedTuple):
    """A run without scores: ``kind`` is ``failed``, ``not_applicable`` or ``missing``."""

    encoder: str
    protocol: str
    dataset: str
    seed: int | None
    kind: str
    reason: str
    folder: str
    run_id: str


@dataclasses.dataclass
class Results:
    """All scores and gaps that were found.

    Args:
        rows: the long table.
        gaps: runs that have no scores, and why.
        problems: one sentence per file that could not be used.
        finished: number of finished runs, pre-trainings among them.
        sweep: the folder of the sweep that was asked for, if any.
        mean_over: keys besides the seed whose values are averaged.
        versions: by run's id, which data and weights its scores belong to.
    """

    rows: list[Row]
    gaps: list[Gap] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)
    finished: int = 0
    sweep: Path | None = None
    mean_over: Sequence[str] = ()
    versions: Mapping[str, Version] = dataclasses.field(default_factory=dict)

    def keep(
        self,
        *,
        protocols: Iterable[str] = (),
        datasets: Iterable[str] = (),
        without: Iterable[str] = (),
    ) -> "Results":
        """Return only these protocols and datasets (empty: all), without some encoders.

        Names are labels, or what several labels begin with before their first space.

        Raises:
            ResultsError: if a name is unknown, listing those that are known.
        """
        chosen = {
            "protocol": self._named("protocol", protocols),
            "dataset": self._named("dataset", datasets),
        }
        dropped = self._named("encoder", without)

        def kept(one: Row | Gap) -> bool:
            inside = all(
                not names or getattr(one, axis) in names | {""} for axis, names in chosen.items()
            )
            return inside and one.encoder not in dropped

        rows, gaps = [r for r in self.rows if kept(r)], [g for g in self.gaps if kept(g)]
        return dataclasses.replace(self, rows=rows, gaps=gaps)

    def known(self, axis: str) -> list[str]:
        """Return the labels that occur on an axis, in natural order."""
        labels = (getattr(one, axis) for one in (*self.rows, *self.gaps))
        return sorted({label for label in labels if label}, key=natural)

    def _named(self, axis: str, names: Iterable[str]) -> set[str]:
        known, found = self.known(axis), set()
        for name in names:
            matches = {name} & set(known) or {one for one in known if one.split(" ")[0] == name}
            if not matches:
                raise unknown(f"the {axis}", name, known)
            found |= matches
        return found


def frame(results: Results) -> "pd.DataFrame":
    """Return the long table as a data frame."""
    import pandas as pd  # takes longer to import than everything else here takes to run

    return pd.DataFrame(results.rows, columns=list(Row._fields))


def read(outputs: Path, sweep: str | None = None, mean_over: Sequence[str] = ()) -> Results:
    """Read every record and failure below ``outputs``, or those of one sweep.

    Args:
        outputs: the folder that runs write to.
        sweep: ``latest``, a path, or a name below ``outputs/sweeps``; None reads everything.
        mean_over: keys of datasets or protocols, e.g. ``dataset.split``: runs that differ in
            nothing else count as runs of one cell, as runs with different seeds do.

    Returns:
        What could be read; files that could not are named in ``problems``.

    Raises:
        ResultsError: if there is no such folder, sweep or key.
    """
    if not outputs.is_dir():
        raise ResultsError(
            f"`--outputs` must be the folder that runs write to, but `{outputs}` is no folder; "
            f"start a run first, or name another one."
        )
    if sweep is None:
        folders, asked, where = list(_all_folders(outputs)), None, None
    else:
        where, asked = find_sweep(outputs, sweep)
        folders = [outputs / place for place in asked["folders"]]
    found, problems = [], []
    for folder in folders:
        try:
            found.append((folder, _load(folder)))
        except ResultsError as error:
            problems.append(str(error))
    documents = [(folder, document) for folder, document in found if document is not None]
    real = [one for one in documents if not (one[1].get("config") or {}).get("debug")]
    if real and len(real) < len(documents):
        # Two steps of training are no result; alone they are what somebody wants to look at.
        left_out = len(documents) - len(real)
        problems.append(f"left out: {left_out} runs with debug=true, which train for two steps.")
        documents = real
    results = _tabulate(documents, outputs, mean_over)
    problems += filter(None, [complaint(results.versions)])
    results.problems, results.sweep = problems, where
    if asked is not None:
        _explain_missing(results, asked, {d["run_id"] for _, d in documents})
    return results


def find_sweep(outputs: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """Return a sweep's folder and what its ``sweep.json`` says.

    Raises:
        ResultsError: if there is none, listing the newest five.
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
        if len(sweep["runs"]) != len(sweep["folders"]):
            raise ValueError("it names as many folders as runs")
        for place in sweep["folders"]:
            # Nothing is read elsewhere because a file says so.
            if Path(place).is_absolute() or ".." in Path(place).parts:
                raise ValueError("it names a folder outside of the outputs")
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ResultsError(
            f"`{path}` must list runs and folders, but is damaged ({error})."
        ) from error
    return sweep


def _all_folders(outputs: Path) -> Iterator[Path]:
    for protocol in sorted(os.scandir(outputs), key=lambda entry: entry.name):
        if protocol.is_dir() and protocol.name != "sweeps":
            for run in sorted(os.scandir(protocol), key=lambda entry: entry.name):
                if run.is_dir():
                    yield Path(run)


_REQUIRED: dict[str, dict[str, type]] = {
    "record.json": {"run_id": str, "status": str, "encoder": dict, "config": dict, "scores": list},
    "failure.json": {"run_id": str, "error": str},
}
_REQUIRED_IN_BOTH = {"model": str, "method": str, "protocol": str}
_REQUIRED_IN_SCORE = {"metric": str, "unit": str, "higher_is_better": bool, "primary": bool}


def _load(folder: Path) -> dict[str, Any] | None:
    """Return a folder's record, else its failure, else None.

    Raises:
        ResultsError: if the file is damaged or newer than this code.
    """
    for name, required in _REQUIRED.items():
        path = folder / name
        try:
            document = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (ValueError, OSError) as error:
            raise ResultsError(f"`{path}` was skipped: it is damaged ({error}).") from error
        _check(document, required, path)
        return dict(document)
    return None


def _check(document: Any, required: Mapping[str, type], path: Path) -> None:
    schema = document.get("schema") if isinstance(document, dict) else None
    if isinstance(schema, int) and schema > KNOWN_SCHEMA:
        raise ResultsError(
            f"`{path}` was skipped: it has schema {schema}, but this version reads up to "
            f"{KNOWN_SCHEMA}; update the project to read it."
        )
    wrong = _wrong_keys(document, {"schema": int, **required, **_REQUIRED_IN_BOTH})
    for score in () if wrong else document.get("scores", ()):
        wrong += _wrong_keys(score, _REQUIRED_IN_SCORE)
    if wrong:
        raise ResultsError(
            f"`{path}` was skipped: it is damaged (no valid {', '.join(map(repr, wrong))})."
        )


def _wrong_keys(node: Any, required: Mapping[str, type]) -> list[str]:
    if not isinstance(node, dict):
        return ["JSON object"]
    return [key for key, kind in required.items() if not isinstance(node.get(key), kind)]


def _tabulate(
    documents: list[tuple[Path, dict[str, Any]]], outputs: Path, mean_over: Sequence[str]
) -> Results:
    results = Results([], mean_over=mean_over)
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
        if document.get("status") == "finished":
            results.finished += 1
            results.rows += [
                Row(label, encoder, protocol, dataset, seed or 0, *_score(score), run_id)
                for score in document["scores"]
                if isinstance(score.get("value"), int | float) and math.isfinite(score["value"])
            ]
            continue
        kind = "failed" if "error" in document else "not_applicable"
        reason = document.get("error") or document.get("reason") or "no reason was recorded"
        place = os.path.relpath(folder, outputs)
        results.gaps.append(Gap(label, protocol, dataset, seed, kind, reason, place, run_id))
    return results


def _score(score: Mapping[str, Any]) -> tuple[str, float, str, bool, bool, str]:
    return (
        score["metric"],
        float(score["value"]),
        score["unit"],
        score["higher_is_better"],
        score["primary"],
        score.get("split") or "",
    )


def _explain_missing(results: Results, sweep: Mapping[str, Any], found: set[str]) -> None:
    """Add a gap for each run of a sweep that left nothing, and for failed ones it required."""
    why = sweep.get("failures") or {}
    for run_id, place in zip(sweep["runs"], sweep["folders"], strict=True):
        if run_id not in found:
            reason = why.get(run_id, "there is no record: it was not started, or was interrupted")
            protocol = place.split("/")[0]
            results.gaps.append(Gap("", protocol, "", None, "missing", reason, place, run_id))
    for run_id in why:
        if run_id not in found and run_id not in sweep["runs"]:
            gap = Gap("", "pretrain", "", None, "required", why[run_id], "", run_id)
            results.gaps.append(gap)
