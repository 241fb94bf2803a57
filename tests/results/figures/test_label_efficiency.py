"""The figure of scores against the number of labels."""

from pathlib import Path

import numpy as np
import pytest
from drawings import SVG, encoder_groups, outside, overlaps

from results.agreement.analysis import analyse
from results.commands.main import main
from results.figures.catalogue import chart
from results.figures.drawing import NotDrawn
from results.figures.label_efficiency import efficiencies
from results.figures.theme import PAPER
from results.records.reading import read

FRACTIONS = {0.01: 10, 0.1: 100, None: 1000}
"""Fraction of the labels -> their number."""


def fill(write, encoders: int = 3, protocols: tuple[str, ...] = ("knn", "finetune")) -> None:
    """Write scores of encoders with three numbers of labels on two sets, for two seeds."""
    generator = np.random.default_rng(0)
    for number in range(encoders):
        for dataset in ("digits", "textures"):
            for protocol in protocols:
                for fraction, labels in FRACTIONS.items():
                    keys = {} if fraction is None else {"label_fraction": fraction}
                    for seed in (0, 1):
                        base = 0.2 + 0.2 * np.log10(labels / 10) + 0.02 * number
                        write(
                            f"{number}" * 16, model=f"m{number}", method="as_is", seed=seed,
                            protocol=protocol, dataset=dataset, config={"dataset": keys},
                            value=base + 0.02 * generator.uniform(),
                            data={"sizes": {"train": labels - 2, "val": 2, "test": 500}},
                        )  # fmt: skip


def test_a_curve_holds_the_mean_score_for_each_number_of_labels(write, outputs: Path) -> None:
    fill(write)
    panels = efficiencies(read(outputs))
    assert [(one.dataset, one.protocol) for one in panels] == [
        ("digits", "finetune"), ("digits", "knn"), ("textures", "finetune"), ("textures", "knn"),
    ]  # fmt: skip
    results = read(outputs)
    for panel in panels:
        assert panel.metric == "top1 (%)"
        assert list(panel.curves) == ["m0-as_is", "m1-as_is", "m2-as_is"]
        for encoder, curve in panel.curves.items():
            assert [level.labels for level in curve] == [10, 100, 1000]
            for level, fraction in zip(curve, FRACTIONS, strict=True):
                label = panel.dataset + (f" label_fraction={fraction}" if fraction else "")
                values = [row.value for row in results.rows
                          if (row.encoder, row.protocol, row.dataset)
                          == (encoder, panel.protocol, label)]  # fmt: skip
                assert len(values) == 2
                assert level.score == pytest.approx(100 * np.mean(values))
                assert level.interval[0] < level.score < level.interval[1]


def test_points_stand_at_the_logarithm_of_their_labels_in_their_encoders_group(
    write, outputs: Path
) -> None:
    fill(write)
    drawing = chart("label_efficiency", analyse(read(outputs), ["knn"]), PAPER)
    marks = [g for g in encoder_groups(drawing) if "labels" in str(g.get("aria-label"))]
    assert len(marks) == 4 * 3
    for mark in marks:
        across = [float(str(circle.get("cx"))) for circle in mark.iter(f"{SVG}circle")]
        assert len(across) == 3
        assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.11)
        assert len(list(mark.iter(f"{SVG}path"))) == 4  # the curve and three intervals
    assert drawing.caption.endswith("Bars are 95 % intervals.")
    assert overlaps(drawing) == []
    assert outside(drawing) == []


def test_many_encoders_and_sets_keep_their_texts_apart(write, outputs: Path) -> None:
    fill(write, encoders=10, protocols=("linear_probe", "bn_tune", "finetune", "knn"))
    drawing = chart("label_efficiency", analyse(read(outputs), ["knn"]), PAPER)
    assert overlaps(drawing) == []
    assert outside(drawing) == []


def test_labels_per_class_lie_on_the_same_axis(write, outputs: Path) -> None:
    for count, value in ((20, 0.4), (50, 0.6)):
        write(protocol="knn", value=value, config={"dataset": {"labels_per_class": count}},
              data={"sizes": {"train": 8 * count, "val": 2 * count}})  # fmt: skip
    write(protocol="knn", value=0.7, data={"sizes": {"train": 900, "id_val": 50, "ood_val": 50}})
    (panel,) = efficiencies(read(outputs))
    (curve,) = panel.curves.values()
    assert [(level.labels, round(level.score)) for level in curve] == [
        (200, 40), (500, 60), (1000, 70)
    ]  # fmt: skip


def test_without_two_numbers_of_labels_there_is_no_figure_but_a_reason(
    write, outputs: Path, capsys
) -> None:
    write(protocol="finetune", data={"sizes": {"train": 9, "val": 1}})
    results = read(outputs)
    assert efficiencies(results) == []
    with pytest.raises(NotDrawn, match="two numbers of labels of a dataset"):
        chart("label_efficiency", analyse(results))
    # Records that do not state their sizes make no curve either.
    write(protocol="finetune", config={"dataset": {"label_fraction": 0.1}})
    assert efficiencies(read(outputs)) == []
    capsys.readouterr()


def test_the_command_draws_it_and_the_report_has_a_section(write, outputs: Path) -> None:
    fill(write)
    folder = outputs.parent
    where = ["--outputs", str(outputs)]
    assert main(["plot", "label_efficiency", *where, "--out", str(folder)]) == 0
    assert "label_efficiency.svg" in {path.name for path in folder.iterdir()}
    assert main(["report", *where, "--out", str(folder / "report.html")]) == 0
    assert "figure-label_efficiency-0" in (folder / "report.html").read_text()
