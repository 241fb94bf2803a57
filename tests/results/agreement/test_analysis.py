import pytest

from results.agreement.analysis import analyse
from results.agreement.correlations import correlate
from results.errors import ResultsError
from results.records.reading import Results, Row, read


def row(encoder: str, protocol: str, dataset: str, value: float) -> Row:
    return Row(
        encoder, encoder, protocol, dataset, 0, "top1", value, "fraction", True, True, "test",
        f"{encoder}-{protocol}-{dataset}",
    )  # fmt: skip


def results_of(*protocols: str, encoders: int = 6, datasets: tuple[str, ...] = ("a",)) -> Results:
    return Results(
        [
            row(f"e{e}", protocol, dataset, 0.1 + 0.1 * e)
            for e in range(encoders)
            for protocol in protocols
            for dataset in datasets
        ]
    )


def test_all_other_protocols_are_proxies_by_default(outputs, zoo) -> None:
    zoo()
    analysis = analyse(read(outputs))
    assert [proxy.name for proxy in analysis.proxies] == ["bn_tune", "linear_probe", "static_rank"]
    assert analysis.baselines == {"static_rank"}
    assert analysis.datasets == ["digits", "textures"]
    assert len(analysis.encoders) == 7
    assert not analysis.too_few
    expected = correlate(read(outputs), ["bn_tune", "linear_probe", "static_rank"], "finetune")
    # As text, because NaN differs from NaN in estimates without an interval.
    assert repr(analysis.correlations) == repr(expected)


def test_a_protocol_on_other_datasets_is_no_default_proxy() -> None:
    results = results_of("finetune", "knn")
    elsewhere = [row(f"e{e}", "bn_tune", "b", 0.5) for e in range(6)]
    of_encoders = [row(f"e{e}", "rankme", "", 0.5) for e in range(6)]
    results.rows += [*elsewhere, *of_encoders]
    assert [proxy.name for proxy in analyse(results).proxies] == ["knn", "rankme"]


def test_four_encoders_are_too_few_and_still_analysed() -> None:
    analysis = analyse(results_of("finetune", "knn", encoders=4))
    assert analysis.too_few
    assert {c.note for entry in analysis.correlations for c in entry.coefficients.values()} == {
        "too few"
    }


def test_an_unknown_target_lists_the_known_protocols() -> None:
    with pytest.raises(ResultsError, match=r"`knn`.*but is `finetune`"):
        analyse(results_of("knn"))


def test_a_proxy_differs_from_the_target() -> None:
    with pytest.raises(ResultsError, match="must differ"):
        analyse(results_of("finetune", "knn"), ["finetune"])


def test_a_repeated_proxy_counts_once() -> None:
    analysis = analyse(results_of("finetune", "knn"), ["knn", "knn"])
    assert [proxy.name for proxy in analysis.proxies] == ["knn"]
