"""The marks of cells in each output format."""

import re
from html.parser import HTMLParser

import pytest

from results.plain_text import latex
from results.tables.html import to_html, to_page
from results.tables.latex import to_latex
from results.tables.rendering import CellText, Table, to_markdown, to_terminal

TABLE = Table(
    "scores_of a & b in %",
    ["encoder", "digits", "rank"],
    [
        ["[a] <b>", CellText("70.00", best=True), CellText("1 [1, 2]", group="ab")],
        ["c", "-6.50 ± 1.00", "–"],
    ],
    ["n: 100 %"],
    best="the best score of its column",
)


class Elements(HTMLParser):
    """The tags of a page with their attributes, and all of its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_star_marks_the_best_score_where_a_terminal_shows_no_bold_text() -> None:
    lines = to_terminal(TABLE, 80, bold=False).splitlines()
    assert lines[1:5] == [
        "encoder        digits         rank",
        "-------  ------------  -----------",
        "[a] <b>        *70.00  1 [1, 2] ab",
        "c        -6.50 ± 1.00            –",
    ]
    assert lines[-1] == "* marked *: the best score of its column"


def test_bold_text_changes_no_width() -> None:
    text = to_terminal(TABLE, 80, bold=True)
    plain = re.sub(r"\x1b\[\d*m", "", text)
    assert "\x1b[1m70.00\x1b[0m" in text
    assert plain.splitlines()[3] == "[a] <b>         70.00  1 [1, 2] ab"
    assert plain.endswith("* bold: the best score of its column")


@pytest.mark.parametrize(
    ("variable", "value", "bold"), [("NO_COLOR", "", False), ("TERM", "dumb", False), ("X", "", 1)]
)
def test_bold_text_is_for_terminals_that_show_it(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, bold: bool
) -> None:
    assert "\x1b" not in to_terminal(TABLE)  # no terminal
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv(variable, value)
    assert ("\x1b[1m" in to_terminal(TABLE)) == bold


def test_no_note_explains_a_mark_that_does_not_occur() -> None:
    table = Table("t", ["x", "y"], [["a", "1"]], best="the best score of its column")
    assert "best" not in to_terminal(table) + to_markdown(table) + to_latex(table) + to_html(table)


def test_markdown_shows_bold_text_and_letters() -> None:
    lines = to_markdown(TABLE).splitlines()
    assert lines[4] == r"| \[a\] &lt;b&gt; | **70.00** | 1 \[1, 2\] <sup>ab</sup> |"
    assert lines[-1] == "* bold: the best score of its column"


def test_latex_uses_booktabs_and_escapes_everything() -> None:
    assert to_latex(TABLE).splitlines() == [
        r"\begin{table}",
        r"  \centering",
        r"  \caption{scores\_of a \& b in \%}",
        r"  \begin{tabular}{lrr}",
        r"    \toprule",
        r"    encoder & digits & rank \\",
        r"    \midrule",
        r"    {[}a] \textless{}b\textgreater{} & \textbf{70.00}"
        r" & 1 {[}1, 2] \textsuperscript{ab} \\",
        r"    c & $-$6.50 $\pm$ 1.00 & \textendash{} \\",
        r"    \bottomrule",
        r"  \end{tabular}",
        r"  \par\smallskip\footnotesize n: 100 \%",
        r"  \par\smallskip\footnotesize bold: the best score of its column",
        r"\end{table}",
    ]


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("\\input{x}", r"\textbackslash{}input\{x\}"),
        ("a_b^c~d#e$f", r"a\_b\textasciicircum{}c\textasciitilde{}d\#e\$f"),
        ("a--b ``c'' \"d\"", "a-{}-b `{}`c'{}' '{}'d'{}'"),
        ("-0.5 [-.2, 1e-3] −1 a-1 3-4", r"$-$0.5 {[}$-$.2, 1e-3] $-$1 a-1 3-4"),
        ("*", "{*}"),
        ("größe\n中 \x1b", r"größe \textbackslash{}u4e2d \textbackslash{}x1b"),
        ("epochs=10 lr=1…", r"epochs=10 lr=1\ldots{}"),
    ],
)
def test_latex_text_compiles_as_it_is_read(text: str, escaped: str) -> None:
    assert latex(text) == escaped


def test_html_headers_have_a_scope_and_texts_are_escaped() -> None:
    page = Elements(to_page([TABLE]))
    assert page.open == []
    scopes = [attributes["scope"] for tag, attributes in page.tags if tag == "th"]
    assert scopes == ["col"] * 3 + ["row"] * 2
    names = [tag for tag, _ in page.tags]
    assert names.count("strong") == names.count("sup") == names.count("caption") == 1
    assert {"[a] <b>", "70.00", "ab", "scores_of a & b in %"} <= set(page.texts)
    assert "script" not in names


def test_names_of_columns_are_wrapped_only_where_the_table_would_not_fit() -> None:
    header = ["encoder", *(f"linear_probe epochs={n}" for n in range(6))]
    table = Table("t", header, [["a", *["12.34"] * 6]])
    wide, narrow = to_terminal(table, 200), to_terminal(table, 80)
    assert len(wide.splitlines()) == 4
    assert max(map(len, narrow.splitlines())) <= 80
    assert len(narrow.split("\n\n")) < len(to_terminal(table, 30).split("\n\n"))
    assert narrow.splitlines()[2].split() == [f"epochs={n}" for n in range(5)]


def test_names_of_columns_are_not_broken_within_words() -> None:
    header = [
        "encoder",
        *(f"probe penalty=vrex selection={name}" for name in ("id_val", "ood_val")),
    ]
    text = to_terminal(Table("t", header, [["a" * 30, "12.34", "1"]]), 70)
    assert text.splitlines()[1:4] == [
        "encoder                                    probe              probe",
        "                                    penalty=vrex       penalty=vrex",
        "                                selection=id_val  selection=ood_val",
    ]
