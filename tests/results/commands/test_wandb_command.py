import sys
import types
from pathlib import Path
from typing import Any

import pytest

from results.commands.main import main


class FakeArtifact:
    def __init__(self, name: str, type: str) -> None:
        self.name, self.files = name, []  # type: ignore[var-annotated]

    def add_dir(self, folder: str) -> None:
        self.files += sorted(path.name for path in Path(folder).iterdir())

    def add_file(self, path: str, name: str) -> None:
        self.files.append((Path(path).read_text(), name))


class FakeRun:
    url = "https://wandb.example/run"

    def __init__(self) -> None:
        self.logged: dict[str, Any] = {}
        self.artifacts: dict[str, FakeArtifact] = {}
        self.summary: dict[str, Any] = {}
        self.finished = False

    def log(self, values: dict[str, Any]) -> None:
        self.logged |= values

    def log_artifact(self, artifact: FakeArtifact) -> None:
        self.artifacts[artifact.name] = artifact

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    """Replace wandb; return the run that it starts."""
    run = FakeRun()

    def init(**keys: Any) -> FakeRun:
        run.logged |= {"init": keys}
        return run

    module = types.SimpleNamespace(
        init=init, Settings=dict, Artifact=FakeArtifact,
        Table=lambda columns, data: (columns, data),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "wandb", module)
    return run


def test_one_run_gets_tables_correlations_and_the_report(
    zoo, outputs: Path, tmp_path: Path, run: FakeRun, capsys
) -> None:
    zoo()
    page = tmp_path / "page.html"
    page.write_text("<html>")
    arguments = ["wandb", "--outputs", str(outputs), "--project", "p", "--entity", "team"]
    assert main([*arguments, "--report", str(page), "--mode", "offline"]) == 0
    keys = run.logged["init"]
    assert (keys["project"], keys["entity"], keys["mode"]) == ("p", "team", "offline")
    assert (keys["job_type"], keys["name"]) == ("aggregation", "results")
    columns, data = run.logged["correlations"]
    assert columns[:3] == ["dataset", "proxy", "target"]
    assert {row[1] for row in data} >= {"bn_tune", "linear_probe"}
    names = [f"{name}.{end}" for name in ("choices", "correlations", "table")
             for end in ("csv", "md")]  # fmt: skip
    assert run.artifacts["results"].files == names
    assert run.artifacts["report"].files == [("<html>", "report.html")]
    assert run.summary["target"] == "finetune"
    assert -1 <= run.summary["spearman/bn_tune"] <= 1
    assert run.finished
    assert "sent: https://wandb.example/run" in capsys.readouterr().out


def test_without_a_target_and_a_report_there_are_tables_only(
    write, outputs: Path, run: FakeRun, capsys
) -> None:
    write()
    assert main(["wandb", "--outputs", str(outputs)]) == 0
    assert run.artifacts.keys() == {"results"}
    assert run.artifacts["results"].files == ["table.csv", "table.md"]
    shown = capsys.readouterr()
    assert "without correlations: " in shown.err
    assert "without a report: " in shown.out


def test_what_wandb_refuses_is_one_sentence(
    zoo, outputs: Path, run: FakeRun, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    zoo(2)

    def refuse(**keys: Any) -> None:
        raise ConnectionError("No API key configured.\nand more")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    assert main(["wandb", "--outputs", str(outputs)]) == 2
    error = capsys.readouterr().err
    assert "(No API key configured.); `wandb login` logs in" in error
    assert "and more" not in error
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main(["wandb", "--outputs", str(outputs)]) == 2
    assert "wandb must be installed" in capsys.readouterr().err
    arguments = ["wandb", "--outputs", str(outputs), "--report", "nowhere.html"]
    assert main(arguments) == 2
    assert "`nowhere.html` is no file" in capsys.readouterr().err


@pytest.mark.slow
def test_the_run_is_stored_without_a_network(
    zoo, outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    zoo()
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    assert main(["wandb", "--outputs", str(outputs)]) == 0
    (stored,) = (outputs / "wandb").glob("offline-run-*")
    assert list(stored.glob("run-*.wandb"))
    assert str(stored) in capsys.readouterr().out
