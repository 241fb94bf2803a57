from pathlib import Path

import matplotlib
import pytest

from results.figures.text import WIDTHS, common_start, shortened, width


def metrics_of(font: str) -> dict[str, int]:
    folder = Path(matplotlib.get_data_path()) / "fonts" / "pdfcorefonts"
    lines = (folder / f"{font}.afm").read_text().splitlines()
    parts = [line.split() for line in lines if line.startswith("C ")]
    return {chr(int(part[1])): int(part[4]) for part in parts if 32 <= int(part[1]) < 127}


def test_widths_are_those_of_the_metrics_of_helvetica() -> None:
    metrics = metrics_of("Helvetica")
    # Typographic quotes stand at the places of the two ASCII quotes in Adobe's encoding.
    assert {c for c in metrics if metrics[c] != WIDTHS[c]} <= {"'", "`"}


@pytest.mark.parametrize("text", ["cifar10", "textures", "flowers", "aircraft", "tiny_imagenet"])
def test_a_bold_text_is_at_most_as_wide_as_estimated(text: str) -> None:
    bold = metrics_of("Helvetica-Bold")
    assert sum(bold[c] for c in text) <= width(text, 1000, bold=True) * 1.02


@pytest.mark.parametrize("text", ["", "knn", "日本語", "é", "e\u0301"])
def test_texts_of_every_script_have_a_width(text: str) -> None:
    assert width(text, 10) >= 0


def test_an_accent_does_not_change_a_width() -> None:
    assert width("é", 10) == width("e\u0301", 10) == width("e", 10)


def test_a_long_text_keeps_its_beginning_and_end() -> None:
    short = shortened("small_resnet-simclr epochs=100 width=32", 9, 100)
    assert width(short, 9) <= 100
    assert short.startswith("small_r")
    assert short.endswith("th=32")
    assert shortened("knn", 9, 100) == "knn"


@pytest.mark.parametrize(
    ("labels", "start"),
    [
        (["small_resnet-simclr a", "small_resnet-simclr b"], "small_resnet-simclr "),
        (["small_resnet-byol", "small_resnet-barlow"], "small_resnet-"),
        (["small_resnet", "small_resnet-byol"], ""),
        (["alone-x"], ""),
    ],
)
def test_what_all_labels_begin_with_is_cut_at_a_separator(labels: list[str], start: str) -> None:
    assert common_start(labels) == start
