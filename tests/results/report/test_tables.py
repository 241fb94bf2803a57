import pytest

from results.agreement.analysis import Analysis, analyse
from results.agreement.choosing import MEAN
from results.agreement.ranks import OVERALL
from results.published.catalogue import read_published
from results.records.reading import MissingRun, read
from results.report import drawings, tables
from results.report.html import Number


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyse(read_published(["transfer_2021_table1"]), ["logistic_regression", "static_rank"])


def numbers(row: list[str]) -> list[float | None]:
    return [cell.value for cell in row if isinstance(cell, Number)]


def test_scores_are_sorted_by_their_numbers_in_percent(analysis: Analysis) -> None:
    target, proxy = tables.score_tables(analysis)
    assert target.title.startswith("finetune")
    assert proxy.title.startswith("logistic_regression")
    swav = next(row for row in target.rows if row[0] == "swav")
    assert numbers(swav)[0] == pytest.approx(83.08)
    assert numbers(swav)[-1] == pytest.approx(85.33, abs=0.005)


def test_what_was_refused_is_no_table_of_scores_but_a_cell_without_a_score(
    zoo, write, outputs
) -> None:
    zoo()
    before = tables.score_tables(analyse(read(outputs)))
    write("0" * 16, protocol="finetune", dataset="digitz", error="no folder", stage="check")
    results = read(outputs)
    assert tables.score_tables(analyse(results)) == before
    assert tables.gap_table(results.gaps).rows[0][:3] == [
        "small_resnet-simclr epochs=0",
        "finetune",
        "digitz",
    ]


def test_correlations_have_one_number_per_coefficient(analysis: Analysis) -> None:
    table = tables.correlation_table(analysis)
    for row, entry in zip(table.rows, analysis.correlations, strict=True):
        first = entry.coefficients["spearman"]
        place = list(table.header).index("spearman")
        cell = row[place]
        assert isinstance(cell, Number)
        assert cell.value == (first.value if first else None)


def test_ranks_begin_with_the_best_mean_rank(analysis: Analysis) -> None:
    table = tables.rank_table(analysis.ranks)
    assert table.header[-1] == OVERALL
    means = [numbers(row)[-1] for row in table.rows]
    assert means == sorted(means)
    assert table.rows[0][0] == "deepcluster_v2"


def test_means_of_choices_come_before_those_on_each_dataset(analysis: Analysis) -> None:
    means, single = tables.choice_tables(analysis)
    assert MEAN in means.title
    assert len(single.rows) == 3 * len(analysis.datasets)
    regret = next(c for c in analysis.choices if c.dataset == MEAN).regret.value
    assert numbers(means.rows[0])[0] == regret


def test_gaps_with_the_same_reason_are_one_row() -> None:
    gap = MissingRun("a", "knn", "digits", 0, "not_applicable", "no head", "", "r0")
    other = gap._replace(dataset="textures", run_id="r1")
    (row,) = tables.gap_table([gap, other]).rows
    assert row == ["a", "knn", "digits, textures", "not applicable", "no head", "2"]


def test_the_figure_of_agreement_has_parts_that_fit_on_paper(analysis: Analysis) -> None:
    parts = list(drawings.drawn("agreement", analysis))
    assert len(parts) == 4  # three datasets of two proxies each, and a rest of two
    # Between its margins a sheet of A4 is 1.45 times as high as wide, and a caption follows.
    assert max(drawing.height / drawing.width for drawing in parts) < 1.35
