"""Intervals of scores over test images, and over seeds."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from predicted_runs import write_predicted

from results.records import replicates
from results.records.cells import cells
from results.records.predictions import FILE
from results.records.reading import Results, read
from results.records.replicates import CACHE
from results.records.score_intervals import Interval, cell_interval, score_interval

RIGHT = np.random.default_rng(0).random(200) < 0.8


@pytest.fixture(autouse=True)
def _nothing_is_remembered() -> None:
    replicates._of_run.cache_clear()


def only(outputs: Path, metric: str = "top1") -> Interval | None:
    results = read(outputs)
    return score_interval(results, results.rows[0].run_id, metric)


def of_cell(outputs: Path, encoder: str | None = None) -> Interval | None:
    results = read(outputs)
    table = cells(results, "finetune")
    (key,) = (key for key in table if encoder is None or encoder in key[0])
    return cell_interval(results, table[key])


def test_the_interval_of_top1_is_wilsons_up_to_the_noise_of_resamples(write, outputs) -> None:
    write_predicted(write, "1", RIGHT)
    expected = scipy.stats.binomtest(int(RIGHT.sum()), 200).proportion_ci(method="wilson")
    interval = only(outputs)
    assert interval is not None
    assert interval.over == "images"
    assert interval[:2] == pytest.approx((expected.low, expected.high), abs=0.006)
    per_class = only(outputs, "mean_per_class")
    assert per_class is not None
    assert per_class[:2] == pytest.approx(interval[:2], abs=0.01)


def test_an_interval_over_groups_is_wider(write, outputs: Path) -> None:
    right = np.repeat(RIGHT[:20], 10)
    write_predicted(write, "1", right, groups=np.repeat(np.arange(100, 120), 10))
    interval, size = only(outputs), 20
    assert interval is not None
    assert interval.over == "groups"
    # All images of a group are equal: Wilson's interval of 20 shares, with Student's quantile.
    assert interval.high - interval.low == pytest.approx(
        2 * scipy.stats.t.ppf(0.975, 19) * np.sqrt(right.mean() * (1 - right.mean()) / size),
        rel=0.2,
    )


def test_one_group_tells_nothing(write, outputs: Path) -> None:
    write_predicted(write, "1", RIGHT, groups=np.zeros(200, dtype=np.int64))
    assert only(outputs) is None


def test_a_run_without_its_predictions_has_no_interval(write, outputs: Path) -> None:
    folder = write_predicted(write, "1", RIGHT)
    assert only(outputs, "unknown") is None
    assert score_interval(read(outputs), "unknown", "top1") is None
    (folder / FILE).write_bytes(b"changed")
    assert only(outputs) is None
    (folder / FILE).unlink()
    assert only(outputs) is None


def test_predictions_that_give_another_score_have_no_interval(write, outputs: Path) -> None:
    folder = write_predicted(write, "1", RIGHT)
    document = json.loads((folder / "record.json").read_text())
    document["scores"][0]["value"] += 0.005
    (folder / "record.json").write_text(json.dumps(document))
    assert only(outputs) is None
    assert only(outputs, "mean_per_class") is not None


def test_few_shot_runs_have_an_interval_over_episodes(write, outputs: Path) -> None:
    accuracies = np.random.default_rng(1).beta(8, 4, 600)
    folder = write(protocol="few_shot", value=float(accuracies.mean()))
    np.savez(folder / "episodes.npz", accuracies=accuracies, drawn=np.array("abc"))
    document = json.loads((folder / "record.json").read_text())
    digest = hashlib.sha256((folder / "episodes.npz").read_bytes()).hexdigest()
    document["files"] = {"episodes.npz": digest}
    (folder / "record.json").write_text(json.dumps(document))
    interval = only(outputs)
    assert interval is not None
    assert interval.over == "episodes"
    half = 1.96 * accuracies.std() / np.sqrt(600)
    assert interval[:2] == pytest.approx(
        (accuracies.mean() - half, accuracies.mean() + half), abs=half / 10
    )


def test_replicates_are_kept_and_used_as_long_as_they_fit(
    write, outputs: Path, monkeypatch
) -> None:
    folder = write_predicted(write, "1", RIGHT)
    expected = only(outputs)
    (kept,) = (outputs / CACHE).iterdir()
    calls = []
    monkeypatch.setattr(replicates, "_from_predictions", lambda *_: calls.append(1))
    replicates._of_run.cache_clear()
    assert only(outputs) == expected
    assert calls == []
    for content in (b"", b"PK damaged", kept.read_bytes()[:-300]):
        kept.write_bytes(content)
        replicates._of_run.cache_clear()
        assert only(outputs) is None
    assert len(calls) == 3
    assert {path.name for path in folder.iterdir()} == {"record.json", FILE}


def test_outputs_that_cannot_be_written_to_are_read(write, outputs: Path) -> None:
    write_predicted(write, "1", RIGHT)
    (outputs / CACHE).write_text("no folder")
    assert only(outputs) is not None


def test_other_encoders_and_the_order_of_records_never_matter(write, outputs: Path) -> None:
    write_predicted(write, "5", RIGHT)
    alone = of_cell(outputs)
    write_predicted(write, "1", ~RIGHT)
    write_predicted(write, "7", RIGHT[::-1])
    replicates._of_run.cache_clear()
    assert of_cell(outputs, "epochs=5") == alone


def test_one_seed_speaks_of_images_alone_and_several_of_both(write, outputs: Path) -> None:
    write_predicted(write, "1", RIGHT, seed=0)
    one = of_cell(outputs)
    write_predicted(write, "1", RIGHT, seed=1)
    same = of_cell(outputs)
    chance = np.random.default_rng(4)
    for seed, share in ((2, 0.5), (3, 0.95)):
        write_predicted(write, "1", chance.random(200) < share, seed=seed)
    differing = of_cell(outputs)
    assert one is not None
    assert same is not None
    assert differing is not None
    assert (one.over, same.over) == ("images", "seeds and images")
    # Equal seeds add no variance, and differing ones much, with few degrees of freedom.
    assert same[:2] == pytest.approx(one[:2], abs=1e-6)
    assert differing.high - differing.low > 3 * (one.high - one.low)


def test_seeds_alone_give_students_interval(write, outputs: Path) -> None:
    values = [0.2, 0.5, 0.3]
    for seed, value in enumerate(values):
        write(protocol="finetune", value=value, unit="nats", seed=seed)
    interval = of_cell(outputs)
    assert interval is not None
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval()
    assert interval[:2] == pytest.approx((expected.low, expected.high))
    assert interval.over == "seeds"


def test_one_seed_without_predictions_has_no_interval(write, outputs: Path) -> None:
    write(protocol="finetune")
    assert of_cell(outputs) is None


def test_published_tables_have_no_folders() -> None:
    assert score_interval(Results([]), "", "top1") is None
