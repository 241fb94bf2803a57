import json
import subprocess
import sys
from pathlib import Path

import pytest

from results.commands.main import main


@pytest.fixture(autouse=True)
def _hundred_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


def write_sweep(outputs: Path, extra: dict[str, str] | None = None) -> Path:
    """Write a sweep of everything below ``outputs``, and of runs that left nothing."""
    runs, folders = [], []
    for path in sorted(outputs.glob("*/*/*.json")):
        runs.append(json.loads(path.read_text())["run_id"])
        folders.append(str(path.parent.relative_to(outputs)))
    for run_id in extra or {}:
        runs.append(run_id)
        folders.append(f"finetune/x_{run_id}")
    folder = outputs / "sweeps" / "2026-01-01_00-00-00_aaaaaa"
    folder.mkdir(parents=True)
    text = {"command": "", "runs": runs, "folders": folders, "failures": extra or {}}
    (folder / "sweep.json").write_text(json.dumps(text))
    return folder


def test_table_prints_and_saves_every_format(zoo, outputs: Path, tmp_path: Path, capsys) -> None:
    zoo()
    for form, mark in (("terminal", "----"), ("csv", "protocol,encoder,"), ("markdown", "| ---")):
        arguments = ["table", "--outputs", str(outputs), "--format", form]
        assert main([*arguments, "--protocol", "finetune", "--save", str(tmp_path / "saved")]) == 0
        shown = capsys.readouterr().out
        assert mark in shown
        assert "linear_probe" not in shown
        assert max(map(len, shown.splitlines())) <= 100
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {"table.csv", "table.md"}


def test_correlate_prints_saves_and_draws(zoo, outputs: Path, tmp_path: Path, capsys) -> None:
    zoo()
    arguments = ["correlate", "--outputs", str(outputs), "--proxy", "linear_probe,bn_tune:top1"]
    picture = tmp_path / "scatter.png"
    arguments += ["--target", "finetune", "--plot", str(picture), "--save", str(tmp_path)]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "`bn_tune:top1` − `linear_probe` of spearman" in " ".join(shown.split())
    assert "average log-odds" in shown
    assert max(map(len, shown.splitlines())) <= 100
    assert picture.exists()
    lines = (tmp_path / "correlations.csv").read_text().splitlines()
    assert lines[0] == "dataset,proxy,target,coefficient,n,value,low,high,note"


def test_correlate_answers_across_two_papers_with_baselines_and_a_ceiling(
    tmp_path: Path, capsys
) -> None:
    arguments = ["correlate", "--published", "transfer_2021_table1", "--target", "finetune"]
    arguments += ["--proxy", "logistic_regression,static_rank", "--dataset", "dtd,pets"]
    arguments += ["--coefficient", "weighted_kendall"]
    second = "sfda_2022_self_supervised"
    assert main([*arguments, "--target-from", second]) == 0
    shown = capsys.readouterr().out
    assert f"dtd: correlation with finetune of {second}" in shown
    assert "logistic_regression                12" in shown
    assert main([*arguments, "--ceiling", second, "--save", str(tmp_path)]) == 0
    assert "ceiling: finetune of" in capsys.readouterr().out
    assert "ceiling: finetune" in (tmp_path / "correlations.csv").read_text()
    assert main([*arguments, "--ceiling"]) == 0
    assert "at least two seeds" in " ".join(capsys.readouterr().out.split())
    assert main([*arguments, "--ceiling", "--target-from", second]) == 2
    assert "must name a second source" in capsys.readouterr().err
    assert main([*arguments, "--ceiling", "nothing"]) == 2
    assert "`transfer_2021_table1`" in capsys.readouterr().err


def test_correlate_leaves_each_encoder_or_family_out(tmp_path: Path, capsys) -> None:
    arguments = ["correlate", "--published", "transfer_2021_table1", "--target", "finetune"]
    arguments += ["--proxy", "logistic_regression,static_rank", "--dataset", "dtd,pets"]
    assert main([*arguments, "--leave-one-out", "encoder", "--save", str(tmp_path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "spearman without each encoder in turn" in shown
    assert "agrees best with the target (mean over datasets)" in shown
    rows = (tmp_path / "without_each_encoder.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 3
    families = tmp_path / "families.csv"
    families.write_text("encoder,family\nswav,clusters\nsela_v2,clusters\n")
    assert main([*arguments, "--leave-one-out", "family", "--families", str(families)]) == 0
    assert "without each family" in capsys.readouterr().out
    assert main([*arguments, "--coefficient", "tau"]) == 2
    assert "`weighted_kendall`" in capsys.readouterr().err


def test_list_and_failures(zoo, write, outputs: Path, capsys) -> None:
    zoo(1)
    assert main(["failures", "--outputs", str(outputs)]) == 0
    assert capsys.readouterr().out == "No run failed.\n"
    for seed in (1, 0):
        write("f" * 16, method="byol", seed=seed, error="The loss must stay finite.")
    assert main(["failures", "--outputs", str(outputs)]) == 0
    shown = capsys.readouterr().out
    assert "failed: linear_probe of small_resnet-byol on digits, seed 0, 1 (2 runs)\n" in shown
    assert shown.count("The loss must stay finite.") == 1
    assert main(["list", "--outputs", str(outputs), "--format", "csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 6
    assert main(["list", "--outputs", str(outputs)]) == 0


def test_published_lists_names_and_their_numbers_can_be_correlated(capsys) -> None:
    assert main(["published"]) == 0
    assert "transfer_2021_table1" in capsys.readouterr().out
    arguments = ["--published", "transfer_2021_table1", "--without", "supervised"]
    question = ["--proxy", "logistic_regression", "--target", "finetune"]
    assert main(["correlate", *arguments, *question]) == 0
    assert ".77 [.38, .93]" in capsys.readouterr().out


def test_summary_of_a_whole_sweep_writes_tables_and_correlations(
    zoo, outputs: Path, capsys
) -> None:
    zoo()
    folder = write_sweep(outputs)
    assert main(["summary", "--outputs", str(outputs)]) == 0
    shown = capsys.readouterr().out
    assert "42 runs: 42 finished, none failed" in shown
    assert "correlation with finetune" in shown
    assert f"saved: table, correlations, choices (.csv, .md) in {folder}" in shown
    for name in ("table.csv", "table.md", "correlations.csv", "correlations.md"):
        assert (folder / name).stat().st_size > 0


def test_summary_says_what_failed_and_the_exit_code_tells(
    zoo, write, outputs: Path, capsys
) -> None:
    zoo(2)
    write("1" * 16, dataset="cats", error="A class is empty.")
    nothing = {"status": "not_applicable", "reason": "It has no BatchNorm.", "scores": []}
    write("1" * 16, protocol="bn_tune", dataset="dogs", **nothing)
    write_sweep(outputs, {"e" * 16: "requires pretrain, which failed"})
    assert main(["summary", "--outputs", str(outputs), "--sweep", "latest"]) == 1
    shown = capsys.readouterr().out
    assert "15 runs: 12 finished, 1 not applicable, 2 failed or missing" in shown
    for words in ("A class is empty.", "It has no BatchNorm.", "requires pretrain, which failed"):
        assert words in shown
    assert "correlation with" not in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["table", "--outputs", "nowhere"], "`nowhere` is no folder"),
        (["table", "--protocol", "knn"], "`bn_tune`, `finetune`, `linear_probe`"),
        (["table", "--dataset", "cats"], "`digits`, `textures`"),
        (["table", "--metric", "auc"], "`top1`"),
        (["table", "--sweep", "lost"], "none"),
        (["correlate", "--proxy", "knn", "--target", "finetune"], "`knn`"),
        (["correlate", "--proxy", "bn_tune", "--target", "knn"], "`knn`"),
        (["correlate", "--proxy", "finetune", "--target", "finetune"], "must differ"),
        (
            ["correlate", "--proxy", "bn_tune", "--target", "finetune", "--plot", "x.nonsense"],
            "`.nonsense`",
        ),
        (["table", "--published", "lost"], "transfer_2021_table1"),
    ],
)
def test_requests_that_cannot_be_answered_get_one_sentence(
    zoo, outputs: Path, capsys, arguments: list[str], words: str
) -> None:
    zoo(2)
    if "--outputs" not in arguments:
        arguments = [*arguments, "--outputs", str(outputs)]
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert words in message


def test_an_outputs_folder_without_records_is_said(outputs: Path, capsys) -> None:
    assert main(["table", "--outputs", str(outputs)]) == 2
    assert "start a run first" in capsys.readouterr().err


def test_damaged_records_are_named_on_standard_error(zoo, outputs: Path, capsys) -> None:
    (zoo(2) / "record.json").write_text("{")
    assert main(["table", "--outputs", str(outputs)]) == 0
    assert "warning: `" in capsys.readouterr().err


def test_a_reader_that_leaves_early_sees_no_traceback(zoo, outputs: Path) -> None:
    zoo(30)
    command = f"{sys.executable} -m results list --format csv --outputs {outputs}"
    piped = (
        f"set -o pipefail; for i in 1 2 3; do {command}; done | head -1; exit ${{PIPESTATUS[1]}}"
    )
    done = subprocess.run(["bash", "-c", piped], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == ""


def test_a_variable_says_where_records_are(
    zoo, outputs: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    zoo(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSL_TRANSFER_OUTPUTS", str(outputs))
    assert main(["list", "--format", "csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 6


def test_a_data_set_that_no_run_could_read_is_no_column(write, outputs: Path, capsys) -> None:
    write(dataset="digits")
    write(dataset="digitz", error="`digitz` does not exist", stage="check")
    write(dataset="textures", error="the loss must stay finite", stage="work")
    assert main(["table", "--outputs", str(outputs)]) == 0
    captured = capsys.readouterr()
    assert "digitz" not in captured.out
    assert "textures" in captured.out
    assert captured.err.startswith("left out: `digitz`, of which every run was refused")
    assert main(["failures", "--outputs", str(outputs)]) == 0
    assert "digitz" in capsys.readouterr().out
