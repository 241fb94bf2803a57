import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from results import ResultsError, Row
from results.agreement.baselines import BASELINES, known_baselines, proxy_scores, static_rank
from results.agreement.scores import Scores, scores
from results.published.catalogue import read_published
from results.records.encoder_facts import EncoderFacts
from results.records.reading import Results, read


def column(values: dict[str, dict[str, float]]) -> Scores:
    return Scores("finetune", values, values)


def test_the_static_rank_orders_encoders_by_their_mean_rank_on_the_other_datasets() -> None:
    generator = np.random.default_rng(0)
    table = np.round(generator.uniform(size=(4, 8)), 1)  # with ties
    target = column({f"d{i}": {f"e{j}": table[i, j] for j in range(8)} for i in range(4)})
    ranked = static_rank(target)
    for i in range(4):
        ranks = [stats.rankdata(-row) for k, row in enumerate(table) if k != i]
        expected = (8 - np.mean(ranks, axis=0)) / 7  # the share of the others that it beats
        computed = [ranked.on(f"d{i}")[0][f"e{j}"] for j in range(8)]
        np.testing.assert_allclose(computed, expected)


def test_the_static_rank_of_a_dataset_never_sees_its_scores() -> None:
    generator = np.random.default_rng(1)
    values = {f"d{i}": {f"e{j}": generator.uniform() for j in range(6)} for i in range(3)}
    before = static_rank(column(values)).raw["d1"]
    values["d1"] = {encoder: generator.uniform() for encoder in values["d1"]}
    assert static_rank(column(values)).raw["d1"] == before


def test_encoders_without_scores_on_a_dataset_are_ranked_on_those_they_have() -> None:
    values = {
        "d1": {"a": 1.0, "b": 2.0, "c": 3.0},
        "d2": {"a": 1.0, "b": 2.0},
        "d3": {"a": 5.0},  # one encoder has no rank
    }
    ranked = static_rank(column(values)).raw
    assert ranked["d3"] == {"a": 0.0, "b": 0.75, "c": 1.0}
    assert ranked["d1"] == {"a": 0.0, "b": 1.0}


def test_a_single_dataset_has_no_static_rank_but_a_reason() -> None:
    ranked = static_rank(column({"d1": {"a": 1.0}, "": {"a": 1.0}}))
    assert ranked.raw == {}
    assert "scores on 1 only" in ranked.undefined


def zoo(write, outputs: Path) -> Results:
    for number in range(6):
        for dataset in ("digits", "textures"):
            write(
                f"{number}" * 16,
                model=f"m{number}",
                method="as_is",
                protocol="finetune",
                dataset=dataset,
                value=0.4 + 0.05 * number,
                config={"model": {"facts": {"imagenet_top1": 0.6 + 0.01 * number}}},
                parameters=10**number,
                feature_dim=512,
            )
    return read(outputs)


def test_facts_are_scores_of_every_dataset(write, outputs: Path) -> None:
    results = zoo(write, outputs)
    target = scores(results, "finetune")
    raw, logs = proxy_scores(results, "parameters", target).on("digits")
    assert raw == {f"m{n}-as_is": 10.0**n for n in range(6)}
    assert logs["m3-as_is"] == pytest.approx(3 * math.log(10))
    top1 = proxy_scores(results, "imagenet_top1", target)
    assert top1.on("textures")[1]["m0-as_is"] == pytest.approx(math.log(0.6 / 0.4))
    assert (top1.percent("digits"), top1.bounded) == (100.0, {""})
    assert known_baselines(results, target) == ["static_rank", "parameters", "imagenet_top1"]


def test_unknown_facts_give_a_reason() -> None:
    row = Row("e", "e", "finetune", "d", 0, "m", 0.5, "fraction", True, True, "test", "")
    target = scores(Results([row]), "finetune")
    assert "unknown for all" in proxy_scores(Results([row]), "parameters", target).undefined
    assert known_baselines(Results([row]), target) == []


def test_an_added_encoder_changes_no_facts_of_the_others(write, outputs: Path) -> None:
    results = zoo(write, outputs)
    fewer = results.keep(without=["m5-as_is"])
    for name in ("parameters", "imagenet_top1", "feature_dim"):
        one, two = (proxy_scores(r, name, scores(r, "finetune")) for r in (results, fewer))
        assert {e: one.raw[""][e] for e in two.raw[""]} == two.raw[""]


def test_a_protocol_with_a_baselines_name_hides_it_and_unknown_names_list_both() -> None:
    rows = [
        Row(f"e{n}", f"{n}", protocol, "d", 0, "m", n / 9, "fraction", True, True, "test", "")
        for n in range(6)
        for protocol in ("finetune", "parameters")
    ]
    facts = {f"e{n}": EncoderFacts(parameters=10 - n) for n in range(6)}
    results = Results(rows, stated_facts=facts)
    target = scores(results, "finetune")
    assert proxy_scores(results, "parameters", target).raw["d"]["e3"] == pytest.approx(3 / 9)
    with pytest.raises(ResultsError, match="`finetune`, `parameters`, `static_rank`"):
        proxy_scores(results, "magic", target)
    assert set(BASELINES) == {"static_rank", "parameters", "imagenet_top1", "feature_dim"}


def test_published_tables_have_baselines() -> None:
    results = read_published(["transfer_2021_table1"])
    target = scores(results, "finetune")
    assert known_baselines(results, target) == ["static_rank", "imagenet_top1"]
    accuracies = proxy_scores(results, "imagenet_top1", target)
    imagenet = scores(read_published(["transfer_2021_imagenet"]), "imagenet")
    assert accuracies.raw == imagenet.raw
    assert accuracies.logits == imagenet.logits
