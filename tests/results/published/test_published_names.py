"""The same thing has one name in all published tables, which is its name in this project."""

import re

import pytest

from results import ResultsError
from results.commands.main import main
from results.published.catalogue import (
    correlation_lines,
    correlation_names,
    head,
    lines,
    names,
)
from results.tables.published_tables import overview, published_tables
from ssl_transfer.config import options
from ssl_transfer.metrics.classification import CLASSIFICATION
from ssl_transfer.protocols.transferability import ESTIMATORS

NO_PROTOCOL = {"imagenet"}
"""A score that is a proxy, by whichever linear evaluation the authors of an encoder reported."""

METRICS = {
    *CLASSIFICATION,
    "ece_scaled",
    "log10_C",  # a selected hyper-parameter rather than a metric
    *(f"d_sd_same_domain_top{k}" for k in range(1, 6)),
    "alignment_original_view", "alignment_views", "intra_class_alignment_original",
    "intra_class_alignment_views", "uniformity_original", "uniformity_views",
}  # fmt: skip

NO_METHODS = {
    "improved_200", "improved_800",  # experiment=small_models/improved
    "seed_best", "light_moco_best",  # other papers
    "w_mse_2", "w_mse_4",  # method=w_mse with as many views
    "moco_cifar10", "moco_cifar10_symmetric",
}  # fmt: skip
"""Methods of published encoders that are no option of ``method``."""

NO_MODELS = {
    "baseline", "baseline++", "best_snapshot", "bonsai2", "cat2", "cat5", "cat5-s", "distill2",
    "distill5", "distill5-s", "distill20", "maml", "matchingnet", "protonet", "relationnet",
    "densenet169", "densenet201", "googlenet", "inception_v3", "mnasnet1_0", "mobilenet_v2",
    "resnet101",
}  # fmt: skip
"""Published encoders and networks that are no option of ``model``."""


def networks(label: str) -> list[str]:
    """Return the networks and methods that a label of an encoder consists of."""
    label = label.split(" ")[0]
    if label in NO_MODELS:
        return []
    if match := re.fullmatch(r"cat_sub\((.*)\)", label):
        label = match[1]
    return [re.sub(r"^\d+x-", "", part) for part in label.split("+")]


def test_protocols_metrics_and_data_sets_have_the_names_of_this_project() -> None:
    entries = [line for name in names() for line in lines(name)]
    protocols = {entry["protocol"].split(" ")[0] for entry in entries}
    assert protocols - NO_PROTOCOL <= set(options("protocol"))
    assert {entry["metric"] for entry in entries} <= METRICS
    assert {entry["dataset"] for entry in entries} - {""} <= set(options("dataset"))


def test_encoders_have_the_names_of_this_project_or_are_listed_as_foreign() -> None:
    models, methods = set(options("model")), set(options("method"))
    for name in names():
        for line in lines(name):
            for network in networks(line["model"]):
                model, _, method = network.partition("-")
                assert model in models | NO_MODELS, line
                method = re.sub(r"_\d+_epochs.*|_(cifar|stl|tiny|imagenet)\w*[.\d]*.*$", "", method)
                assert method in methods | NO_METHODS | {"", "mixed_bt", "moco"}, line
            for label in filter(None, (line.get("released") or "").split(";")):
                parts = {part.removeprefix("torchvision_") for part in networks(label)}
                assert parts <= models | NO_MODELS, line


def test_correlations_name_estimators_data_sets_and_coefficients_of_this_project() -> None:
    for name in correlation_names():
        for line in correlation_lines(name):
            protocol, _, metric = line["proxy"].partition(":")
            assert protocol == "transferability"
            assert metric in ESTIMATORS
            assert line["target"] in options("protocol")
            assert line["dataset"] in options("dataset")
            assert line["coefficient"] == "weighted_kendall"
            assert -1 <= float(line["value"]) <= 1


def test_no_score_stands_twice_in_a_table() -> None:
    for name in names():
        keys = [
            tuple(x[k] for k in ("protocol", "model", "dataset", "metric")) for x in lines(name)
        ]
        assert len(set(keys)) == len(keys), name


def test_a_score_in_two_tables_is_the_same_or_of_another_source() -> None:
    first = {line["model"]: float(line["score"]) for line in lines("transfer_2021_imagenet")}
    for table in ("moco_linear", "swav_linear"):
        released = {line["model"]: float(line["score"]) for line in lines(table)}
        common = first.keys() & released.keys()
        assert common
        assert {name: released[name] for name in common} == {name: first[name] for name in common}


def test_every_head_states_content_source_units_and_what_is_not_stated() -> None:
    for name in [*names(), *correlation_names()]:
        of = head(name)
        assert all([of.content, of.units, of.not_stated, of.notes]), name
        assert "arXiv" in of.source or "github.com" in of.source, name


def test_the_command_lists_one_line_per_table_and_prints_one(tmp_path, capsys) -> None:
    assert main(["published"]) == 0
    listed = capsys.readouterr().out.splitlines()
    every = [*names(), *correlation_names()]
    assert [line.split(" ")[0] for line in listed] == every
    assert any(line.endswith("[arXiv 1911.05722, 2003.04297]") for line in listed)
    assert overview(every).splitlines() == listed
    assert main(["published", "moco_linear", "--save", str(tmp_path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "60.8 ± 0.2" in shown
    assert "settings:" in shown
    assert "lr 30" in shown
    saved = (tmp_path / "moco_linear.csv").read_text()
    assert saved.splitlines()[1] == "linear_probe,moco_v1,imagenet,top1,60.6,"
    assert main(["published", "sfda_2022_estimators", "--format", "csv"]) == 0
    assert "aircraft,transferability:logme,finetune,weighted_kendall,11,0.506" in (
        capsys.readouterr().out
    )
    assert main(["published", "table_9"]) == 2
    assert "`moco_linear`" in capsys.readouterr().err


def test_a_column_names_the_metric_where_a_data_set_has_several() -> None:
    (table,) = published_tables("barlow_twins_linear")
    assert list(table.header) == ["encoder", "imagenet top1", "imagenet top5"]
    assert [list(row) for row in table.rows] == [
        ["barlow_twins", "73.5", "91.0"],
        ["resnet50-barlow_twins_300_epochs", "71.4", "–"],
    ]
    errors = {table.title: list(table.header) for table in published_tables("transfer_2021_ece")}
    assert errors["transfer_2021_ece: finetune"] == ["encoder", "ece", "ece_scaled"]
    with pytest.raises(ResultsError, match="`transfer_2021_ece`"):
        head("nothing")
