"""``PROTOCOL@KEY=VALUE``: scores on some variants of datasets, by the names of the datasets."""

from pathlib import Path

import pytest
from scipy import stats

from results import ResultsError
from results.agreement.analysis import analyse
from results.agreement.choosing import choices
from results.agreement.correlations import correlate
from results.agreement.cost import costs
from results.agreement.ranks import ranks
from results.agreement.scores import scores
from results.agreement.specs import target_spec
from results.commands.main import main
from results.records.reading import Results, read

FEW = [0.30, 0.34, 0.33, 0.41, 0.45, 0.44]
WHOLE = [0.50, 0.58, 0.54, 0.61, 0.60, 0.72]
PROBE = [0.42, 0.41, 0.44, 0.46, 0.52, 0.50]
PROXY = "finetune@label_fraction=0.1"


def fill(write, *, seconds: float = 1.0) -> None:
    """Write the scores of six encoders on two sets, with 10 %, 1 % and all labels."""
    for number in range(6):
        for shift, dataset in enumerate(("digits", "textures")):
            for fraction, values in ((0.1, FEW), (0.01, FEW[::-1]), (None, WHOLE)):
                keys = {} if fraction is None else {"label_fraction": fraction}
                write(
                    f"{number}" * 16,
                    model=f"m{number}",
                    method="as_is",
                    protocol="finetune",
                    dataset=dataset,
                    value=values[number] + 0.1 * shift,
                    config={"dataset": keys},
                    duration_s=seconds * (fraction or 1.0),
                    device="cpu",
                    features=[],
                )
            write(f"{number}" * 16, model=f"m{number}", method="as_is", dataset=dataset,
                  value=PROBE[number])  # fmt: skip


@pytest.fixture
def results(write, outputs: Path) -> Results:
    fill(write)
    return read(outputs)


def test_scores_on_few_labels_bear_the_names_of_the_datasets(results) -> None:
    assert "digits label_fraction=0.1" in results.known("dataset")
    few = scores(results, PROXY)
    assert sorted(few.raw) == ["digits", "textures"]
    assert [few.raw["digits"][f"m{n}-as_is"] for n in range(6)] == FEW
    for text in ("finetune:top1@dataset.label_fraction=0.10", "finetune@label_fraction=1e-1"):
        assert scores(results, text).raw == few.raw
    whole = scores(results, "finetune@label_fraction=1")
    assert [whole.raw["digits"][f"m{n}-as_is"] for n in range(6)] == WHOLE


def test_they_predict_the_target_on_all_labels(results) -> None:
    entries = correlate(results, [PROXY, "linear_probe"], "finetune")
    assert [(e.dataset, e.proxy) for e in entries if not e.is_difference][:4] == [
        ("digits", PROXY), ("digits", "linear_probe"),
        ("textures", PROXY), ("textures", "linear_probe"),
    ]  # fmt: skip
    assert {entry.target for entry in entries} == {"finetune@label_fraction=1.0"}
    for proxy, values in ((PROXY, FEW), ("linear_probe", PROBE)):
        (one,) = (e for e in entries if (e.dataset, e.proxy) == ("digits", proxy))
        expected = stats.spearmanr(values, WHOLE)[0]
        assert one.coefficients["spearman"].value == pytest.approx(expected)
    (mean,) = (e for e in entries if (e.dataset, e.proxy) == ("mean over datasets", PROXY))
    assert mean.coefficients["spearman"].value == pytest.approx(stats.spearmanr(FEW, WHOLE)[0])


def test_choices_costs_ranks_and_figures_use_the_same_runs(results) -> None:
    (first, *_) = choices(results, [PROXY], "finetune")
    assert first.chosen == ("m4-as_is",)
    assert first.best == ("m5-as_is",)
    assert first.regret.value == pytest.approx(12)
    spent = costs(results, [PROXY, "finetune@label_fraction=1.0"])
    assert spent[PROXY].seconds == pytest.approx(12 * 0.1)
    assert spent["finetune@label_fraction=1.0"].seconds == pytest.approx(12)
    assert [one.encoder for one in ranks(results, PROXY)[0].ranks][:2] == ["m4-as_is", "m5-as_is"]
    analysis = analyse(results, [PROXY, "static_rank"])
    assert analysis.datasets == ["digits", "textures"]
    assert analysis.protocol == "finetune"


def test_without_a_named_key_the_target_stays_on_all_datasets(results) -> None:
    assert target_spec("finetune", ["knn", "static_rank"]) == "finetune"
    assert target_spec("finetune:top5", ["knn@labels_per_class=5"]) == (
        "finetune:top5@labels_per_class=null"
    )
    assert target_spec("finetune@label_fraction=0.5", [PROXY]) == "finetune@label_fraction=0.5"
    assert len(scores(results, "finetune").raw) == 6


def test_a_key_need_not_be_part_of_a_label(write, outputs: Path) -> None:
    write(protocol="knn", config={"dataset": {"label_fraction": 0.1}})
    results = read(outputs)
    assert results.known("dataset") == ["digits"]
    assert scores(results, "knn@label_fraction=0.1").raw == scores(results, "knn").raw


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("finetune@label_fraction=0.2", "`dataset.label_fraction` 0.01, 0.1, 1.0; name one"),
        ("finetune@labels_per_class=5", "`dataset.labels_per_class` null; name one"),
        ("finetune@label_fraction", "must be KEY=VALUE, such as .* but is `label_fraction`"),
        ("finetune@=3", "must be KEY=VALUE"),
        ("fintune@label_fraction=0.1", "a protocol must be one of the known"),
        ("finetune:top9@label_fraction=0.1", "the metric of `finetune` must be one of"),
    ],
)
def test_what_no_run_has_is_one_sentence(results, spec: str, told: str) -> None:
    with pytest.raises(ResultsError, match=told):
        scores(results, spec)


def test_the_target_itself_is_no_proxy() -> None:
    with pytest.raises(ResultsError, match="must differ from the target"):
        target_spec("finetune", [PROXY, "finetune@label_fraction=1.0"])


def test_the_command_line_takes_it(results, outputs: Path, capsys) -> None:
    arguments = ["--outputs", str(outputs), "--proxy", f"{PROXY},linear_probe"]
    assert main(["correlate", *arguments, "--target", "finetune", "--ceiling"]) == 0
    shown = capsys.readouterr().out
    assert "digits: correlation with finetune@label_fraction=1.0" in shown
    assert main(["choose", *arguments]) == 0
    assert PROXY in capsys.readouterr().out
