import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from results import ResultsError, Row
from results.agreement.correlation_tables import legend, to_csv_long, to_one_table, verdicts
from results.agreement.correlations import DEFAULT, MEAN, NAMES, POOLED, correlate, known_names
from results.agreement.scores import scores
from results.records.reading import Results, read


def row(encoder: int, protocol: str, dataset: str, value: float, **changes) -> Row:
    given = Row(
        f"e{encoder}", f"{encoder}", protocol, dataset, 0, "m", value, "fraction", True, True,
        "test", "",
    )  # fmt: skip
    return given._replace(**changes)


def random_results(encoders: int = 7, **changes) -> Results:
    generator = np.random.default_rng(0)
    rows = []
    for encoder in range(encoders):
        for dataset in ("d1", "d2"):
            for protocol in ("probe", "other", "finetune"):
                value = float(generator.uniform(0.2, 0.9))
                rows.append(row(encoder, protocol, dataset, value, **changes))
    return Results(rows)


def column(results: Results, protocol: str, dataset: str) -> np.ndarray:
    rows = [r for r in results.rows if (r.protocol, r.dataset) == (protocol, dataset)]
    return np.array([r.value for r in sorted(rows)])


def test_coefficients_are_those_of_scipy_raw_and_on_logits() -> None:
    results = random_results()
    found = correlate(results, ["probe"], "finetune", NAMES)[0]
    x, y = column(results, "probe", "d1"), column(results, "finetune", "d1")
    logit = [np.log(values / (1 - values)) for values in (x, y)]
    expected = {
        "pearson": stats.pearsonr(x, y)[0],
        "pearson (logit)": stats.pearsonr(*logit)[0],
        "spearman": stats.spearmanr(x, y)[0],
        "kendall": stats.kendalltau(x, y)[0],
        "weighted_kendall": stats.weightedtau(x, y)[0],
        "weighted_kendall_by_target": stats.weightedtau(y, x, rank=None)[0],
    }
    assert {n: c.value for n, c in found.coefficients.items()} == pytest.approx(expected)
    assert {c.n for c in found.coefficients.values()} == {7}


def test_many_proxies_are_compared_with_the_first_one_only() -> None:
    generator = np.random.default_rng(0)
    names = [f"p{number}" for number in range(5)]
    rows = [
        row(encoder, protocol, "d1", float(generator.uniform(0.2, 0.9)))
        for encoder in range(7)
        for protocol in (*names, "finetune")
    ]
    for count, differences in ((4, 6), (5, 4)):
        entries = correlate(Results(rows), names[:count], "finetune")
        assert sum(entry.is_difference for entry in entries) == differences


def test_seeds_are_averaged_before_anything_else() -> None:
    results = random_results()
    split = [
        r._replace(seed=seed, value=r.value + shift)
        for r in results.rows
        for seed, shift in ((0, 0.05), (1, -0.05))
    ]
    one, two = (
        correlate(results, ["probe"], "finetune"),
        correlate(Results(split), ["probe"], "finetune"),
    )
    for a, b in zip(one, two, strict=True):
        assert {n: c.value for n, c in a.coefficients.items()} == pytest.approx(
            {n: c.value for n, c in b.coefficients.items()}
        )
        assert all(c.n == 7 for c in b.coefficients.values())


def test_mean_and_average_log_odds_over_datasets() -> None:
    results = random_results()
    found = {one.dataset: one.coefficients for one in correlate(results, ["probe"], "finetune")}
    for name, c in found[MEAN].items():
        assert c.value == pytest.approx((found["d1"][name].value + found["d2"][name].value) / 2)
    x, y = (
        sum(np.log(v / (1 - v)) / 2 for v in (column(results, p, d) for d in ("d1", "d2")))
        for p in ("probe", "finetune")
    )
    assert found[POOLED]["pearson (logit)"].value == pytest.approx(stats.pearsonr(x, y)[0])
    assert found[POOLED]["kendall"].value == pytest.approx(stats.kendalltau(x, y)[0])
    assert "pearson" not in found[POOLED]


def test_only_encoders_with_both_scores_count_and_the_mean_log_odds_needs_all() -> None:
    results = random_results(8)
    gone = {("e0", "probe", "d1"), ("e1", "finetune", "d2")}
    results.rows = [r for r in results.rows if (r.encoder, r.protocol, r.dataset) not in gone]
    found = {one.dataset: one for one in correlate(results, ["probe"], "finetune")}
    counts = {d: one.coefficients["spearman"].n for d, one in found.items()}
    assert counts == {"d1": 7, "d2": 7, MEAN: 7, POOLED: 6}


def test_errors_count_with_their_sign_changed_and_unbounded_ones_without_logits() -> None:
    results = random_results()
    loss = [
        r._replace(value=-3 * r.value, unit="nats", higher_is_better=False)
        if r.protocol == "probe"
        else r
        for r in results.rows
    ]
    plain = correlate(results, ["probe"], "finetune", NAMES)[0].coefficients
    turned = correlate(Results(loss), ["probe"], "finetune", NAMES)[0].coefficients
    for name in set(NAMES) - {"pearson (logit)"}:
        assert turned[name].value == pytest.approx(plain[name].value)
    x, y = column(results, "probe", "d1"), column(results, "finetune", "d1")
    expected = stats.pearsonr(x, np.log(y / (1 - y)))[0]
    assert turned["pearson (logit)"].value == pytest.approx(expected)


def test_a_bounded_error_rate_gives_the_logits_of_its_accuracy() -> None:
    results = random_results()
    errors = [r._replace(value=1 - r.value, higher_is_better=False) for r in results.rows]
    one, two = (correlate(r, ["probe"], "finetune")[0] for r in (results, Results(errors)))
    for name, c in one.coefficients.items():
        assert c.value == pytest.approx(two.coefficients[name].value)


def test_perfect_scores_have_finite_logits() -> None:
    results = random_results()
    results.rows[0] = results.rows[0]._replace(value=1.0)
    results.rows[3] = results.rows[3]._replace(value=0.0)
    logits = scores(results, "probe").logits
    assert logits["d1"]["e0"] == pytest.approx(math.log(0.9995 / 0.0005))
    assert logits["d2"]["e0"] == pytest.approx(-logits["d1"]["e0"])


def test_a_score_without_dataset_serves_all_datasets() -> None:
    results = random_results()
    results.rows += [row(e, "imagenet", "", 0.5 + e / 20) for e in range(7)]
    found = correlate(results, ["imagenet"], "finetune")
    assert [one.dataset for one in found] == ["d1", "d2", MEAN, POOLED]
    expected = stats.spearmanr(range(7), column(results, "finetune", "d2"))[0]
    assert found[1].coefficients["spearman"].value == pytest.approx(expected)


def test_proxies_are_compared_on_the_encoders_they_share() -> None:
    results = random_results(8)
    results.rows = [r for r in results.rows if (r.encoder, r.protocol) != ("e0", "other")]
    found = correlate(results, ["probe", "other"], "finetune")
    (one,) = [o for o in found if o.dataset == "d1" and o.is_difference]
    assert one.proxy == "other − probe"
    assert one.coefficients["kendall"].n == 7
    y = column(results, "finetune", "d1")[1:]
    expected = (
        stats.kendalltau(column(results, "other", "d1"), y)[0]
        - stats.kendalltau(column(results, "probe", "d1")[1:], y)[0]
    )
    assert one.coefficients["kendall"].value == pytest.approx(expected)


def test_too_few_and_constant_scores_are_said_not_computed() -> None:
    few = correlate(random_results(4), ["probe"], "finetune")
    assert to_one_table(few).rows[0][2:] == ["4", *["too few"] * 4]
    results = random_results(6)
    results.rows = [r._replace(value=0.5) if r.protocol == "probe" else r for r in results.rows]
    found = correlate(results, ["probe"], "finetune")
    assert list(to_one_table(found).rows[0][3:]) == ["undefined"] * 4
    assert any("the same for all encoders" in note for note in legend(found))
    assert "nan" not in to_csv_long(found)


def test_nan_duplicates_and_order_do_not_change_the_answer() -> None:
    results = random_results(8)
    expected = correlate(results, ["probe", "other", "static_rank"], "finetune")
    broken = [
        row(8, "probe", "d1", math.nan),
        row(8, "finetune", "d1", 0.5),
        row(9, "probe", "d1", 0.5),
        row(9, "finetune", "d1", math.nan),
    ]
    shuffled = [*broken, *reversed(results.rows), *results.rows]
    repeated = correlate(Results(shuffled), ["probe", "other"], "finetune")
    assert repeated == [entry for entry in expected if "static_rank" not in entry.proxy]


def test_an_added_encoder_changes_no_scores_of_the_others() -> None:
    results, fewer = random_results(8), random_results(8)
    fewer.rows = [r for r in fewer.rows if r.encoder != "e7"]
    for protocol in ("probe", "finetune"):
        all_scores, some = scores(results, protocol).logits, scores(fewer, protocol).logits
        for dataset, column_of in some.items():
            assert column_of.items() <= all_scores[dataset].items()


def test_the_coefficients_can_be_chosen() -> None:
    entries = correlate(random_results(), ["probe"], "finetune", ["pearson", "kendall"])
    assert list(entries[0].coefficients) == ["pearson", "kendall"]
    assert list(entries[-1].coefficients) == ["kendall"]  # average log-odds have no raw scores
    assert to_one_table(entries).header == ["dataset", "proxy", "n", "pearson", "kendall"]
    assert list(correlate(random_results(), ["probe"], "finetune")[0].coefficients) == [*DEFAULT]
    assert known_names(["kendall", "pearson_logit", "kendall"]) == ["kendall", "pearson (logit)"]
    with pytest.raises(ResultsError, match=r"`--coefficient`.*`weighted_kendall`.*`tau`"):
        known_names(["tau"])


def test_the_static_rank_is_not_averaged_over_all_datasets() -> None:
    entries = correlate(random_results(), ["static_rank"], "finetune")
    assert [bool(entry.coefficients["spearman"]) for entry in entries] == [True, True, True, False]
    assert "contain the target itself" in entries[-1].coefficients["spearman"].note
    one = [r for r in random_results().rows if r.dataset == "d1"]
    (entry,) = correlate(Results(one), ["static_rank"], "finetune")
    assert "has scores on 1 only" in entry.coefficients["kendall"].note


def test_a_sentence_says_which_proxy_is_better_only_if_the_interval_excludes_zero() -> None:
    def with_probes(noise: float) -> list[Row]:
        generator = np.random.default_rng(3)
        rows = []
        for encoder, dataset in itertools.product(range(12), ("d1", "d2")):
            value = 0.3 + encoder / 24
            rows.append(row(encoder, "finetune", dataset, value))
            rows.append(row(encoder, "good", dataset, value + generator.uniform(0, 0.01)))
            shift = noise * generator.uniform(-0.25, 0.25)
            rows.append(row(encoder, "other", dataset, value + shift))
        return rows

    clear = verdicts(correlate(Results(with_probes(2.0)), ["other", "good"], "finetune"))
    assert clear[0].startswith("`good` agrees better with `finetune` than `other`: the difference")
    assert "over 12 encoders, mean of 2 datasets; `good` is higher on 2 of them" in clear[0]
    assert len(clear) == 1
    entries = correlate(Results(with_probes(0.1)), ["other", "good", "static_rank"], "finetune")
    unclear = verdicts(entries)
    assert unclear[0].startswith("Whether `good` or `other` agrees better with `finetune` is open")
    assert unclear[-1].startswith("These are 3 comparisons, each at 95 %")


def test_unknown_proxies_metrics_and_the_target_as_proxy_are_refused() -> None:
    results = random_results()
    with pytest.raises(ResultsError, match=r"`finetune`, `other`, `probe`.*`knn`"):
        correlate(results, ["knn"], "finetune")
    with pytest.raises(ResultsError, match=r"`m`.*`loss`"):
        correlate(results, ["probe:loss"], "finetune")
    with pytest.raises(ResultsError, match="must differ"):
        correlate(results, ["finetune"], "finetune")


def test_a_protocol_with_variants_must_be_named_whole(write, outputs: Path) -> None:
    for epochs in (1, 2):
        write(config={"protocol": {"epochs": epochs}})
    write(protocol="finetune")
    results = read(outputs)
    with pytest.raises(ResultsError, match="`linear_probe epochs=1`, `linear_probe epochs=2`"):
        correlate(results, ["linear_probe"], "finetune")
    found = correlate(results, ["linear_probe epochs=2"], "finetune")
    assert found[0].coefficients["spearman"].n == 1
