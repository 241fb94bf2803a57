from pathlib import Path

import pytest

from results.commands.main import main


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


def test_choose_shows_regret_misses_and_what_is_not_shown(zoo, outputs: Path, capsys) -> None:
    zoo()
    arguments = ["choose", "--outputs", str(outputs), "--proxy", "linear_probe,bn_tune"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "finetune: mean over datasets" in shown
    assert "random choice" in shown
    assert "static_rank" in shown
    assert "which is known" not in shown
    assert "intervals need at least 8 datasets" in shown
    assert "`linear_probe` chooses no better than `static_rank`: its regret is" in shown


def test_choose_of_published_tables_names_the_missed_encoders(capsys, tmp_path: Path) -> None:
    arguments = ["choose", "--published", "transfer_2021_table1", "--proxy", "logistic_regression"]
    assert main([*arguments, "--save", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "0.33 [0.00, 1.24]" in shown
    missed = (
        "missed by logistic_regression on cifar10: simclr_v1 is rank 1 of 14 by finetune (97.07)"
    )
    assert missed in shown
    assert "the interval of the difference" in shown
    lines = (tmp_path / "choices.csv").read_text().splitlines()
    assert lines[0].startswith("dataset,proxy,target,n,chosen,best,chosen_score,best_score,unit")
    assert (tmp_path / "choices.md").exists()
    assert len(lines) == 1 + 12 * 3


def test_costs_stand_below_the_choices(write, outputs: Path, capsys) -> None:
    for number in range(6):
        for protocol, seconds in (("knn", 2.0), ("finetune", 100.0)):
            value = 0.4 + 0.05 * ((3 * number) % 6 if protocol == "knn" else number)
            write(
                f"{number}" * 16, protocol=protocol, value=value, duration_s=seconds, device="cpu",
                processes=1, features=[], config={"method": {"epochs": number}},
            )  # fmt: skip
    assert main(["choose", "--outputs", str(outputs), "--proxy", "knn"]) == 0
    shown = capsys.readouterr().out
    assert "What the scores cost" in shown
    table = shown[shown.index("What the scores cost") :].splitlines()
    rows = {line.split("  ")[0]: line.split() for line in table if line[:3] in ("knn", "fin")}
    assert rows["knn"][-2:] == ["cpu", "2.0%"]
    assert rows["finetune"][-2:] == ["cpu", "–"]
    assert "10 min" in " ".join(rows["finetune"])


def test_an_undefined_baseline_is_explained_once(capsys) -> None:
    arguments = ["choose", "--published", "sfda_2022_self_supervised", "--proxy", "parameters"]
    assert main(arguments) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("parameters undefined: `parameters` must be stated") == 1
    assert "missed by parameters" not in shown


def test_few_encoders_are_pointed_to_the_next_runs(zoo, outputs: Path, capsys) -> None:
    zoo(2)
    assert main(["choose", "--outputs", str(outputs), "--proxy", "bn_tune"]) == 0
    assert "`--next 3` prints the commands" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--proxy", "finetune"], "a proxy must differ from the target"),
        (["--proxy", "unknown"], "a protocol must be one of the known"),
        (["--proxy", "bn_tune", "--target", "nothing"], "a protocol must be one of the known"),
        (["--proxy", "bn_tune", "--far", "0"], "`--far` must be a share"),
    ],
)
def test_mistakes_are_one_sentence(zoo, outputs: Path, capsys, arguments, sentence) -> None:
    zoo()
    assert main(["choose", "--outputs", str(outputs), *arguments]) == 2
    assert sentence in capsys.readouterr().err
