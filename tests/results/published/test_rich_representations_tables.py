"""The published tables of rich representations against the notes on their sources."""

import csv
from collections import Counter

import pytest

from results.published.catalogue import FOLDER, read_published

# Rows per table: methods times columns of the sources, without the cells that they leave empty.
ROWS = {
    "few_shot": 13 * 4,
    "camelyon17": 8 * 4,
    "weight_decay": 4 * 2,
    "supervised_finetune": 10 * 3 + 2 * 4 * 3,
    "supervised_linear": (8 + 4 + 2) * 4,
    "swav": (1 + 3 + 4 + 4) * 4 + 1 + 3 + 4 + 3,
    "seer": (4 + 3 + 3) * 4 + 4 + 3,
    "vit": 7 + 6,
}


def lines(table: str) -> list[dict[str, str]]:
    """Return the lines of a table, with all columns."""
    with (FOLDER / f"rich_representations_{table}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def score(table: str, protocol: str, model: str, dataset: str) -> str:
    """Return a score as it is written, with its deviation."""
    cell = (protocol, model, dataset)
    (line,) = [x for x in lines(table) if (x["protocol"], x["model"], x["dataset"]) == cell]
    return f"{line['score']}+-{line['deviation']}" if line["deviation"] else line["score"]


@pytest.mark.parametrize(("table", "rows"), ROWS.items())
def test_a_table_has_a_row_per_published_cell(table: str, rows: int) -> None:
    every = lines(table)
    assert len(every) == rows == len(read_published([f"rich_representations_{table}"]).rows)
    cells = Counter((x["protocol"], x["model"], x["dataset"], x["metric"]) for x in every)
    assert set(cells.values()) == {1}
    for line in every:
        assert 0 < float(line["score"]) < 100
        assert line["unit"] == "percent"
        assert (
            line["tolerance"] == {"exact": "", "figure": "0.05", "overlap": "0.1"}[line["source"]]
        )


# Section 5.2 of the notes: [init] on CIFAR-10, CIFAR-100, iNaturalist 2018, then [2ft].
FINETUNED = """
resnet50-supervised      | 97.54 | 85.58 | 64.19 | -     | -     | -
resnet50w2-supervised    | 97.76 | 87.13 | 66.72 | -     | -     | -
resnet50w4-supervised    | 97.88 | 87.95 | 66.99 | -     | -     | -
two_resnet50-supervised  | 97.39 | 85.77 | 62.57 | -     | -     | -
four_resnet50-supervised | 97.38 | 85.56 | 61.58 | -     | -     | -
2x-resnet50-supervised   | 97.56 | 86.04 | 64.49 | 97.87 | 87.07 | 66.96
4x-resnet50-supervised   | 97.53 | 86.54 | 64.54 | 98.14 | 88.00 | 68.42
5x-resnet50-supervised   | 97.57 | 86.46 | 64.86 | 98.19 | 88.11 | 68.48
10x-resnet50-supervised  | 97.19 | 86.65 | 64.39 | 98.17 | 88.50 | 69.07
resnet50-distill         | 97.07 | 85.31 | 64.17 | -     | -     | -
"""


def test_fine_tuned_networks_have_the_scores_of_the_printed_table() -> None:
    columns = [
        (protocol, dataset)
        for protocol in ("finetune", "two_stage_finetune")
        for dataset in ("cifar10", "cifar100", "inaturalist18")
    ]
    exact = {
        (x["model"], x["protocol"], x["dataset"]): x["score"]
        for x in lines("supervised_finetune")
        if x["source"] == "exact"
    }
    expected = {}
    for row in FINETUNED.strip().splitlines():
        model, *scores = (cell.strip() for cell in row.split("|"))
        for (protocol, dataset), text in zip(columns, scores, strict=True):
            if text != "-":
                expected[model, protocol, dataset] = text
    assert exact == expected


# Sections 4.3 to 5.6 of the notes; "~" marks overlapping markers.
SOME = [
    ("few_shot", "few_shot shots=1", "relationnet", "miniimagenet", "52.5"),
    ("few_shot", "few_shot shots=5", "cat5-s", "miniimagenet", "81.1+-0.8"),
    ("few_shot", "few_shot shots=5", "distill5", "cub200", "89.2+-0.3"),
    ("few_shot", "few_shot shots=1", "best_snapshot", "cub200", "65.6"),
    ("camelyon17", "linear_probe penalty=vrex selection=id_val",
     "densenet121-supervised", "camelyon17", "69.6+-10.5"),
    ("camelyon17", "linear_probe penalty=null selection=id_val",
     "5x-densenet121-supervised", "camelyon17", "75.0+-2.7"),
    ("camelyon17", "linear_probe penalty=vrex selection=ood_val",
     "20x-densenet121-supervised", "camelyon17",
     "76.8+-0.9"),
    ("camelyon17", "linear_probe penalty=null selection=ood_val", "bonsai2", "camelyon17",
     "78.6+-2.6"),
    ("supervised_linear", "linear_probe", "resnet50w4-supervised", "inaturalist18", "38.7"),
    ("supervised_linear", "linear_probe", "10x-resnet50-supervised", "inaturalist18", "49.6"),
    ("supervised_linear", "linear_probe", "resnet50-distill", "imagenet", "76.39"),
    ("swav", "linear_probe", "resnet50w4-swav", "inaturalist18", "44.1"),
    ("swav", "finetune", "5x-resnet50-swav", "imagenet", "77.69"),
    ("swav", "two_stage_finetune", "5x-resnet50-swav", "imagenet", "80.0"),
    ("seer", "linear_probe", "seer_regnet_128gf", "cifar100", "74.8"),
    ("seer", "score_as_is", "seer_regnet_256gf_in1k", "imagenet", "85.2"),
    ("vit", "two_stage_finetune", "vit_base_16_augreg_in1k+vit_large_16_augreg_in1k", "imagenet",
     "86.6"),
    ("vit", "score_as_is", "vit_huge_14_in1k", "imagenet", "85.1"),
]  # fmt: skip


@pytest.mark.parametrize(("table", "protocol", "model", "dataset", "expected"), SOME)
def test_tables_hold_the_scores_of_their_sources(
    table: str, protocol: str, model: str, dataset: str, expected: str
) -> None:
    assert score(table, protocol, model, dataset) == expected


def test_weight_decay_helps_the_source_and_hurts_the_transfer_to_more_classes() -> None:
    # Section 5.1: rows are source -> target, columns weight decay 0 and 5e-4.
    printed = {
        ("cifar10", "cifar10"): ("91.41+-0.81", "94.89+-0.23"),
        ("cifar10", "cifar100"): ("49.68+-0.72", "29.17+-0.50"),
        ("cifar100", "cifar100"): ("70.37+-1.49", "76.78+-0.36"),
        ("cifar100", "cifar10"): ("78.87+-0.98", "75.92+-0.54"),
    }
    for (source, target), cells in printed.items():
        for decay, expected in zip(("0.0", "0.0005"), cells, strict=True):
            model = f"resnet18-supervised pretrain_on={source} weight_decay={decay}"
            assert score("weight_decay", "linear_probe", model, target) == expected


def test_parameters_are_those_of_the_notes_on_the_architectures() -> None:
    # Section 1.1, in millions, without classifiers.
    stated = {
        "resnet50": 23.51, "resnet50w2": 93.91, "resnet50w4": 375.38, "resnet50w5": 586.45,
        "2xresnet50": 47.0, "4xresnet50": 94.0, "5xresnet50": 117.5, "10xresnet50": 235.1,
        "5xresnet50+resnet50w2+resnet50w4": 586.8,
        "5xresnet50+resnet50w2+resnet50w4+resnet50w5": 1173.3,
        "vit_b16+vit_l16": 390,
    }  # fmt: skip
    found = {
        line["architecture"]: int(line["parameters"]) / 1e6
        for table in ("supervised_finetune", "supervised_linear", "swav", "vit")
        for line in lines(table)
    }
    for architecture, millions in stated.items():
        assert found[architecture] == pytest.approx(millions, rel=1e-3)


def test_every_digitised_score_with_hidden_markers_is_marked() -> None:
    hidden = {
        (line["model"], line["dataset"])
        for line in lines("supervised_linear")
        if line["source"] == "overlap"
    }
    cat, wide = "{}x-resnet50-supervised".format, "resnet50w4-supervised"
    assert hidden == {
        *((cat(n), dataset) for n in (4, 5) for dataset in ("cifar10", "cifar100")),
        *((f"cat_sub({cat(n)})", dataset) for n in (4, 5) for dataset in ("cifar10", "cifar100")),
        *((cat(10), "imagenet"), (wide, "imagenet")),
        *((f"cat_sub({cat(10)})", "imagenet"), (f"cat_sub({wide})", "imagenet")),
    }


def test_constructions_state_how_many_networks_they_are_of() -> None:
    every = [line for table in ROWS for line in lines(table)]
    assert all(int(line["networks"]) == 1 for line in every if line["construction"] == "single")
    several = {
        (line["model"], int(line["networks"]))
        for line in every
        if line["construction"] in ("distill", "wide_sub", "joint", "cat_snapshots")
    }
    assert several == {
        ("distill2", 2), ("distill5", 5), ("distill20", 20), ("resnet50-distill", 5),
        ("cat_sub(resnet50w2-supervised)", 2), ("cat_sub(resnet50w4-supervised)", 4),
        ("two_resnet50-supervised", 2), ("four_resnet50-supervised", 4), ("cat5-s", 5),
    }  # fmt: skip
