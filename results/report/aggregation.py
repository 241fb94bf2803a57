"""One run of Weights & Biases with the tables, correlations and the report of many runs."""

import csv
import dataclasses
import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from results.agreement.analysis import Analysis
from results.agreement.headline import HEADLINE
from results.errors import ResultsError
from results.records.reading import Results
from results.report.aggregates import Aggregate, aggregates_of, scores_of
from results.tables.printing import save


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the run goes.

    Args:
        project: the project of Weights & Biases.
        name: the run's name.
        folder: folder of the files of wandb.
        entity: the account or team (None: the account's default).
        mode: ``online`` or ``offline`` (None: what ``WANDB_MODE`` says).
    """

    project: str
    name: str
    folder: Path
    entity: str | None = None
    mode: str | None = None


def headline(analysis: Analysis | None) -> dict[str, Any]:
    """Return the numbers that the run's summary shows."""
    if analysis is None:
        return {}
    known = {one.proxy: one.coefficient.value for one in analysis.agreements if one.coefficient}
    numbers = {f"{HEADLINE}/{name}": value for name, value in known.items()}
    best = {} if analysis.best is None else {"best_proxy": analysis.best.proxy}
    return {"target": analysis.target.name, **best, **numbers}


def send(results: Results, analysis: Analysis | None, place: Place, report: Path | None) -> str:
    """Send tables, correlations, choices and the report to one run; return where it is.

    Args:
        results: the results.
        analysis: their analysis (None: there are no scores of a target).
        place: where the run goes.
        report: the HTML file of the report (None: there is none).

    Raises:
        ResultsError: in one sentence, if wandb is not installed or refuses.
    """
    wandb = _imported()
    contents = [scores_of(results), *(() if analysis is None else aggregates_of(analysis))]
    try:
        run = wandb.init(
            project=place.project,
            entity=place.entity,
            name=place.name,
            job_type="aggregation",
            mode=place.mode,
            dir=str(place.folder),
            # No user may be present to answer a prompt.
            settings=wandb.Settings(login_timeout=20, init_timeout=60, silent=True),
        )
        _fill(wandb, run, contents, headline(analysis), report)
        where = str(getattr(run, "url", None) or getattr(run, "dir", place.folder))
        run.finish()
    except Exception as error:  # wandb's errors have no common base class
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ResultsError(
            f"wandb must accept the run, but does not ({reason}); `wandb login` logs in, "
            "`--mode offline` needs no server."
        ) from error
    return where


def _imported() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise ResultsError(
            "wandb must be installed for this command, but is not; `pip install wandb`."
        ) from error
    return wandb


def _fill(
    wandb: Any,
    run: Any,
    contents: list[Aggregate],
    summary: Mapping[str, Any],
    report: Path | None,
) -> None:
    """Log each table, and the files of all of them and of the report as artifacts."""
    with tempfile.TemporaryDirectory() as folder:
        artifact = wandb.Artifact("results", type="results")
        for one in contents:
            save(Path(folder), one.name, one.tables, one.numbers)
            header, *rows = csv.reader(io.StringIO(one.numbers))
            run.log({one.name: wandb.Table(columns=header, data=rows)})
        artifact.add_dir(folder)
        run.log_artifact(artifact)
        if report is not None:
            page = wandb.Artifact("report", type="report")
            page.add_file(str(report), name="report.html")
            run.log_artifact(page)
        run.summary.update(dict(summary))
