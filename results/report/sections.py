"""The sections of a report in the order of the page: each is made from an analysis alone."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from results.agreement.analysis import Analysis
from results.figures.drawing import NotDrawn
from results.figures.label_efficiency import efficiencies
from results.report import answer, answer_section, html, tables
from results.report.drawings import drawn
from results.report.provenance import provenance, sentences, to_table


@dataclasses.dataclass(frozen=True)
class Request:
    """What a report shows besides its analysis.

    Args:
        sources: sentences that say where the numbers are read from.
        command: the command that made the report.
        highlight: the encoder that is highlighted first; empty for none.
        maps: whether t-SNE maps are shown.
    """

    sources: Sequence[str] = ()
    command: str = "python -m results report"
    highlight: str = ""
    maps: bool = False


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of the page: its anchor, its heading, and its parts as HTML."""

    name: str
    title: str
    parts: Sequence[str]

    @property
    def body(self) -> str:
        """The parts together; a reason that two figures share is said once."""
        return "\n".join(filter(None, dict.fromkeys(self.parts)))


def sections(analysis: Analysis, request: Request) -> list[Section]:
    """Return the sections of a report that have content."""
    made = [
        Section(name, title, [part for make in makers for part in make(analysis, request)])
        for name, title, makers in ORDER
    ]
    return [section for section in made if section.body]


Parts = Iterator[str]


def _answer(analysis: Analysis, request: Request) -> Parts:
    yield html.paragraphs([answer_section.lead(analysis)], "lead")
    yield html.paragraphs([answer_section.basis(analysis)])
    for title, make in (
        ("How surely", answer_section.agreement),
        ("What choosing by it loses", answer_section.choosing),
        ("Which encoder is best", answer_section.best_encoders),
    ):
        if texts := list(make(analysis)):
            yield f"<h3>{title}</h3>"
            yield html.bullets(texts)


def figure(name: str) -> "Make":
    """Return what yields a figure of the catalogue, or the reason why it is not drawn."""

    def make(analysis: Analysis, request: Request) -> Parts:
        try:
            parts = list(drawn(name, analysis))
        except NotDrawn as reason:
            yield html.paragraphs([f"No figure: {reason}"])
            return
        for place, drawing in enumerate(parts):
            yield html.figure(drawing, f"figure-{name}-{place}")

    return make


def _label_efficiency(analysis: Analysis, request: Request) -> Parts:
    if efficiencies(analysis.results):
        yield from figure("label_efficiency")(analysis, request)


def _maps(analysis: Analysis, request: Request) -> Parts:
    if request.maps:
        yield from figure("maps")(analysis, request)


def _correlations(analysis: Analysis, request: Request) -> Parts:
    if analysis.correlations:
        yield html.table(tables.correlation_table(analysis), "correlation-table")


def _ranks(analysis: Analysis, request: Request) -> Parts:
    if analysis.ranks:
        yield html.table(tables.rank_table(analysis.ranks), "rank-table", of_encoders=True)


def _choices(analysis: Analysis, request: Request) -> Parts:
    if analysis.proxies:
        for place, content in enumerate(tables.choice_tables(analysis)):
            yield html.table(content, f"choices-{place}")


def _scores(analysis: Analysis, request: Request) -> Parts:
    for place, content in enumerate(tables.score_tables(analysis)):
        yield html.table(content, f"scores-{place}", of_encoders=True)


def _missing(analysis: Analysis, request: Request) -> Parts:
    """Yield failed, missing, invalid and outdated cells with their reasons."""
    results = analysis.results
    gaps, outdated = tables.gap_table(results.gaps), tables.outdated_table(analysis)
    if not (gaps.rows or outdated.rows or results.problems):
        yield html.paragraphs(["Every run has a score, which belongs to the latest data."])
    if gaps.rows:
        yield html.table(gaps, "missing-table", of_encoders=True)
    if outdated.rows:
        yield html.table(outdated, "outdated-table", of_encoders=True)
    if results.problems:
        yield html.paragraphs(["Files and runs that were left out or need attention:"])
        yield html.bullets(results.problems)


def _provenance(analysis: Analysis, request: Request) -> Parts:
    source = provenance(analysis.results)
    yield html.paragraphs(sentences(source, request.sources))
    if source.facts:
        yield html.table(to_table(source), "provenance-table")
    yield html.paragraphs([f"The report was made by {answer.name(request.command)}."])


Make = Callable[[Analysis, Request], Parts]
ORDER: Sequence[tuple[str, str, Sequence[Make]]] = (
    ("answer", "Answer", [_answer]),
    ("agreement", "Proxy against target", [figure("agreement")]),
    ("correlations", "Correlations", [figure("correlations"), _correlations]),
    ("ranks", "Ranks", [figure("ranks"), _ranks]),
    ("choices", "Choosing and cost", [figure("cost"), _choices]),
    ("scores", "Scores", [figure("scores"), _scores]),
    ("training", "Training curves", [figure("training_curves")]),
    ("invariances", "Invariances", [figure("invariances"), figure("invariance_and_score")]),
    ("size", "Size of the encoder", [figure("size")]),
    ("labels", "Number of labels", [_label_efficiency]),
    ("maps", "t-SNE maps", [_maps]),
    ("missing", "Failed, missing and outdated cells", [_missing]),
    ("provenance", "Provenance", [_provenance]),
)
"""Anchor, heading and content of each section."""
