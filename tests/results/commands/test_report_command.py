from pathlib import Path

from results.commands.main import main


def test_the_report_is_one_file(zoo, outputs: Path, tmp_path: Path, capsys) -> None:
    zoo()
    page = tmp_path / "new" / "report.html"
    arguments = ["report", "--outputs", str(outputs), "--proxy", "bn_tune", "--out", str(page)]
    assert main(arguments) == 0
    assert f"written: {page}" in capsys.readouterr().err
    text = page.read_text()
    assert f"--outputs {outputs} --proxy bn_tune --target finetune --out {page}" in text


def test_the_home_folder_is_not_given_away(zoo, outputs: Path, tmp_path: Path, monkeypatch) -> None:
    zoo()
    monkeypatch.setenv("HOME", str(tmp_path))
    page = tmp_path / "report.html"
    assert main(["report", "--outputs", str(outputs), "--out", str(page)]) == 0
    assert str(tmp_path) not in page.read_text()
    assert "~/outputs" in page.read_text()


def test_an_unknown_target_lists_the_protocols(zoo, outputs: Path, tmp_path: Path, capsys) -> None:
    zoo()
    page = tmp_path / "report.html"
    arguments = ["report", "--outputs", str(outputs), "--out", str(page), "--target", "tune"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "`bn_tune`, `finetune`, `linear_probe`" in error
    assert "but is `tune`" in error
    assert not page.exists()


def test_the_file_must_be_html(outputs: Path, zoo, capsys) -> None:
    zoo(1)
    assert main(["report", "--outputs", str(outputs), "--out", "report.pdf"]) == 2
    assert "`--out` must end in `.html`" in capsys.readouterr().err
