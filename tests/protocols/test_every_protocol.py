"""Every protocol runs where nothing but the package is installed, on the set that it chooses."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import run_all

from ssl_transfer.config import compose, options, plain
from ssl_transfer.config.schema import CONF
from ssl_transfer.runs import Run

# A pre-training, what needs a classifier in the weights, and what needs several members.
OTHERS = ("pretrain", "score_as_is", "two_stage_finetune")
PROTOCOLS = [name for name in options("protocol") if name not in OTHERS]
SMALL = ["model.width=4", "model.preprocessing.size=16", "trainer.device=cpu"]
FEW = ["dataset.labels_per_class=8", "dataset.test_per_class=20"]
TUNING = ["protocol.epochs=1", "protocol.grid.lr=[0.1]", *FEW]
TUNINGS = (
    *("linear_probe", "attentive_probe", "bn_tune", "norm_tune", "bias_tune", "last_block"),
    "finetune",
)
TRAININGS = (*TUNINGS, "linear_probe_then_finetune")
MEASURES = [name for name in PROTOCOLS if name not in TRAININGS]
FEWER = {
    **dict.fromkeys(TUNINGS, TUNING),
    "linear_probe_then_finetune": [*TUNING, "protocol.head_from.epochs=1"],
    "few_shot": ["protocol.episodes=20"],
    "synthetic_invariance": ["protocol.images=50"],
    "transferability": ["protocol.lidar_images=20", "protocol.lidar_views=3", *FEW],
    "tsne": ["protocol.iterations=250", "protocol.max_samples=60"],
    "factor_regression": ["protocol.alphas=[0.1]", "protocol.gammas=[0.01]"],
    "real_world_invariance": ["dataset.step=48"],
    "alignment_uniformity": FEW,
    "instance_discrimination": FEW,
    "logistic_regression": ["protocol.wd_values=3", *FEW],
    "knn": FEW,
}
"""Keys that make a protocol's work smaller; all other values are the defaults."""


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_protocol_runs_on_the_set_that_it_chooses_and_has_one_primary_score(
    protocol: str, tmp_path: Path
) -> None:
    places = [f"paths.outputs={tmp_path}", f"paths.features={tmp_path / 'features'}"]
    quiet = ["trainer.progress_bar=false"]
    overrides = [f"protocol={protocol}", *SMALL, *FEWER.get(protocol, []), *places, *quiet]
    run = Run(plain(compose(overrides)))
    assert run_all(run).failures == {}
    record = run.record()
    assert record["status"] == "finished", record["reason"]
    primary = [score for score in record["scores"] if score["primary"]]
    assert len(primary) == 1
    assert isinstance(primary[0]["value"], float)
    for score in record["scores"]:
        if score["unit"] == "fraction":
            assert 0 <= score["value"] <= 1, score


@pytest.mark.slow
@pytest.mark.parametrize("protocol", MEASURES)
def test_the_command_of_a_protocol_alone_ends_well(protocol: str, tmp_path: Path) -> None:
    root = CONF.parent
    command = [sys.executable, str(root / "run.py"), f"protocol={protocol}"]
    places = [f"paths.outputs={tmp_path}", f"paths.features={tmp_path / 'features'}"]
    done = subprocess.run(
        [*command, *places], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
