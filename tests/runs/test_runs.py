import copy
import json

import pytest

from ssl_transfer import runs
from ssl_transfer.config import compose, plain
from ssl_transfer.models.weights import WEIGHTS_FILE
from ssl_transfer.runs import Run


@pytest.fixture(scope="module")
def configuration():
    return plain(compose(["method=simclr", "protocol=bn_tune"]))


def changed(config, path, value):
    config = copy.deepcopy(config)
    node = config
    *parents, key = path.split(".")
    for parent in parents:
        node = node[parent]
    node[key] = value
    return config


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("trainer.workers", 4),
        ("trainer.accumulate", 2),
        ("paths.outputs", "/elsewhere"),
        ("logger.name", "wandb"),
        ("method.resources", {"gpus": 4}),
        ("protocol.resources", {"gpus": 1}),
        ("dataset.sizes", "warn"),
        ("protocol.keep_encoder", True),
        ("method.pretrain_on.sizes", "warn"),
        ("retry", True),
        ("force", True),
    ],
)
def test_what_cannot_change_a_score_is_not_in_the_id(configuration, path, value):
    assert Run(changed(configuration, path, value)).id == Run(configuration).id


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", 1),
        ("precision", "bf16"),
        ("debug", True),
        ("model.name", "other"),
        ("dataset.split_seed", 1),
        ("protocol.epochs", 3),
        ("method.epochs", 3),
        ("method.seed", 3),
        ("method.optimizer.lr", 0.5),
    ],
)
def test_what_can_change_a_score_is_in_the_id(configuration, path, value):
    assert Run(changed(configuration, path, value)).id != Run(configuration).id


def test_a_folder_of_weights_and_the_file_in_it_are_the_same(configuration):
    ids = {
        Run(changed(configuration, "model.weights", {"path": path})).id
        for path in ("kept", "kept/", f"kept/{WEIGHTS_FILE}")
    }
    assert len(ids) == 1
    for path in ("/kept", "kept/other.safetensors", f"other/{WEIGHTS_FILE}"):
        assert Run(changed(configuration, "model.weights", {"path": path})).id not in ids


def test_the_order_of_keys_and_null_keys_leave_the_id_as_it_is(configuration):
    backwards = json.loads(json.dumps(configuration), object_pairs_hook=lambda p: dict(p[::-1]))
    assert Run(backwards).id == Run(configuration).id
    assert Run(changed(configuration, "protocol.added_later", None)).id == Run(configuration).id


def test_datasets_protocols_and_seeds_share_one_pretraining(configuration):
    (required,) = Run(configuration).requirements
    assert required.is_pretraining
    assert required.requirements == ()
    for path, value in [("seed", 5), ("protocol.epochs", 7), ("dataset.split_seed", 3)]:
        (same,) = Run(changed(configuration, path, value)).requirements
        assert same.id == required.id
    (other,) = Run(changed(configuration, "method.seed", 1)).requirements
    assert other.id != required.id
    assert other.seed == 1


def test_asking_for_the_pretraining_itself_gives_the_same_run(configuration):
    asked = Run(
        plain(compose(["method=simclr", "protocol=pretrain", "seed=4", "dataset=textures"]))
    )
    assert asked.id == Run(configuration).requirements[0].id
    assert asked.place == Run(configuration).requirements[0].place


def test_a_graph_holds_each_run_once_and_requirements_first(configuration):
    asked = [Run(changed(configuration, "seed", seed)) for seed in (0, 1, 0)]
    ordered = runs.graph(asked)
    assert [run.is_pretraining for run in ordered] == [True, False, False]
    assert [run.id for run in ordered[1:]] == [asked[0].id, asked[1].id]


def test_weights_as_they_are_require_nothing():
    run = Run(plain(compose(["method=as_is"])))
    assert run.requirements == ()
    assert run.label == "small_resnet"
    assert run.place.startswith("linear_probe/small_resnet_digits_")


def test_finishing_leaves_the_record_and_removes_what_a_resume_would_need(configuration, tmp_path):
    run = Run(changed(configuration, "paths.outputs", str(tmp_path)))
    run.folder.mkdir(parents=True)
    for name in ("checkpoint.pt", "progress.json", "failure.json", "metrics.jsonl"):
        (run.folder / name).write_text("{}")
    assert not run.is_finished
    record = {
        **run.identify(),
        "status": "finished",
        "scores": [],
        "encoder": {},
        "duration_s": 1.0,
    }
    runs.finish(run, record, run.folder)
    assert run.is_finished
    assert run.record() == {**record, "files": {}}
    assert sorted(p.name for p in run.folder.iterdir()) == ["metrics.jsonl", "record.json"]


def test_ids_stay_as_they_are():
    """A key added later needs a neutral default: finished runs must keep their ids."""
    pinned = {
        (): "abc5faa9fefb1f3c",
        ("method=simclr", "protocol=pretrain"): "50466743da1bd8e5",
        (
            "method=barlow_twins",
            "protocol=bn_tune",
            "dataset=textures",
            "seed=3",
        ): "86550c4b62f8b1f1",
    }
    found = {line: Run(plain(compose(list(line)))).id for line in pinned}
    assert found == pinned
