"""The report in a real browser: highlighting, sorting, filtering, copying, dark mode, paper."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from results.commands.main import main

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WIDTHS = (1280, 400)
Open = Callable[..., "Page"]


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    assert main(["report", "--published", "transfer_2021_table1", "--out", str(path)]) == 0
    return path


@pytest.fixture
def open_report(browser: "Browser", report: Path) -> Iterator[Open]:
    """Open the report; whatever the console says or the page requests fails the test."""
    said: list[str] = []
    requested: list[str] = []
    contexts = []

    def opened(width: int = 1280, **options: object) -> "Page":
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: requested.append(request.url))
        page.goto(report.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []
    assert set(requested) <= {report.as_uri()}


def first_column(page: "Page", table: str) -> list[str]:
    return page.locator(f"#{table} tbody tr:visible th").all_inner_texts()


def chosen(page: "Page") -> set[str]:
    return set(page.eval_on_selector_all(".chosen", "all => all.map(e => e.dataset.encoder)"))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_never_scrolls_sideways(open_report: Open, width: int, scheme: str) -> None:
    page = open_report(width, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_every_figure_is_drawn(open_report: Open) -> None:
    page = open_report()
    figures = page.locator("figure").all()
    assert {name for figure in figures if (name := figure.get_attribute("id"))} >= {
        "figure-agreement-0", "figure-correlations-0", "figure-ranks-0", "figure-scores-0",
    }  # fmt: skip
    for figure in figures:
        box = figure.locator("svg").bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) > 50


def test_a_click_on_a_header_sorts_the_table(open_report: Open) -> None:
    page = open_report()
    header = page.locator("#scores-0 thead th", has_text="aircraft")
    header.get_by_role("button").click()
    assert header.get_attribute("aria-sort") == "descending"
    assert first_column(page, "scores-0")[:2] == ["supervised", "swav"]
    header.get_by_role("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    assert first_column(page, "scores-0")[0] == "pirl"
    page.locator("#scores-0 thead th", has_text="encoder").get_by_role("button").click()
    assert header.get_attribute("aria-sort") is None
    assert first_column(page, "scores-0")[0] == "byol"


def test_words_filter_the_rows(open_report: Open) -> None:
    page = open_report()
    box = page.locator("#scores-0").get_by_role("searchbox")
    box.fill("SIM v2")
    assert first_column(page, "scores-0") == ["simclr_v2"]
    assert "1 of 14 rows" in page.locator("#scores-0 .tools").inner_text()
    box.fill("")
    assert len(first_column(page, "scores-0")) == 14


def test_a_table_is_copied_with_its_numbers(open_report: Open) -> None:
    page = open_report(permissions=["clipboard-read", "clipboard-write"])
    page.locator("#scores-0").get_by_role("searchbox").fill("swav")
    page.locator("#scores-0").get_by_label("Copy as CSV").click()
    header, row = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert header.startswith("encoder,aircraft,")
    assert row.startswith("swav,83.08")


def test_one_encoder_is_highlighted_everywhere(open_report: Open) -> None:
    page = open_report()
    page.locator("#highlight").select_option("swav")
    everywhere = page.locator('[data-encoder="swav"]').count()
    assert chosen(page) == {"swav"}
    assert page.locator(".chosen").count() == everywhere > 1
    page.locator("#scores-0").get_by_role("button", name="byol", exact=True).click()
    assert chosen(page) == {"byol"}
    assert page.locator("#highlight").input_value() == "byol"
    page.locator('#figure-agreement-0 [data-encoder="pirl"] circle').first.click()
    assert chosen(page) == {"pirl"}
    page.locator("#clear").click()
    assert chosen(page) == set()


def test_the_points_of_other_encoders_fade(open_report: Open) -> None:
    page = open_report()
    page.locator("#highlight").select_option("swav")
    opacity = "e => Number(getComputedStyle(e).opacity)"
    for figure in page.locator("figure", has=page.locator('[data-encoder="swav"]')).all():
        assert figure.locator('[data-encoder="swav"]').first.evaluate(opacity) == 1
        assert figure.locator('[data-encoder="byol"]').first.evaluate(opacity) < 0.5


def test_everything_can_be_done_with_keys(open_report: Open) -> None:
    page = open_report()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.locator("#scores-0 button.encoder").first.focus()
    names = first_column(page, "scores-0")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert chosen(page) == {names[1]}
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    page.keyboard.press(" ")
    assert chosen(page) == {names[-1]}
    page.keyboard.press("Escape")
    assert chosen(page) == set()


def test_points_of_figures_are_reached_by_keys_and_say_their_numbers(open_report: Open) -> None:
    page = open_report()
    figure = page.locator("#figure-agreement-0")
    figure.locator('[data-encoder][tabindex="0"]').focus()
    tip = page.locator("#tip")
    assert "finetune" in tip.inner_text()
    first = tip.inner_text()
    page.keyboard.press("ArrowRight")
    assert tip.inner_text() != first
    page.keyboard.press("Enter")
    assert len(chosen(page)) == 1
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    page.keyboard.press("Escape")
    assert chosen(page) == set()


def test_a_pointer_shows_the_numbers_of_a_point(open_report: Open) -> None:
    page = open_report()
    page.locator('#figure-agreement-0 [data-encoder="pirl"] circle').first.hover()
    assert page.locator("#tip").inner_text().startswith("pirl")


def test_each_figure_and_table_is_one_stop_of_the_tab_key(open_report: Open) -> None:
    page = open_report()
    for container in page.locator(".table, figure").all():
        stops = 'button.encoder[tabindex="0"], svg [tabindex="0"]'
        assert container.locator(stops).count() <= 1


def background(page: "Page") -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


def test_dark_mode_follows_the_system_and_the_switch(open_report: Open) -> None:
    light = background(open_report(color_scheme="light"))
    page = open_report(color_scheme="dark")
    dark = background(page)
    assert light != dark
    switch = page.locator("#scheme")
    assert switch.get_attribute("aria-pressed") == "true"
    switch.click()
    assert switch.get_attribute("aria-pressed") == "false"
    assert background(page) == light


CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (colour) => {
    const [r, g, b] = rgb(colour).map(
      (v) => v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    while (element && rgb(getComputedStyle(element).backgroundColor)[3] < 255)
      element = element.parentElement;
    return element ? getComputedStyle(element).backgroundColor : "white";
  };
  const low = [];
  for (const element of document.querySelectorAll("body *:not(svg *, script)")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !element.checkVisibility()) continue;
    const pair = [luminance(getComputedStyle(element).color), luminance(behind(element))];
    const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (ratio < 4.5) low.push(`${element.tagName} ${element.textContent.slice(0, 30)} ${ratio}`);
  }
  return low;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(open_report: Open, scheme: str) -> None:
    page = open_report(color_scheme=scheme)
    page.locator("#highlight").select_option("swav")
    assert page.evaluate(CONTRAST) == []


def test_on_paper_there_are_no_controls_and_nothing_is_cut(open_report: Open) -> None:
    # 182 mm at 96 pixels per inch are the width of A4 within its margins.
    page = open_report(688, color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    for control in (".bar", ".tools", "nav", "#tip"):
        assert page.locator(control).first.is_hidden()
    assert background(page) == "rgb(255, 255, 255)"
    wide = "all => all.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText)"
    assert page.eval_on_selector_all(".box", wide) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 688
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_the_page_can_be_read_without_its_script(open_report: Open) -> None:
    page = open_report(java_script_enabled=False)
    assert page.locator("#controls").is_hidden()
    assert page.locator("thead button").count() == 0
    assert page.locator("h1").is_visible()
    assert page.locator("#scores-0 tbody tr").count() == 14
