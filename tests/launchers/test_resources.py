"""What a run asks of a cluster: whose wish counts, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_runs import METHOD, tiny

from launchers import resources
from launchers.resources import Resources
from launchers.slurm import Options, SlurmLauncher
from launchers.sweep import SweepRefused
from ssl_transfer.runs import Run

CONF = Path(__file__).resolve().parents[2] / "conf" / "hydra" / "launcher" / "slurm.yaml"


def options(**given: Any) -> dict[str, Any]:
    """Return what Hydra hands to the launcher."""
    text = yaml.safe_load(CONF.read_text())
    del text["_target_"]
    return {**text, **given}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """An evaluation and the pre-training that it requires, with wishes of their own."""
    run = tiny(tmp_path_factory.mktemp("outputs"), *METHOD, "protocol=knn", tuned=False)
    run.config["protocol"]["resources"] = {"mem_gb": 8, "cpus_per_task": 2, "timeout_min": 30}
    run.config["method"]["resources"] = {"nodes": 2, "gpus_per_node": 4, "timeout_min": 600}
    (pretraining,) = run.requirements
    return run, pretraining


def refused(run: Run, capsys: pytest.CaptureFixture[str], **given: Any) -> list[str]:
    with pytest.raises(SweepRefused) as caught:
        resources.of(run, options(**given))
    assert caught.value.code == 2
    return capsys.readouterr().err.splitlines()


def test_the_options_file_has_every_key_and_the_defaults_of_the_code() -> None:
    given = options()
    assert given.keys() == Options.__dataclass_fields__.keys()
    assert given.pop("pretrain") == dict.fromkeys(Resources.__dataclass_fields__)
    for name, value in given.items():
        assert value is None or value == getattr(Options(), name), name


def test_each_kind_of_run_has_its_own_wishes(pair: tuple[Run, Run]) -> None:
    run, pretraining = pair
    assert resources.of(run, options()) == Resources(mem_gb=8, cpus_per_task=2, timeout_min=30)
    assert resources.of(pretraining, options()) == Resources(
        nodes=2, gpus_per_node=4, timeout_min=600
    )


def test_the_command_line_wins_and_for_pretraining_its_own_keys(pair: tuple[Run, Run]) -> None:
    run, pretraining = pair
    given = options(timeout_min=5, partition="gpu", pretrain={"partition": "long", "nodes": None})
    wants = resources.of(run, given)
    assert (wants.timeout_min, wants.partition, wants.mem_gb) == (5, "gpu", 8)
    wants = resources.of(pretraining, given)
    assert (wants.timeout_min, wants.partition, wants.nodes) == (5, "long", 2)


@pytest.mark.parametrize(
    ("wants", "processes", "tasks", "slots", "runs"),
    [
        (Resources(), 1, 1, 1, 1),
        (Resources(gpus_per_node=0), 1, 1, 1, 1),
        (Resources(gpus_per_node=4, nodes=2), 8, 4, 1, 1),
        (Resources(gpus_per_node=0, tasks_per_node=3, nodes=2), 6, 3, 1, 1),
        (Resources(gpus_per_node=4, tasks_per_node=1), 1, 1, 1, 1),
        (Resources(runs_per_job=5), 1, 1, 1, 5),
        (Resources(runs_per_gpu=3), 1, 1, 3, 3),
        (Resources(runs_per_gpu=3, gpus_per_node=0), 1, 1, 3, 3),
        (Resources(runs_per_gpu=3, runs_per_job=2), 1, 1, 3, 6),
    ],
)
def test_processes_and_slots_follow_from_the_wishes(
    wants: Resources, processes: int, tasks: int, slots: int, runs: int
) -> None:
    assert wants.problems() == []
    found = (wants.processes, wants.tasks, wants.slots, wants.runs_in_a_job)
    assert found == (processes, tasks, slots, runs)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"nodes": 0}, "`hydra.launcher.nodes` must be at least 1, but is 0."),
        ({"gpus_per_node": -1}, "`hydra.launcher.gpus_per_node` must be at least 0, but is -1."),
        ({"tasks_per_node": 0}, "`hydra.launcher.tasks_per_node` must be at least 1, but is 0."),
        ({"cpus_per_task": 0}, "`hydra.launcher.cpus_per_task` must be at least 1, but is 0."),
        ({"mem_gb": -1}, "`hydra.launcher.mem_gb` must be at least 0, but is -1."),
        ({"timeout_min": 0}, "`hydra.launcher.timeout_min` must be at least 1, but is 0."),
        ({"timeout_min": "1h"}, "`hydra.launcher.timeout_min` must be int, but is '1h'."),
        ({"gpus_per_node": 1.5}, "`hydra.launcher.gpus_per_node` must be int, but is 1.5."),
        ({"partition": 3}, "`hydra.launcher.partition` must be str or null, but is 3."),
        ({"setup": "module load cuda"},
         "`hydra.launcher.setup` must be a list of str, but is 'module load cuda'."),
        ({"runs_per_gpu": 2, "nodes": 2},
         "`runs_per_gpu` packs runs of a single process on one computer, but `nodes=2` and "
         "`tasks_per_node=1` give a run 2; set one of them to 1."),
        ({"runs_per_gpu": 2, "tasks_per_node": 2},
         "`runs_per_gpu` packs runs of a single process on one computer, but `nodes=1` and "
         "`tasks_per_node=2` give a run 2; set one of them to 1."),
        ({"runs_per_gpu": 2, "gpus_per_node": 4},
         "`gpus_per_node` must be 1 with `runs_per_gpu=2`, but is 4: jobs of one GPU each start "
         "sooner; set one of them to 1."),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_for_is_one_sentence(
    pair: tuple[Run, Run], capsys: pytest.CaptureFixture[str], given: dict[str, Any], said: str
) -> None:
    assert refused(pair[0], capsys, **given) == [f"error: {said}"]


def test_a_misspelt_wish_is_refused_where_it_stands(
    pair: tuple[Run, Run], capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(pair[1], capsys, pretrain={"gpus": 2, "timeout": 5})
    assert len(said) == 3
    assert said[0].startswith(
        "error: `hydra.launcher.pretrain.gpus` is not a key of `hydra.launcher.pretrain`; known "
        "keys: nodes, gpus_per_node, "
    )
    assert said[1].endswith("`hydra.launcher.pretrain`; did you mean `timeout_min`?")
    run = Run({**pair[0].config, "protocol": {**pair[0].config["protocol"]}})
    run.config["protocol"]["resources"] = {"memory_gb": 8}
    assert refused(run, capsys) == [
        "error: `protocol.resources.memory_gb` is not a key of `protocol.resources`; did you mean "
        "`mem_gb`?"
    ]


def test_a_misspelt_key_of_a_sites_own_file_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SweepRefused):
        SlurmLauncher(**options(partitoin="gpu", array_size="many"))
    assert capsys.readouterr().err.splitlines() == [
        "error: `hydra.launcher.partitoin` is not a key of `hydra.launcher`; did you mean "
        "`partition`?",
        "error: `hydra.launcher.array_size` must be int or null, but is 'many'.",
        "2 problems; nothing was started.",
    ]
