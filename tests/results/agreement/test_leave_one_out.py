import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from results import ResultsError
from results.agreement.baselines import static_rank
from results.agreement.correlations import MEAN
from results.agreement.leave_one_out import families_of, leave_one_out, sentences, to_table
from results.agreement.scores import Scores
from results.published.catalogue import read_published
from results.records.reading import Results


def column(name: str, table: np.ndarray) -> Scores:
    values = {
        f"d{i}": {f"e{j}": float(v) for j, v in enumerate(row)} for i, row in enumerate(table)
    }
    return Scores(name, values, values)


def test_coefficients_without_each_encoder_are_those_of_the_others() -> None:
    target, proxy = np.random.default_rng(0).standard_normal((2, 2, 7))
    found = leave_one_out(column("t", target), [column("p", proxy)], "spearman")
    assert [one.dataset for one in found] == ["d0", "d1", MEAN]
    for left in range(7):
        rest = [e for e in range(7) if e != left]
        values = [stats.spearmanr(target[d, rest], proxy[d, rest])[0] for d in range(2)]
        for d in range(2):
            assert found[d].without[f"e{left}"] == pytest.approx(values[d])
        assert found[2].without[f"e{left}"] == pytest.approx(np.mean(values))


def test_an_outlier_is_the_most_influential_encoder_and_changes_the_best_proxy() -> None:
    target = np.array([[1.0, 2, 3, 4, 5, 6, 100]])
    carried = np.array([[3.0, 1, 6, 2, 5, 4, 99]])  # agrees by the last encoder alone
    steady = np.array([[1.0, 2, 3, 4, 5, 6, 4.5]])
    found = leave_one_out(
        column("t", target), [column("carried", carried), column("steady", steady)], "pearson"
    )
    assert found[0].most_influential == "e6"
    (best, turned) = sentences(found, "encoder")
    assert best == "`carried` agrees best with the target (d0), but without `e6` it is `steady`."
    assert "`steady` and `carried` agrees better depends on a single encoder: `e6`" in turned
    table = to_table(found, "pearson", "encoder")
    assert table.rows[0][4] == "e6"
    assert table.header[4] == "most influential encoder"


def test_a_clear_best_proxy_is_told_to_be_so() -> None:
    target = np.arange(8.0)[None]
    noise = np.random.default_rng(1).standard_normal((1, 8))
    found = leave_one_out(column("t", target), [column("noise", noise), column("same", target)])
    assert sentences(found, "encoder") == [
        "`same` agrees best with the target (d0), whichever encoder is left out."
    ]


def test_too_few_remaining_encoders_have_no_coefficient() -> None:
    target, proxy = np.random.default_rng(2).standard_normal((2, 1, 5))
    (one,) = leave_one_out(column("t", target), [column("p", proxy)])
    assert (one.without, one.most_influential) == ({}, None)
    assert to_table([one], "spearman", "encoder").rows[0][2:] == ["undefined", "–", "–", "–"]
    (none,) = leave_one_out(column("t", target[:, :4]), [column("p", proxy)])
    assert math.isnan(none.value)
    assert sentences([none], "encoder") == []


def test_the_static_rank_is_computed_without_the_encoder_left_out() -> None:
    table = np.random.default_rng(3).standard_normal((3, 8))
    target = column("t", table)
    found = leave_one_out(target, [static_rank(target)], "kendall")
    rest = [e for e in range(8) if e != 2]
    ranks = [stats.rankdata(table[d, rest]) for d in (1, 2)]
    expected = stats.kendalltau(np.mean(ranks, axis=0), table[0, rest])[0]
    assert found[0].without["e2"] == pytest.approx(expected)


def test_families_are_left_out_together(tmp_path: Path) -> None:
    results = read_published(["transfer_2021_table1"])
    families = families_of(results, results.known("encoder"))
    assert families["moco_v1"] == families["moco_v2"] == "moco"
    target = column("t", np.random.default_rng(4).standard_normal((1, 8)))
    proxy = column("p", np.random.default_rng(5).standard_normal((1, 8)))
    (found,) = leave_one_out(
        target, [proxy], "pearson", {f"e{n}": "ab"[n < 3] if n < 5 else f"e{n}" for n in range(8)}
    )
    rest = [f"e{n}" for n in range(8) if n not in (3, 4)]
    x, y = ([one.raw["d0"][e] for e in rest] for one in (proxy, target))
    assert found.without["a"] == pytest.approx(stats.pearsonr(x, y)[0])
    assert set(found.without) == {"a", "b", "e5", "e6", "e7"}


def test_a_file_states_families_that_names_do_not(tmp_path: Path) -> None:
    path = tmp_path / "families.csv"
    path.write_text("# my zoo\nencoder,family\nswav,clustering\ndeepcluster_v2,clustering\n")
    results = read_published(["transfer_2021_table1"])
    families = families_of(results, ["swav", "deepcluster_v2", "byol"], path)
    assert families == {"swav": "clustering", "deepcluster_v2": "clustering", "byol": "byol"}
    assert families_of(Results([]), ["unknown"]) == {"unknown": "unknown"}
    path.write_text("model,family\n")
    with pytest.raises(ResultsError, match="columns `encoder` and `family`"):
        families_of(results, ["swav"], path)
