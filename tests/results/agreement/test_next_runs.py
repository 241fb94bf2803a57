"""The printed commands mean the encoders of the records, and no others."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from results import ResultsError
from results.agreement.next_runs import Next, next_runs
from results.commands.main import main
from results.records.reading import Results, read
from ssl_transfer.config import compose, plain
from ssl_transfer.config.overrides import overrides_of
from ssl_transfer.runs import Run
from ssl_transfer.runs.identity import digest

SIMCLR = ["method=simclr", "dataset@method.pretrain_on=cifar10"]
ENCODERS = [
    ["model=small_resnet"],
    ["model=small_resnet", "model.width=8"],
    ["model=swav"],
    ["model=moco_v2"],
    [*SIMCLR, "method.epochs=3"],
    [*SIMCLR, "method.epochs=5", "method.seed=2"],
]
"""Overrides of encoders; the k-th best one by the proxy is the k-th from the end."""


def composed(outputs: Path, *lines: str) -> Run:
    return Run(plain(compose([*lines, f"paths.outputs={outputs}"])))


def encoder_of(run: Run) -> list[Any]:
    return [run.identity["model"], run.identity["method"], [one.id for one in run.requirements]]


def leave(run: Run, value: float, **changes: Any) -> None:
    """Leave the record of a run as if it had been executed."""
    score = {
        "metric": "top1", "split": "test", "value": value, "unit": "fraction",
        "higher_is_better": True, "primary": True,
    }  # fmt: skip
    document = {
        **run.identify(), "status": "finished", "reason": None, "scores": [score],
        "encoder": {"id": digest(encoder_of(run)), "label": run.label},
        "config": run.config, "requires": [one.id for one in run.requirements],
        "overrides": overrides_of(run.config),
    }  # fmt: skip
    run.folder.mkdir(parents=True)
    name = "failure.json" if "error" in changes else "record.json"
    (run.folder / name).write_text(json.dumps(document | changes))


def fill(outputs: Path, *lines: str, **changes: Any) -> list[Run]:
    """Leave the record of a proxy for every encoder; return the runs, the best one first."""
    outputs.mkdir(exist_ok=True)
    runs = [composed(outputs, "protocol=knn", *encoder, *lines) for encoder in ENCODERS]
    for number, run in enumerate(runs):
        leave(run, 0.3 + 0.1 * number, **changes)
    return runs[::-1]


def started(outputs: Path, step: Next) -> list[Run]:
    """Return the runs that the commands start."""
    runs = []
    for command in step.commands:
        program, script, *words = shlex.split(command)
        assert (program, script) == ("python", "run.py")
        axes = [word for word in words if word != "-m"]
        (models,) = (word for word in axes if word.startswith("model="))
        rest = [word for word in axes if word != models]
        assert ("-m" in words) == ("," in models)
        runs += [
            Run(plain(compose([f"model={model}", *rest])))
            for model in models.removeprefix("model=").split(",")
        ]
    return runs


def test_commands_mean_the_best_encoders_when_the_target_was_never_run(tmp_path: Path) -> None:
    own = ["dataset=dtd", "dataset.split_seed=3", "precision=bf16"]
    proxies = fill(tmp_path / "o", *own)
    (step,) = next_runs(read(tmp_path / "o"), ["knn"], "finetune", 4)
    runs = started(tmp_path, step)
    assert [run.config["protocol"]["name"] for run in runs] == ["finetune"] * 4
    assert [encoder_of(run) for run in runs] == [encoder_of(run) for run in proxies[:4]]
    assert [run.identity["dataset"] for run in runs] == [proxies[0].identity["dataset"]] * 4
    assert {run.folder.parents[1] for run in runs} == {tmp_path / "o"}
    assert {run.config["precision"] for run in runs} == {"bf16"}
    # The two that differ in the option of the model only share a command.
    assert len(step.commands) == 3
    assert "model=moco_v2,swav" in step.commands[2]


def test_the_best_by_fine_tuning_on_few_labels_are_fine_tuned_on_all(tmp_path: Path) -> None:
    outputs = tmp_path / "o"
    outputs.mkdir()
    few, own = "dataset.label_fraction=0.1", ["protocol=finetune", "protocol.epochs=3"]
    for number, encoder in enumerate(ENCODERS):
        leave(composed(outputs, *own, few, *encoder), 0.3 + 0.1 * number)
    proxy = "finetune@label_fraction=0.1"
    (step,) = next_runs(read(outputs), [proxy], "finetune", 2)
    expected = [composed(outputs, *own, *encoder) for encoder in ENCODERS[:-3:-1]]
    assert {run.id for run in started(tmp_path, step)} == {run.id for run in expected}
    leave(expected[0], 0.7)  # the dataset's label of 10 % is now a longer one
    (step,) = next_runs(read(outputs), [proxy], "finetune", 2)
    assert [run.id for run in started(tmp_path, step)] == [expected[1].id]
    assert list(step.scores.values()) == ["70.00"]


def test_commands_repeat_the_protocol_of_the_target_and_leave_out_what_is_finished(
    tmp_path: Path,
) -> None:
    outputs = tmp_path / "o"
    proxies = fill(outputs)
    finetuned = ["protocol=finetune", "protocol.epochs=3", "protocol.grid={lr:[0.1]}"]
    leave(composed(outputs, *finetuned, *ENCODERS[4]), 0.8)
    (step,) = next_runs(read(outputs), ["knn"], "finetune", 2)
    (missing,) = started(tmp_path, step)
    assert missing.id == composed(outputs, *finetuned, *ENCODERS[5]).id
    assert encoder_of(missing) == encoder_of(proxies[0])
    assert list(step.scores.values()) == ["80.00"]
    leave(missing, 0.75)
    (done,) = next_runs(read(outputs), ["knn"], "finetune", 2)
    assert done.commands == ()
    assert list(done.scores.values()) == ["80.00", "75.00"]
    assert "finished for all of them; the best is small_resnet-simclr" in "\n".join(done.lines())


def test_a_failed_run_is_repeated_and_an_impossible_one_passed_over(tmp_path: Path) -> None:
    outputs = tmp_path / "o"
    fill(outputs)
    best, second = (composed(outputs, "protocol=bn_tune", *ENCODERS[n]) for n in (5, 4))
    leave(composed(outputs, "protocol=bn_tune", *ENCODERS[0]), 0.5)
    leave(best, 0.0, status="not_applicable", reason="no BatchNorm", scores=[])
    leave(second, 0.0, error="a disk was full")
    (step,) = next_runs(read(outputs), ["knn"], "bn_tune", 1)
    assert len(step.ranked) == 1
    assert [run.id for run in started(tmp_path, step)] == [second.id]
    assert step.commands[0].endswith(" retry=true")
    assert any("is not applicable to" in note for note in step.notes)


def test_records_of_earlier_code_give_commands_with_what_distinguishes_them(
    tmp_path: Path,
) -> None:
    outputs = tmp_path / "o"
    proxies = fill(outputs, overrides=None)
    (step,) = next_runs(read(outputs), ["knn"], "finetune", 2)
    assert any("records of earlier code" in note for note in step.notes)
    assert all("method.epochs=" in command for command in step.commands)
    method = "dataset@method.pretrain_on=cifar10"
    runs = [Run(plain(compose([method, *shlex.split(command)[2:]]))) for command in step.commands]
    assert [encoder_of(run) for run in runs] == [encoder_of(run) for run in proxies[:2]]


def test_paths_that_the_current_folder_gives_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    run = composed(outputs, "protocol=knn")
    features = f"paths.features={outputs}/features"
    paths = [f"paths.outputs={outputs}", f"paths.data={tmp_path}/elsewhere", features]
    leave(run, 0.5, overrides={**overrides_of(run.config), "paths": paths})
    monkeypatch.delenv("SSL_TRANSFER_OUTPUTS", raising=False)
    (step,) = next_runs(read(outputs), ["knn"], "finetune", 1)
    assert f" {paths[0]} {paths[1]}" in step.commands[0]
    assert features not in step.commands[0]
    monkeypatch.chdir(tmp_path)
    (step,) = next_runs(read(outputs), ["knn"], "finetune", 1)
    assert step.commands[0].endswith(f"protocol=finetune {paths[1]}")


def test_what_a_record_sets_beside_its_axes_is_not_taken_over(tmp_path: Path) -> None:
    outputs = tmp_path / "o"
    run = composed(outputs, "protocol=knn")
    harmful = {**overrides_of(run.config), "model": ["model=small_resnet", "hydra.run.dir=/"]}
    leave(run, 0.5, overrides=harmful)
    (step,) = next_runs(read(outputs), ["knn"], "finetune", 1)
    assert step.commands == ()
    assert any("no option of this project composes" in note for note in step.notes)


def test_the_command_line_prints_comments_and_commands(tmp_path: Path, capsys) -> None:
    fill(tmp_path / "o")
    arguments = ["choose", "--outputs", str(tmp_path / "o"), "--proxy", "knn", "--next"]
    assert main([*arguments, "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("# digits: the 3 best by knn: small_resnet-simclr")
    assert all(line.startswith(("#", "python run.py ")) for line in lines)
    assert main([*arguments, "0"]) == 2
    assert "must be at least 1" in capsys.readouterr().err


def test_the_static_rank_needs_the_target_and_published_tables_have_no_commands(
    tmp_path: Path,
) -> None:
    fill(tmp_path / "o")
    with pytest.raises(ResultsError, match="needs scores of `finetune`"):
        next_runs(read(tmp_path / "o"), ["static_rank"], "finetune", 3)
    with pytest.raises(ResultsError, match="published tables have none"):
        next_runs(Results([]), ["knn"], "finetune", 3)
