import pytest

from results import ResultsError
from results.agreement.correlations import MEAN, POOLED, Name, correlate
from results.published.catalogue import names, read_published, source

TABLE = ["transfer_2021_table1", "transfer_2021_imagenet"]

# Linear against finetune: Pearson, Pearson on logits, Spearman over 13 self-supervised encoders,
# then over 14 with the supervised one. Computed from Table 1 of Ericsson et al. 2021 with numpy
# and scipy, independently of this package.
EXPECTED = {
    "aircraft": (0.637, 0.637, 0.720, 0.615, 0.613, 0.675),
    "caltech101": (0.832, 0.810, 0.791, 0.840, 0.818, 0.798),
    "cars": (0.741, 0.717, 0.830, 0.745, 0.722, 0.824),
    "cifar10": (0.818, 0.828, 0.604, 0.820, 0.829, 0.622),
    "cifar100": (0.612, 0.634, 0.539, 0.617, 0.637, 0.552),
    "dtd": (0.665, 0.687, 0.780, 0.644, 0.663, 0.745),
    "flowers": (0.683, 0.747, 0.780, 0.681, 0.730, 0.692),
    "food101": (0.675, 0.719, 0.781, 0.671, 0.714, 0.790),
    "pets": (0.818, 0.808, 0.747, 0.845, 0.851, 0.798),
    "sun397": (0.723, 0.731, 0.742, 0.727, 0.734, 0.745),
    "voc2007": (0.602, 0.598, 0.600, 0.631, 0.631, 0.662),
    MEAN: (0.710, 0.720, 0.720, 0.713, 0.722, 0.718),
}
AVERAGE_LOG_ODDS = {
    ("logistic_regression", "finetune"): (0.770, 0.773),
    ("imagenet", "logistic_regression"): (0.956, 0.926),
    ("imagenet", "finetune"): (0.847, 0.857),
}
NAMES: tuple[Name, ...] = ("pearson", "pearson (logit)", "spearman")


@pytest.mark.parametrize(("without", "part"), [(["supervised"], 0), ([], 1)])
def test_correlations_of_the_published_table_are_the_known_ones(
    without: list[str], part: int
) -> None:
    results = read_published(TABLE).keep(without=without)
    correlations = correlate(results, ["logistic_regression"], "finetune", NAMES)
    found = {one.dataset: one.coefficients for one in correlations}
    assert set(found) == {*EXPECTED, POOLED}
    for dataset, expected in EXPECTED.items():
        values = [found[dataset][name].value for name in NAMES]
        assert values == pytest.approx(expected[3 * part : 3 * part + 3], abs=0.0005001)
        assert found[dataset]["spearman"].n == 13 + part
    for (proxy, target), pair in AVERAGE_LOG_ODDS.items():
        (pooled,) = [o for o in correlate(results, [proxy], target) if o.dataset == POOLED]
        value = pooled.coefficients["pearson (logit)"].value
        assert value == pytest.approx(pair[part], abs=0.0005001)


# The last column of Table 1: linear and fine-tuned averages over the 11 sets.
PRINTED = {
    "insdis": (62.29, 72.62), "moco_v1": (62.41, 74.39), "pcl_v1": (56.73, 79.85),
    "pirl": (63.92, 71.71), "pcl_v2": (69.13, 80.66), "simclr_v1": (72.59, 83.13),
    "moco_v2": (72.31, 77.74), "simclr_v2": (75.07, 80.54), "sela_v2": (72.09, 84.86),
    "infomin": (72.21, 79.62), "byol": (77.05, 84.03), "deepcluster_v2": (78.92, 85.56),
    "swav": (77.97, 85.33), "supervised": (73.75, 84.60),
}  # fmt: skip


@pytest.mark.parametrize(("part", "protocol"), [(0, "logistic_regression"), (1, "finetune")])
def test_row_means_equal_the_printed_averages(part: int, protocol: str) -> None:
    rows = [row for row in read_published(TABLE[:1]).rows if row.protocol == protocol]
    assert {row.encoder for row in rows} == set(PRINTED)
    for model, printed in PRINTED.items():
        values = [row.value for row in rows if row.encoder == model]
        assert len(values) == 11
        assert 100 * sum(values) / 11 == pytest.approx(printed[part], abs=0.011)


def test_every_published_table_names_its_source() -> None:
    assert set(TABLE) <= set(names())
    assert all("arXiv" in source(name) for name in names())
    with pytest.raises(ResultsError, match="transfer_2021_table1"):
        read_published(["nothing"])


def value(table: str, *key: str) -> float:
    (row,) = [r for r in read_published([table]).rows if r[:1] + r[2:4] + r[5:6] == key]
    return row.value


def test_the_other_tables_hold_what_their_sources_print() -> None:
    shots = read_published(["transfer_2021_few_shot"]).rows
    assert len(shots) == 14 * 4 * 3
    cells = [
        ("byol", "few_shot shots=50", "chestx"),
        ("pcl_v1", "few_shot shots=5", "cropdiseases"),
    ]
    found = [value("transfer_2021_few_shot", *cell, "top1") for cell in cells]
    assert found == pytest.approx([0.3417, 0.7289])
    best = read_published(["transfer_2021_best_c"]).rows
    assert len(best) == 14 * 11
    assert all(-5 <= row.value <= 6 and (4 * row.value).is_integer() for row in best)
    assert not any(row.unit == "fraction" for row in best)
    # The authors' examples: C = 0.316 for DeepCluster-v2 and 0.056 for supervised on CIFAR-10.
    linear = "logistic_regression", "cifar10", "log10_C"
    for model, c in (("deepcluster_v2", 0.316), ("supervised", 0.056)):
        assert 10 ** value("transfer_2021_best_c", model, *linear) == pytest.approx(c, abs=0.0005)
    ece = {row.metric: row for row in read_published(["transfer_2021_ece"]).rows}
    assert not any(row.higher_is_better for row in ece.values())
    swav = "swav", "finetune", "", "ece_scaled"
    assert value("transfer_2021_ece", *swav) == pytest.approx(0.0186)


@pytest.mark.parametrize(
    ("table", "rows", "cells"),
    [
        (
            "mixed_barlow_twins",
            2 * (2 * 8 + 7 + 1),  # of one encoder top-5, too
            {
                ("resnet18-mixed_bt_cifar10", "linear_probe", "cifar10"): 92.58,
                ("mixed_bt_r50_tiny_imagenet", "knn", "tiny_imagenet"): 42.21,
                ("resnet50-mixed_bt_imagenet_0.5", "linear_probe", "imagenet"): 72.2,
                ("mixed_bt_r50_imagenet_reg2_1000ep", "linear_probe", "imagenet"): 74.06,
            },
        ),
        (
            "w_mse_table1",
            2 * 4 * 3,
            {
                ("resnet18-w_mse_4", "linear_probe", "cifar100"): 67.64,
                ("resnet18-byol", "knn", "tiny_imagenet"): 36.24,
            },
        ),
        (
            "pretraining_knn",
            6 * 5,
            {
                ("resnet18-byol", "knn", "cifar10"): 91.0,
                ("resnet18-swav_200_epochs_batch_128", "knn", "cifar10"): 81.2,
                ("resnet50-swav", "finetune", "imagenet"): 75.4,
            },
        ),
        (
            "pretraining_linear",
            3 * 6 + 3,
            {
                ("resnet18-moco_v2", "linear_probe", "cifar10"): 92.94,
                ("resnet18-w_mse", "linear_probe", "imagenet100"): 67.6,
                ("resnet50-byol", "linear_probe", "imagenet"): 68.37,
            },
        ),
    ],
)
def test_tables_of_pretrainings_hold_what_their_sources_print(
    table: str, rows: int, cells: dict[tuple[str, str, str], float]
) -> None:
    found = read_published([table]).rows
    assert len(found) == rows
    assert len({(row.encoder, row.protocol, row.dataset, row.metric) for row in found}) == rows
    for cell, percent in cells.items():
        assert 100 * value(table, *cell, "top1") == pytest.approx(percent)


def test_a_released_encoder_and_an_own_pretraining_have_one_published_score() -> None:
    rows = read_published(["mixed_barlow_twins"]).rows
    longest = "mixed_bt_r50_imagenet_reg2_1000ep", "linear_probe", "imagenet", "top5"
    assert value("mixed_barlow_twins", *longest) == pytest.approx(0.9147)
    assert {row.metric for row in rows if row.primary} == {"top1"}
    released = sorted((r.protocol, r.dataset, r.value) for r in rows if "-" not in r.encoder)
    assert released == sorted((r.protocol, r.dataset, r.value) for r in rows if "-" in r.encoder)


def test_tables_of_small_models_agree_with_each_other() -> None:
    # The exact values of the plotting script round to the figure's, but for DeiT-Tiny's baseline
    # (23.04 against 23.4).
    def top1(table: str, model: str) -> float:
        return 100 * value(table, model, "linear_probe", "imagenet", "top1")

    exact, figure = "small_models_statistics", "small_models_figure1"
    for name in ("resnet18", "mobilenet_v3_large", "mobilenet_v3_small", "efficientnet_b0"):
        pair = [top1(table, f"{name}-moco_v2") for table in (exact, figure)]
        assert pair[0] == pytest.approx(pair[1], abs=0.051)
        improved = f"{name}-improved_{200 if name == 'mobilenet_v3_small' else 800}"
        assert top1(exact, improved) == pytest.approx(top1(figure, improved), abs=0.051)
    rows = read_published(["small_models_readme"]).rows
    ranks = [row.value for row in rows if row.metric.startswith("d_sd_same_domain_top")]
    assert len(ranks) == 5
    assert ranks == sorted(ranks)
    assert {row.unit for row in rows} == {"fraction", "squared distance", "log"}


def test_scores_of_two_tables_are_variants_of_a_protocol_and_never_mixed() -> None:
    names = ["transfer_2021_table1", "sfda_2022_self_supervised"]
    alone = {name: read_published([name]) for name in names}
    for order in (names, names[::-1], [*names, names[0]]):
        both = read_published(order)
        assert both.known("protocol") == [
            "finetune table=sfda_2022_self_supervised",
            "finetune table=transfer_2021_table1",
            "logistic_regression",
        ]
        for name in names:
            own = [row for row in both.rows if row.protocol == f"finetune table={name}"]
            stated = [row for row in alone[name].rows if row.protocol == "finetune"]
            assert [row._replace(protocol="finetune") for row in own] == stated
