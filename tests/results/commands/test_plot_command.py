from pathlib import Path

import pytest

from results.commands.main import main
from results.figures.catalogue import FIGURES

TABLE = ["--published", "transfer_2021_table1", "--dataset", "dtd,pets"]


def test_a_figure_is_written_in_each_format_and_its_caption_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "figures"
    assert main(["plot", "correlations", "--format", "svg,pdf", "--out", str(folder), *TABLE]) == 0
    assert (folder / "correlations.svg").read_text().startswith("<svg")
    assert (folder / "correlations.pdf").read_bytes().startswith(b"%PDF")
    printed = capsys.readouterr()
    assert printed.out.startswith("Correlation of proxies with finetune.")
    assert str(folder / "correlations.pdf") in printed.err


def test_all_figures_that_the_results_allow_are_drawn_and_the_others_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plot", "all", "--out", str(tmp_path), *TABLE]) == 0
    written = {path.stem for path in tmp_path.iterdir()}
    assert {"agreement", "correlations", "ranks", "scores"} <= written
    assert "cost" not in written
    assert "not drawn: cost: the figure of cost needs" in capsys.readouterr().err


def test_without_a_name_the_figures_are_listed_with_what_they_need(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plot"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(FIGURES)
    assert all("; needs " in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["plot", "nonsense"], "a figure must be one of the known (`agreement`"),
        (["plot", "ranks", "--format", "gif"], "`--format` must be one of the known"),
        (["plot", "cost"], "the figure of cost needs a proxy"),
        (["plot", "ranks", "--target", "nonsense"], "must be one of the known"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--out", str(tmp_path), *TABLE]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error
    assert error.count("\n") == 1


def test_without_vl_convert_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["plot", "ranks", "--format", "png", "--out", str(tmp_path), *TABLE]) == 2
    assert "pip install 'ssl_transfer[report]'" in capsys.readouterr().err
    assert main(["plot", "ranks", "--format", "svg", "--out", str(tmp_path), *TABLE]) == 0
