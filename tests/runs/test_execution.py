"""One run, from its configuration to what it leaves behind."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import odd_runs
import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import METHOD, run_all, tiny

import ssl_transfer
from launchers import sweep
from ssl_transfer import models, runs
from ssl_transfer.config import compose, plain
from ssl_transfer.errors import NotApplicable
from ssl_transfer.methods.pretraining import check
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols.base import Score
from ssl_transfer.runs import builders, execution, preflight
from ssl_transfer.system.files import write_json
from ssl_transfer.training.state import Checkpointer

RECORD = {
    "schema", "run_id", "status", "reason", "model", "method", "dataset", "protocol", "seed",
    "precision", "identity", "encoder", "scores", "config", "weights_sha256", "data", "requires",
    "started", "duration_s", "device", "versions", "code", "features", "overrides",
}  # fmt: skip
FAILURE = {
    "schema", "run_id", "model", "method", "dataset", "protocol", "seed", "encoder", "error",
    "traceback", "when",
}  # fmt: skip


@dataclasses.dataclass
class Raises:
    """A protocol that ends in a given way."""

    error: str = "ValueError"
    targets: ClassVar[frozenset[str]] = frozenset({"class"})
    calls: ClassVar[int] = 0

    def run(self, *arguments: Any) -> Iterator[Score]:
        type(self).calls += 1
        kinds = {k.__name__: k for k in (ValueError, NotApplicable, KeyError)}
        if self.error in kinds:
            raise kinds[self.error](f"{self.error} was asked for; ask for another.")
        yield Score("top1", 0.5, primary=True)


def raising(outputs: Path, error: str, *overrides: str) -> runs.Run:
    run = tiny(outputs, *overrides, tuned=False)
    node = {"_target_": "test_execution.Raises", "name": "raises", "error": error}
    return runs.Run({**run.config, "protocol": node})


@pytest.fixture(autouse=True)
def no_calls() -> None:
    Raises.calls = 0


def no_work(*arguments: Any) -> Any:
    raise AssertionError("something was computed")


def test_a_record_says_what_was_done_on_what_by_what(tmp_path: Path) -> None:
    run = tiny(tmp_path, "protocol=finetune", "seed=3")
    outcome = run_all(run)
    assert (outcome.failures, outcome.computed, outcome.exit_code) == ({}, 1, 0)
    record = json.loads((tmp_path / run.place / "record.json").read_text())
    assert record.keys() >= RECORD | {"selection", "trainable"}
    assert record["schema"] == 1
    assert record["run_id"] == run.id
    assert record["status"] == "finished"
    names = [record[key] for key in ("model", "method", "dataset", "protocol", "seed")]
    assert names == ["small_resnet", "as_is", "digits", "finetune", 3]
    (score,) = (score for score in record["scores"] if score["primary"])
    assert score["metric"] == "top1"
    assert score["split"] == "test"
    assert score["unit"] == "fraction"
    assert (score["value"] * 20) == pytest.approx(round(score["value"] * 20))  # of 20 images
    assert record["trainable"]["share"] == 1.0
    assert record["requires"] == []
    assert runs.Run(record["config"]).id == run.id
    assert record["started"].endswith("+00:00")
    assert (record["data"]["fingerprint"], record["device"]) != ("", "")
    left = sorted(path.name for path in run.folder.iterdir())
    assert left == ["metrics.jsonl", "record.json", "test_predictions.npz"]


def test_weights_as_they_are_are_identified_by_their_bytes(tmp_path: Path) -> None:
    run = tiny(tmp_path, "protocol=knn", tuned=False)
    assert execution.encoder_id(run) is None
    run_all(run)
    encoder = models.build(run.resolved["model"], seed=0)
    assert run.record()["weights_sha256"] == models.fingerprint(encoder)
    stated = run.record()["encoder"]
    assert stated["id"] == models.fingerprint(encoder)[:16]
    assert stated["label"] == "small_resnet"
    assert stated["parameters"] == sum(p.numel() for p in encoder.backbone.parameters())
    assert stated["feature_dim"] == encoder.feature_dim
    assert Preprocessing().replaced(values=stated["preprocessing"]) == encoder.preprocessing


def test_nothing_is_computed_twice_unless_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny(tmp_path, "protocol=knn", tuned=False)
    assert run_all(run).computed == 1
    first = run.record()
    monkeypatch.setattr(execution, "_work", no_work)
    assert run_all(run).computed == 0
    assert execution.execute(run) == first
    monkeypatch.undo()
    forced = tiny(tmp_path, "protocol=knn", "force=true", tuned=False)
    assert forced.id == run.id
    assert run_all(forced).computed == 1
    assert run.record()["scores"] == first["scores"]


def test_the_last_line_of_a_pretraining_shows_the_last_monitored_accuracy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny(tmp_path, *METHOD, "protocol=pretrain", "trainer.monitor.every_steps=1", tuned=False)
    assert run_all(run).failures == {}
    lines = [json.loads(text) for text in (run.folder / "metrics.jsonl").read_text().splitlines()]
    (accuracy,) = (line["knn_top1"] for line in lines if "knn_top1" in line)
    assert f"  kNN top1 {100 * accuracy:.2f} % (monitor) (" in capsys.readouterr().out


def test_every_protocol_judges_the_weights_that_one_pretraining_left(tmp_path: Path) -> None:
    asked = [
        tiny(tmp_path, *METHOD, "protocol=linear_probe"),
        tiny(tmp_path, *METHOD, "protocol=knn", tuned=False),
        tiny(tmp_path, *METHOD, "protocol=knn", "seed=1", tuned=False),
    ]
    outcome = run_all(*asked)
    assert (outcome.failures, outcome.computed) == ({}, 4)
    (pretraining,) = asked[0].requirements
    record = pretraining.record()
    assert record["scores"] == []
    assert record["dataset"] is None
    assert record["encoder"]["id"] == pretraining.id
    assert record["encoder"]["label"] == "small_resnet-supervised"
    assert load_file(pretraining.folder / "encoder.safetensors")
    encoder = models.build(pretraining.resolved["model"])
    random = models.fingerprint(encoder)
    models.load_encoder(encoder, pretraining.folder)
    assert record["weights_sha256"] == models.fingerprint(encoder) != random
    for run in asked:
        assert run.record()["encoder"] == record["encoder"]
        assert run.record()["weights_sha256"] == record["weights_sha256"]
        assert run.record()["requires"] == [pretraining.id]


def test_a_failure_is_a_sentence_and_a_trace_and_sticks_until_retried(tmp_path: Path) -> None:
    run = raising(tmp_path, "ValueError")
    outcome = run_all(run)
    assert outcome.failures == {run.id: "ValueError was asked for; ask for another."}
    assert outcome.exit_code == 1
    failure = json.loads((run.folder / "failure.json").read_text())
    assert failure.keys() >= FAILURE
    assert failure["error"] == "ValueError was asked for; ask for another."
    assert "in run\n" in failure["traceback"]
    assert not run.is_finished
    assert "`retry=true` runs it again" in run_all(run).failures[run.id]
    assert Raises.calls == 1
    again = raising(tmp_path, "ValueError", "retry=true")
    assert again.id == run.id
    run_all(again)
    assert Raises.calls == 2


def test_a_run_that_succeeds_at_last_leaves_no_failure(tmp_path: Path) -> None:
    run = raising(tmp_path, "none")
    failure = {"run_id": run.id, "error": "the disk was full", "traceback": "", "stage": "work"}
    write_json(run.folder / "failure.json", failure)
    assert run_all(run).failures[run.id].startswith("the disk was full (failed earlier")
    assert run_all(raising(tmp_path, "none", "retry=true")).failures == {}
    assert sorted(p.name for p in run.folder.iterdir()) == ["metrics.jsonl", "record.json"]


def test_a_bug_in_a_protocol_is_named_with_its_kind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = raising(tmp_path, "KeyError")
    assert run_all(run).failures[run.id].startswith("KeyError: ")
    assert "Traceback" in caplog.text


def test_what_makes_no_sense_is_recorded_and_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = raising(tmp_path, "NotApplicable")
    assert run_all(run).exit_code == 0
    assert run.record()["status"] == "not_applicable"
    assert run.record()["reason"] == "NotApplicable was asked for; ask for another."
    assert run.record()["scores"] == []
    assert "not applicable: NotApplicable was asked for" in capsys.readouterr().out
    assert run_all(run).computed == 0


def test_one_failure_stops_neither_the_others_nor_goes_unnoticed(tmp_path: Path) -> None:
    asked = [raising(tmp_path, "ValueError"), tiny(tmp_path, "protocol=knn", tuned=False)]
    outcome = run_all(*asked)
    assert (list(outcome.failures), outcome.computed) == ([asked[0].id], 1)
    assert asked[1].is_finished


def test_what_requires_a_failed_pretraining_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny(tmp_path, *METHOD, "protocol=knn", tuned=False)

    def full(*arguments: Any, **keys: Any) -> None:
        raise OSError("the disk is full; free some space.")

    monkeypatch.setattr(execution, "_leave_encoder", full)
    (pretraining,) = run.requirements
    assert run_all(run).failures == {
        pretraining.id: "the disk is full; free some space.",
        run.id: (
            f"requires {pretraining.describe()}, which failed: the disk is full; free some space."
        ),
    }
    assert not run.folder.exists()


def test_a_debug_run_takes_two_steps_in_a_folder_of_its_own(tmp_path: Path) -> None:
    run = tiny(tmp_path, "protocol=finetune", "debug=true", "protocol.batch_size=2")
    assert run.id != tiny(tmp_path, "protocol=finetune", "protocol.batch_size=2").id
    assert run_all(run).failures == {}
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert max(line.get("step", 0) for line in lines) <= 2


@pytest.mark.slow
def test_wandb_gets_the_numbers_offline_under_the_runs_own_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = tiny(tmp_path, "protocol=knn", "logger=wandb", "logger.mode=offline", tuned=False)
    assert run.id == tiny(tmp_path, "protocol=knn", tuned=False).id
    outcome = run_all(run)
    assert outcome.failures == {}
    (kept,) = (run.folder / "wandb").glob("offline-run-*")
    assert kept.name.endswith(run.id)


def test_a_template_of_an_unknown_name_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    run = tiny(tmp_path, "protocol=knn", "logger=wandb", "logger.mode=offline",
               "logger.group='{modell}'", tuned=False)  # fmt: skip
    (told,) = run_all(run).failures.values()
    assert told.startswith("`logger` templates must use names among ['dataset', 'label', 'method'")


def test_left_to_do_is_what_has_no_record(tmp_path: Path) -> None:
    run = tiny(tmp_path, "protocol=knn", tuned=False)
    assert sweep.left_to_do(run)
    run_all(run)
    assert not sweep.left_to_do(run)


def pretraining(outputs: Path, *overrides: str) -> runs.Run:
    small = ["protocol=pretrain", "method.epochs=1", "method.warmup_epochs=0"]
    return tiny(outputs, *small, *overrides, tuned=False, data=False)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (["method=simclr", "method.batch_size=1"], "`batch_size` must be at least 2 for SimCLR"),
        (["method=w_mse", "method.batch_size=64"], "`batch_size` must be at least 128 for WMSE"),
        (["method=simclr", "method.batch_size=3000"], "at least one whole batch of 3000"),
        (["method=moco_v2", "method.queue_size=64"], "`batch_size` must be at most 64 for MoCo"),
        (
            ["method=moco_v2", "method.queue_size=200", "method.symmetric=true"],
            "`batch_size` must be at most 100 for MoCo",
        ),
        (["method=swav", "method.queue_size=100"], "`batch_size` must be at most 100 for SwAV"),
        (
            [
                *("method=seed", "method.teacher=small_resnet", "method.queue_size=64"),
                "method.teacher_output=features",
            ],
            "`batch_size` must be at most 64 for SEED",
        ),
        (
            ["method=seed", "method.teacher=small_resnet"],
            "`method.teacher_output=embeddings`, but that of `small_resnet` is not beside its",
        ),
        (["method=simclr", "trainer.accumulate=2"], "`trainer.accumulate` must be 1 for SimCLR"),
        (
            ["method=byol", "method.bn_groups=1", "trainer.accumulate=2"],
            "`bn_groups` must be a multiple of processes × `trainer.accumulate`",
        ),
        (["method=simclr", "method.bn_groups=128"], "`batch_size` must be at least 2 per group"),
        (["method=simclr", "method.views=[{}]"], "`method.views` must describe at least 2 view(s)"),
        (
            ["method=simclr", "method.views=[{},{size:8}]"],
            "`method.views` must have one `size` for SimCLR, but have the sizes [16, 8]",
        ),
        (
            ["method=swav", "method.views=[{},{count:4,size:8}]"],
            "`method.views` must have one `size` for SwAV, but for smaller ones after the first",
        ),
        (
            ["method=dino", "method.views=[{count:2},{size:24}]"],
            "`method.views` must have one `size` for DINO, but for smaller ones after the first",
        ),
        (
            ["method=simclr", "+dataset@trainer.monitor.dataset=cifar10"],
            "`cifar10` must lie in",
        ),
        (
            ["method=simclr", "dataset@method.pretrain_on=cifar10"],
            "set method.pretrain_on.root, or method.pretrain_on.download=true",
        ),
    ],
)
def test_a_method_that_does_not_fit_is_told_before_anything_is_trained(
    line: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "execute", no_work)
    run = pretraining(tmp_path, *line, f"paths.data={tmp_path}")
    (reason,) = run_all(run).failures.values()
    assert told in reason
    assert run.failure()["stage"] == "check"  # tried again once it is put right


def test_a_loss_of_classes_is_refused_images_without_one(tmp_path: Path) -> None:
    run = pretraining(tmp_path, "method=supervised")
    dataset, method = builders.dataset_of(run), run.resolved["method"]
    shape = models.build(run.resolved["model"])
    check(shape, dataset, method, accumulate=1)
    for target, told in (("none", "images without labels"), ("classes", "several classes")):
        other = dataclasses.replace(dataset, target=target)
        with pytest.raises(ValueError, match=f"one class per image for Supervised, but.*{told}"):
            check(shape, other, method, accumulate=1)


def test_what_will_hardly_be_meant_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shared = ["protocol=pretrain", "method=simclr", f"paths.outputs={tmp_path}", "model=resnet18"]
    large = runs.Run(plain(compose([*shared, "model.stem=cifar"])))
    assert preflight.check(large) is None
    assert "`model.stem=cifar` is made for images of 32 to 96 px" in caplog.text
    assert "49 times" in caplog.text
    caplog.clear()
    assert preflight.check(runs.Run(plain(compose(shared)))) is None
    assert "images of 48 px are enlarged to 224 px; did you mean `model.stem=cifar" in caplog.text
    caplog.clear()
    fine = ["model.stem=cifar", "model.preprocessing.size=32"]
    assert preflight.check(runs.Run(plain(compose([*shared, *fine])))) is None
    assert caplog.text == ""


def test_views_of_a_size_that_a_transformer_does_not_take_are_told(tmp_path: Path) -> None:
    shared = [f"paths.outputs={tmp_path}", "protocol=pretrain", "method=swav"]
    views = "method.views=[{count:2},{size:96}]"
    run = runs.Run(plain(compose([*shared, "model=vit_tiny", views])))
    assert "`method.views` must have sizes that `model` takes, but 96 px" in preflight.check(run)
    smaller = "method.views=[{count:2},{size:16}]"
    assert preflight.check(runs.Run(plain(compose([*shared, smaller])))) is None


def test_a_bug_in_an_encoder_that_a_check_meets_stops_no_other_run(tmp_path: Path) -> None:
    (fault := tmp_path / "fault").touch()
    small = ["method.epochs=1", "method.warmup_epochs=0", "method.batch_size=16"]
    bad = odd_runs.odd(tmp_path, "Broken", f"+model.file={fault}", "method=simclr", *small,
                       "protocol=pretrain")  # fmt: skip
    outcome = run_all(bad, good := tiny(tmp_path, "protocol=knn", tuned=False))
    assert outcome.failures == {bad.id: "ArithmeticError: the encoder is broken"}
    assert good.is_finished


@pytest.mark.parametrize(
    ("option", "told"),
    [("trainer.device=cuda:99", "`trainer.device`"), ("precision=fp16", "`precision=fp16` must")],
)
def test_what_this_computer_cannot_do_is_a_sentence_and_no_mark_on_the_run(
    option: str, told: str, tmp_path: Path
) -> None:
    run = pretraining(tmp_path, "method=simclr", option)
    (reason,) = run_all(run).failures.values()
    assert reason.startswith(told)
    assert sweep.sticky_failure(run) is None


def test_an_encoder_that_the_last_step_broke_is_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(checkpointer: Checkpointer, step: int, steps: int, *, stopping: bool) -> None:
        if step + 1 == steps:
            with torch.no_grad():
                next(checkpointer.state.learner.encoder.parameters())[0] = torch.nan

    monkeypatch.setattr(Checkpointer, "after", breaks)
    run = tiny(tmp_path, *METHOD, "protocol=pretrain", tuned=False, data=False)
    (reason,) = run_all(run).failures.values()
    assert reason.startswith("the weights that a pre-training leaves must be finite, but `backbone")
    assert not (run.folder / "encoder.safetensors").exists()


def test_outputs_that_have_nowhere_to_go_are_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(sweep.SweepRefused):
        run_all(pretraining(tmp_path / "file", "method=simclr"))
    told = capsys.readouterr().err
    assert told.startswith("error: `paths.outputs` must be a folder that can be written to")


def test_an_encoder_asked_for_later_is_added_to_the_run(tmp_path, caplog):
    line = ["protocol=linear_probe", "protocol.grid.lr=[0.1]", "protocol.augmentation=none"]
    plainly = tiny(tmp_path, *line)
    assert run_all(plainly).computed == 1
    record = plainly.record()
    caplog.set_level("INFO")
    keeping = tiny(tmp_path, *line, "protocol.keep_encoder=true")
    assert (keeping.id, keeping.folder) == (plainly.id, plainly.folder)
    assert plainly.is_finished
    assert not keeping.is_finished
    assert run_all(keeping).computed == 1
    assert keeping.is_finished
    assert (keeping.folder / "head.safetensors").is_file()
    assert keeping.record() == {**record, "files": keeping.record()["files"]}
    assert "nothing was trained" in caplog.text
    classifier = ssl_transfer.load_classifier(keeping.folder)  # checks the files of the record
    assert classifier.preprocessing == ssl_transfer.load_classifier(plainly.folder).preprocessing
    # Both commands find it finished, and the encoder stays.
    assert run_all(plainly, keeping).computed == 0
    # What the record says was measured otherwise is told.
    record = keeping.record()
    record["scores"][0]["value"] += 0.25
    write_json(keeping.folder / "record.json", record)
    for name in ("encoder", "head"):
        (keeping.folder / f"{name}.safetensors").unlink()
    assert run_all(keeping).computed == 1
    assert "`top1` on test was" in caplog.text


@pytest.mark.parametrize(("flip", "warned"), [("true", True), ("false", False)])
def test_flips_that_differ_between_pretraining_and_evaluation_are_told(
    tmp_path, caplog, flip, warned
):
    preflight._say_flips.cache_clear()
    run = tiny(tmp_path, *METHOD, f"method.pretrain_on.flip={flip}", "protocol=linear_probe")
    assert preflight.check(run) is None
    message = "with method.pretrain_on.flip=true and evaluated with dataset.flip=false"
    assert (message in caplog.text) == warned


@pytest.mark.parametrize(("folder", "warned"), [("photos", True), ("others", False)])
def test_flips_are_compared_for_one_folder_that_two_readers_read(tmp_path, caplog, folder, warned):
    preflight._say_flips.cache_clear()
    run = tiny(
        tmp_path, "method=simclr", "dataset=image_folder", f"dataset.root={tmp_path}/photos",
        "dataset.flip=false", "dataset@method.pretrain_on=unlabelled_folder",
        f"method.pretrain_on.root={tmp_path}/{folder}/", data=False,
    )  # fmt: skip
    preflight._warn_of_flips(run)
    assert ("method.pretrain_on.flip=true and evaluated" in caplog.text) == warned
