"""What records say is shown as text, wherever it ends up."""

import io
from collections.abc import Callable

import pandas as pd
import pytest

from results import plain_text
from results.tables import rendering
from results.tables.rendering import Table
from ssl_transfer.system import plain_text as library

NASTY = "\x1b]0;owned\x07\x1b[2J\u202eevil\u2066\u200b\r\x9b31m\x00"


def test_both_packages_escape_the_same() -> None:
    for code in range(0x11000):
        character = chr(code)
        assert plain_text.printable(character) == library.printable(character), code


@pytest.mark.parametrize("escape", [plain_text.printable, library.printable])
def test_nothing_is_left_that_a_terminal_obeys(escape: Callable[[str], str]) -> None:
    assert escape(NASTY).isprintable()
    assert escape("\x1b[2J") == "\\x1b[2J"
    assert escape("größer ± 1\n\tzwei") == "größer ± 1\n\tzwei"
    assert escape("\u202e") == "\\u202e"
    assert escape("\ud800") == "\\ud800"


def table(text: str) -> Table:
    return Table(text, [text, "value"], [[text, "1.0"]], [text])


def test_tables_show_names_as_text() -> None:
    shown = rendering.to_terminal(table(NASTY + "\nx"), width=80)
    assert shown.replace("\n", "").isprintable()
    markdown = rendering.to_markdown(
        table("<img src=x onerror=alert(1)>|a[b](http://c) *d* `e`\nf")
    )
    row = markdown.splitlines()[4]
    assert row == (
        "| &lt;img src=x onerror=alert(1)&gt;\\|a\\[b\\](http://c) \\*d\\* \\`e\\` f | 1.0 |"
    )
    assert "<" not in markdown
    assert plain_text.markdown("linear_probe _x_ a_") == "linear_probe \\_x\\_ a\\_"
    assert plain_text.html_text('<a href="x">\'\x1b') == "&lt;a href=&quot;x&quot;&gt;&#x27;\\x1b"


@pytest.mark.parametrize("name", ["=1+1", "+SUM(A1)", "-cmd|' /C calc'!A0", "@x", " =1", "\t=1"])
def test_a_spreadsheet_takes_no_name_for_a_formula(name: str) -> None:
    text = rendering.to_csv(["encoder", "value", name], [[name, -0.5, 1], ["b", 1e-7, None]])
    found = pd.read_csv(io.StringIO(text))
    assert found["encoder"][0].startswith("'")
    assert found.columns[2].startswith("'")
    assert list(found["value"]) == [-0.5, 1e-7]


def test_numbers_and_common_names_stay_in_csv() -> None:
    for value in (-1, -0.5, None, True, "-0.5", "+1e3", "resnet50", "a=b", "a, b", "–"):
        assert plain_text.csv_cell(value) == value
