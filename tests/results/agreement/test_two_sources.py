import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import weightedtau

from results import ResultsError
from results.agreement.ceiling import between_sources
from results.agreement.correlations import MEAN, Name, correlate, correlate_scores, proxies_of
from results.agreement.scores import scores
from results.agreement.two_sources import matching, target_from
from results.published.catalogue import read_published
from results.records.reading import read

FIRST, SECOND = "transfer_2021_table1", "sfda_2022_self_supervised"
SUPERVISED = "sfda_2022_supervised"
WEIGHTED: list[Name] = ["weighted_kendall"]


def mean_weighted_kendall(proxy: str, source: str | None, table: str) -> float:
    results = read_published([table])
    target = scores(results, "finetune")
    if source is not None:
        target, _ = target_from(source, "finetune", results, [table])
    entries = correlate_scores(target, proxies_of(results, [proxy], target), WEIGHTED)
    return {e.dataset: e.coefficients["weighted_kendall"].value for e in entries}[MEAN]


@pytest.mark.parametrize(
    ("proxy", "source", "table", "known"),
    [
        ("static_rank", None, SECOND, 0.685),
        ("static_rank", None, SUPERVISED, 0.837),
        # By torchvision's own counts, which include Inception's auxiliary classifiers, it is .578.
        ("parameters", None, SUPERVISED, 0.609),
        ("logistic_regression", SECOND, FIRST, 0.613),
        ("finetune", SECOND, FIRST, 0.786),
    ],
)
def test_baselines_and_the_ceiling_of_published_tables_are_the_known_ones(
    proxy: str, source: str | None, table: str, known: float
) -> None:
    assert mean_weighted_kendall(proxy, source, table) == pytest.approx(known, abs=0.0005)


def test_the_target_of_another_table_is_matched_by_names_and_compared_as_scipy_does() -> None:
    results = read_published([FIRST])
    target, told = target_from(SECOND, "finetune", results, [FIRST])
    (linear,) = proxies_of(results, ["logistic_regression"], target)
    (entry,) = [e for e in correlate_scores(target, [linear], WEIGHTED) if e.dataset == "aircraft"]
    encoders = sorted(target.raw["aircraft"])
    x, y = ([one.raw["aircraft"][e] for e in encoders] for one in (linear, target))
    assert entry.coefficients["weighted_kendall"].value == pytest.approx(weightedtau(x, y)[0])
    assert entry.coefficients["weighted_kendall"].n == 12
    assert (entry.target, told) == ("finetune of sfda_2022_self_supervised", [])


def test_the_ceiling_between_two_tables_is_the_agreement_of_their_targets() -> None:
    results = read_published([FIRST])
    entries = between_sources(
        results, scores(results, "finetune"), "finetune", SECOND, WEIGHTED, [FIRST]
    )
    values = {e.dataset: e.coefficients["weighted_kendall"].value for e in entries}
    assert values["aircraft"] == pytest.approx(0.442, abs=0.0005)
    # Without Food-101, which has another name in the reference's file, the mean is .767.
    without = [v for d, v in values.items() if d not in ("food101", MEAN, "average log-odds")]
    assert np.mean(without) == pytest.approx(0.767, abs=0.0005)
    assert entries[0].proxy == "ceiling: finetune of sfda_2022_self_supervised"


def test_own_encoders_are_matched_by_the_names_of_their_released_weights(
    write, outputs: Path
) -> None:
    archs = ("resnet34", "resnet50", "resnet101", "resnet152", "densenet121", "other")
    for number, arch in enumerate(archs):
        label = f"torchvision_{arch}"
        write(
            f"{number}" * 16,
            model=label,
            method="as_is",
            dataset="dtd",
            value=0.5 + number / 20,
            encoder_label=label,
        )
    results = read(outputs)
    target, told = target_from(SUPERVISED, "finetune", results)
    assert set(target.raw) == {"dtd"}
    assert target.raw["dtd"]["torchvision_resnet50"] == pytest.approx(0.7472)
    assert target.logits["dtd"]["torchvision_resnet50"] == pytest.approx(math.log(0.7472 / 0.2528))
    assert target.percent("dtd") == 100
    assert "`mobilenet_v2-supervised`" in told[0]
    (entry,) = correlate_scores(target, proxies_of(results, ["linear_probe"], target))
    assert entry.coefficients["spearman"].n == 5


def test_ambiguous_names_are_left_out() -> None:
    assert matching(["swav"], ["swav size=96", "swav size=128"], {}) == {}
    assert matching(["swav"], ["swav size=96", "swav"], {}) == {"swav": "swav"}
    assert matching(["a", "b"], ["c"], {"a": ["c"], "b": ["c"]}) == {}
    assert matching(["theirs"], ["own"], {"own": ["theirs"]}) == {"theirs": "own"}


def test_sources_that_share_nothing_and_unknown_ones_are_one_sentence(write, outputs: Path) -> None:
    write(dataset="digits")
    with pytest.raises(ResultsError, match="must share an encoder, but none"):
        target_from(SECOND, "finetune", read(outputs))
    with pytest.raises(ResultsError, match=r"`sfda_2022_supervised`.*a folder.*`nowhere`"):
        target_from("nowhere", "finetune", read_published([FIRST]))
    write(model="byol", method="as_is", dataset="digits", encoder_label="byol")
    with pytest.raises(ResultsError, match="must share a dataset, but none"):
        target_from(SECOND, "finetune", read(outputs))


def test_own_records_may_be_the_second_source(write, outputs: Path) -> None:
    for number, name in enumerate(("byol", "swav", "pirl", "insdis", "infomin")):
        write(
            f"{number}" * 16,
            model=name,
            method="as_is",
            protocol="finetune",
            dataset="dtd",
            value=0.6 + number / 20,
            encoder_label=name,
        )
    results = read_published([FIRST])
    target, told = target_from(str(outputs), "finetune", results)
    assert target.raw["dtd"]["pirl"] == pytest.approx(0.7)
    assert told == []
    expected = correlate(read(outputs), ["static_rank"], "finetune")[0].coefficients["spearman"]
    (ranked,) = proxies_of(results, ["static_rank"], target)
    assert correlate_scores(target, [ranked])[0].coefficients["spearman"].note[:9] == "undefined"
    assert expected.note[:9] == "undefined"
