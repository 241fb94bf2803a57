import base64
import hashlib
import itertools
import re
from html.parser import HTMLParser

import pytest

from results.agreement.analysis import analyse
from results.errors import ResultsError
from results.published.catalogue import read_published
from results.records.reading import MissingRun, Results, Row
from results.report.page import build
from results.report.sections import Request

VOID = {"meta", "input", "br", "img", "link", "hr"}
HOSTILE = "</script><script>alert(1)</script>\"'&`{{main}}"


class Page(HTMLParser):
    """Gathers elements, identifiers and addresses, and checks that elements are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert self.opened == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.opened.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag

    def all(self, key: str) -> list[str]:
        return [value for _, attributes in self.elements if (value := attributes.get(key))]


def row(encoder: str, protocol: str, dataset: str, value: float) -> Row:
    run_id = f"{encoder}-{protocol}-{dataset}"
    return Row(encoder, encoder, protocol, dataset, 0, "top1", value, "fraction", True, True,
               "test", run_id)  # fmt: skip


def results_of(encoders: list[str], *protocols: str) -> Results:
    return Results(
        [
            row(encoder, protocol, dataset, 0.1 + 0.05 * place)
            for place, encoder in enumerate(encoders)
            for protocol in protocols
            for dataset in ("a", "b")
        ]
    )


@pytest.fixture(scope="module")
def published() -> str:
    return build(analyse(read_published(["transfer_2021_table1"])), Request(command="make it"))


def test_elements_are_closed_and_identifiers_are_unique(published: str) -> None:
    identifiers = Page(published).all("id")
    assert len(identifiers) == len(set(identifiers))


def test_every_reference_within_the_page_exists(published: str) -> None:
    page = Page(published)
    names = {name for key in ("aria-labelledby", "for") for name in page.all(key)}
    names |= {address[1:] for address in page.all("href")}
    assert names <= set(page.all("id"))


def test_the_page_names_no_other_place(published: str) -> None:
    page = Page(published)
    assert page.all("src") == []
    assert all(address.startswith("#") for address in page.all("href"))
    assert not re.search(r"url\((?!#)|@import|xlink:href=\"(?!#)", published)


def test_only_the_script_of_the_page_may_run(published: str) -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", published, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(p for p in Page(published).all("content") if "default-src" in p)
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_headings_descend_one_level_at_a_time(published: str) -> None:
    levels = [int(tag[1]) for tag, _ in Page(published).elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_every_table_has_a_caption_and_headers_with_scope(published: str) -> None:
    page = Page(published)
    tags = [tag for tag, _ in page.elements]
    assert tags.count("table") == tags.count("caption") > 2
    assert all(attributes.get("scope") for tag, attributes in page.elements if tag == "th")


def test_scores_carry_their_numbers(published: str) -> None:
    (swav,) = re.findall(r'<tr data-encoder="swav">(?=.{0,80}data-value="83.08).*', published)
    assert "83.08" in swav


def test_text_of_records_never_becomes_markup() -> None:
    encoders = [HOSTILE, *(f"e{n}" for n in range(5))]
    results = results_of(encoders, "finetune", HOSTILE)
    results.gaps.append(MissingRun(HOSTILE, "knn", HOSTILE, 0, "failed", HOSTILE, HOSTILE, "r"))
    results.problems.append(HOSTILE)
    text = build(analyse(results), Request([HOSTILE], HOSTILE, HOSTILE))
    page = Page(text)
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert text.count("<main") == 1
    assert HOSTILE in page.all("data-encoder")


def test_too_few_encoders_are_shown_with_their_scores() -> None:
    text = build(analyse(results_of(["x", "y"], "finetune", "knn")), Request())
    assert "Too few" in text
    assert 'data-encoder="x"' in text


def test_an_unknown_highlight_lists_the_encoders() -> None:
    with pytest.raises(ResultsError, match=r"known \(`x`, `y`\), but is `z`"):
        build(analyse(results_of(["x", "y"], "finetune")), Request(highlight="z"))


def test_the_order_of_records_does_not_change_the_page() -> None:
    results = results_of([f"e{n}" for n in range(6)], "finetune", "knn", "bn_tune")
    backwards = Results(results.rows[::-1])
    assert build(analyse(results), Request()) == build(analyse(backwards), Request())
