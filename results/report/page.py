"""One self-contained HTML file from the sections of a report."""

import base64
import hashlib
import re
from pathlib import Path

from results.agreement.analysis import Analysis
from results.errors import unknown
from results.plain_text import html_text
from results.records.cells import ordered
from results.report import answer, html
from results.report.sections import Request, sections

FOLDER = Path(__file__).parent


def build(analysis: Analysis, request: Request) -> str:
    """Return the page.

    The page holds its style, its script and its figures, and forbids every connection. It can be
    read without its script, which only highlights, sorts, filters and copies.

    Raises:
        ResultsError: if the encoder to highlight is unknown; the message lists the known ones.
    """
    encoders = ordered(row.encoder for row in analysis.results.rows)
    if request.highlight and request.highlight not in encoders:
        raise unknown("the encoder to highlight", request.highlight, encoders)
    made = sections(analysis, request)
    script = _file("page.js")
    question = answer.question(analysis.target.name)
    parts = {
        "title": html_text(question.replace("`", "")),
        "heading": html.sentence(question),
        "highlight": html_text(request.highlight),
        "options": "".join(
            f'<option value="{html_text(encoder)}">{html_text(encoder)}</option>'
            for encoder in encoders
        ),
        "contents": "".join(
            f'<li><a href="#{part.name}">{html.sentence(part.title)}</a></li>' for part in made
        ),
        "main": "\n".join(html.section(part.name, part.title, part.body) for part in made),
        "command": html_text(request.command),
        "style": _file("page.css"),
        "script": script,
        "script_hash": f"sha256-{_digest(script)}",
    }
    # One pass: what a part contains is never taken for a place of another part.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], _file("page.html"))


def _file(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
