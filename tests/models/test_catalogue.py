"""The table of encoders, and the page that holds it."""

from pathlib import Path

import pytest

from ssl_transfer.models import catalogue
from ssl_transfer.models.transformers_backbone import CLASSES

PAGE = Path(__file__).parents[2] / "docs" / "encoders.md"


def test_a_row_states_what_the_option_states() -> None:
    (row,) = catalogue.rows(["dinov2_reg_small"])
    assert dict(zip(catalogue.COLUMNS, row, strict=True)) == {
        "option": "dinov2_reg_small",
        "network": "vit_small_patch14_reg4_dinov2",
        "features": "pooled",
        "pixels": "224",
        "trained on": "lvd142m",
        "epochs": "",
        "linear": "80.9",  # README of facebookresearch/dinov2
        "k-NN": "79.1",
        "licence": "Apache-2.0",
    }


@pytest.mark.parametrize(
    "words",
    [["dinov3_vit", "siglip2"], pytest.param([], marks=pytest.mark.slow)],
    ids=["some", "all"],
)
def test_the_page_holds_the_table_as_it_is_printed(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert catalogue.main(words) == 0
    printed, page = capsys.readouterr().out, PAGE.read_text(encoding="utf-8")
    assert set(printed.splitlines()) <= set(page.splitlines())
    if not words:
        assert printed in page


def test_the_page_names_every_type_of_transformers() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"`{kind.removesuffix('_vision_model')}`" in page for kind in CLASSES)


def test_a_word_in_no_name_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert catalogue.main(["nothing_like_it"]) == 1
    assert "must contain one of ['nothing_like_it'], but none does" in capsys.readouterr().err
