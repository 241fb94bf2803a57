"""The tables that stand for the results of many runs: scores, correlations, and choices."""

import dataclasses
from collections.abc import Iterator

from results.agreement.analysis import Analysis
from results.agreement.choice_tables import to_csv_long as choices_csv
from results.agreement.choice_tables import to_tables
from results.agreement.choosing import FAR
from results.agreement.correlation_tables import to_csv_long, to_one_table
from results.records.reading import Results
from results.tables.rendering import Table
from results.tables.wide import wide, wide_csv, without_refused


@dataclasses.dataclass(frozen=True)
class Aggregate:
    """A group of tables under one name.

    Args:
        name: ``table``, ``correlations`` or ``choices``.
        tables: tables of texts.
        numbers: their numbers as CSV.
    """

    name: str
    tables: list[Table]
    numbers: str


def scores_of(results: Results) -> Aggregate:
    """Return the tables of all scores."""
    results, _ = without_refused(results)
    return Aggregate("table", wide(results), wide_csv(results))


def aggregates_of(analysis: Analysis) -> Iterator[Aggregate]:
    """Yield the correlations and choices of an analysis."""
    correlations, choices = analysis.correlations, analysis.choices
    yield Aggregate("correlations", [to_one_table(correlations)], to_csv_long(correlations))
    yield Aggregate("choices", to_tables(choices, FAR), choices_csv(choices, analysis.costs))
