"""The disk that runs need, beside the files that they write."""

from pathlib import Path

import pytest
from tiny_runs import run_all, tiny

from ssl_transfer.runs import Run, graph
from ssl_transfer.runs.disk import Disk, needed
from ssl_transfer.training import checkpoint

SAVING = "trainer.checkpoint_every_steps=1"
PRETRAINED = [
    "dataset@method.pretrain_on=digits", "method.pretrain_on.labels_per_class=4",
    "method.pretrain_on.test_per_class=2", "method.batch_size=16", "method.epochs=2",
    "method.warmup_epochs=0", "protocol=knn",
]  # fmt: skip


def total(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern))


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The size of each run's largest checkpoint, by its id."""
    sizes: dict[str, int] = {}
    save = checkpoint.save

    def recorded(path: Path, state: dict[str, object], header: checkpoint.Header) -> None:
        save(path, state, header)
        sizes[header.run] = max(sizes.get(header.run, 0), path.stat().st_size)

    monkeypatch.setattr(checkpoint, "save", recorded)
    return sizes


def near(estimate: int, size: int, tensors: int = 200) -> bool:
    """Whether a file has the estimated size, but for the names of its tensors."""
    return estimate <= size <= estimate + 1000 * tensors


@pytest.mark.parametrize(
    "choices",
    [
        ["protocol=finetune", "protocol.keep_encoder=true"],
        ["protocol=bn_tune"],
        ["protocol=attentive_probe", "protocol.grid.lr=[0.1,1]"],
        ["protocol=norm_tune"],
        ["protocol=bias_tune"],
        ["protocol=last_block"],
        ["protocol=linear_probe", "protocol.grid.lr=[0.1,1]", "protocol.epoch_selection=best"],
    ],
)
def test_a_tuned_classifier_leaves_its_head_and_checkpoints(
    tmp_path: Path, saved: dict[str, int], choices: list[str]
) -> None:
    run = tiny(tmp_path, *choices, SAVING, "protocol.epochs=2")
    disk = needed([run])
    assert run_all(run).failures == {}
    assert disk.features == 0
    assert near(disk.checkpoints[0], saved[run.id], 60)
    assert near(disk.kept, total(run.folder, "*.safetensors"), 10)


@pytest.mark.parametrize("method", ["moco_v2", "byol"])
def test_a_pretraining_leaves_its_encoder_and_checkpoints(
    tmp_path: Path, saved: dict[str, int], method: str
) -> None:
    run = tiny(tmp_path, f"method={method}", *PRETRAINED, SAVING, tuned=False).requirements[0]
    disk = needed([run])
    assert run_all(run).failures == {}
    assert near(disk.checkpoints[0], saved[run.id])
    assert near(disk.kept, total(run.folder, "*.safetensors"), 10)


def test_features_count_once_for_all_runs_and_not_at_all_where_they_exist(tmp_path: Path) -> None:
    def runs(*choices: str) -> list[Run]:
        return [
            tiny(tmp_path, "protocol=knn", *choices, tuned=False),
            tiny(tmp_path, "protocol=logistic_regression", "seed=1", *choices, tuned=False),
        ]

    first, second = runs(), runs(*PRETRAINED[:-1], "method=supervised")
    per_encoder = needed(first).features
    samples, dim = 60, first[0].config["model"]["width"] * 4
    assert per_encoder == samples * dim * 4
    assert needed(graph([*first, *second])).features == 2 * per_encoder
    assert run_all(*first).failures == {}
    assert needed(graph([*first, *second])).features == per_encoder
    files = total(tmp_path / "features", "*.npy")
    assert near(per_encoder, files, 3)
    assert run_all(*second).failures == {}
    assert needed(graph([*first, *second])).features == 0


def test_views_count_beside_images_and_half_precision_half(tmp_path: Path) -> None:
    def run(protocol: str, *keys: str) -> Run:
        return tiny(tmp_path, f"protocol={protocol}", *keys, tuned=False)

    views = run("alignment_uniformity")
    images, dim = 20, views.config["model"]["width"] * 4  # test images alone
    assert needed([views]).features == 3 * images * dim * 4
    assert needed([run("tsne")]).features == images * dim * 4
    assert needed([run("tsne", "protocol.feature_precision=fp16")]).features == images * dim * 2
    assert run_all(views).failures == {}
    assert needed([views, run("instance_discrimination"), run("tsne")]).features == 0


def test_at_the_peak_each_of_the_largest_checkpoints_exists_twice() -> None:
    disk = Disk(features=0, kept=0, predictions=0, checkpoints=(3, 0, 7, 5))
    assert [disk.peak_of_checkpoints(number) for number in (1, 2, 9)] == [14, 24, 30]
