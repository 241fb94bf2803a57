from collections import defaultdict

import numpy as np
import pytest
import torch
import torchvision
from scipy.stats import rankdata, weightedtau

from results.published.catalogue import correlation_lines, lines, read_published

SELF_SUPERVISED, SUPERVISED = "sfda_2022_self_supervised", "sfda_2022_supervised"


def scores_of(table: str, protocol: str = "finetune") -> dict[str, dict[str, float]]:
    """Return dataset -> encoder -> score."""
    scores: dict[str, dict[str, float]] = defaultdict(dict)
    for row in read_published([table]).rows:
        if row.protocol == protocol:
            scores[row.dataset][row.encoder] = row.value
    return scores


def mean_weighted_kendall(
    proxies: dict[str, dict[str, float]], targets: dict[str, dict[str, float]]
) -> float:
    """Return scipy's weighted tau over the common encoders, mean over the common data sets."""
    values = []
    for dataset in targets.keys() & proxies.keys():
        common = sorted(proxies[dataset].keys() & targets[dataset].keys())
        pair = [[scores[dataset][name] for name in common] for scores in (proxies, targets)]
        values.append(weightedtau(*pair).statistic)
    return float(np.mean(values))


def static_ranks(scores: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return for each dataset the mean rank of each encoder on all other data sets."""
    encoders = sorted(next(iter(scores.values())))
    ranks = {d: rankdata([of[name] for name in encoders]) for d, of in scores.items()}
    return {
        d: dict(zip(encoders, np.mean([ranks[o] for o in scores if o != d], axis=0), strict=True))
        for d in scores
    }


@pytest.mark.parametrize(
    ("table", "encoders", "cell", "percent", "static_rank"),
    [
        (SELF_SUPERVISED, 12, ("dtd", "deepcluster_v2"), 77.31, 0.685),
        (SUPERVISED, 11, ("food101", "resnet152-supervised"), 86.28, 0.837),
    ],
)
def test_the_mean_rank_on_other_sets_agrees_with_fine_tuning_as_is_known(
    table: str, encoders: int, cell: tuple[str, str], percent: float, static_rank: float
) -> None:
    scores = scores_of(table)
    assert len(scores) == 11
    assert {len(of_dataset) for of_dataset in scores.values()} == {encoders}
    assert 100 * scores[cell[0]][cell[1]] == pytest.approx(percent)
    found = mean_weighted_kendall(static_ranks(scores), scores)
    assert found == pytest.approx(static_rank, abs=0.0005)


@pytest.mark.parametrize(
    ("protocol", "agreement", "without_food"),
    [("logistic_regression", 0.613, 0.596), ("finetune", 0.786, 0.767)],
)
def test_two_papers_agree_on_self_supervised_encoders_as_is_known(
    protocol: str, agreement: float, without_food: float
) -> None:
    first, second = scores_of("transfer_2021_table1", protocol), scores_of(SELF_SUPERVISED)
    assert len(first.keys() & second.keys()) == 11
    assert mean_weighted_kendall(first, second) == pytest.approx(agreement, abs=0.0005)
    # The known figures leave out Food-101, which has another name there.
    del second["food101"]
    assert mean_weighted_kendall(first, second) == pytest.approx(without_food, abs=0.0005)


@pytest.fixture(scope="module")
def counts() -> dict[str, dict[str, int]]:
    """Numbers of parameters of torchvision's networks: of the encoder, and documented ones."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("kaiming_normal_", "kaiming_uniform_", "trunc_normal_", "uniform_", "normal_"):
            patch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)
        return _counts()


def _counts() -> dict[str, dict[str, int]]:
    found = {}
    for line in lines(SUPERVISED):
        arch = line["released"].removeprefix("torchvision_")
        if line["model"] not in found:
            with torch.device("meta"):
                network = torchvision.models.get_model(arch, weights=None)
            others = ("fc.", "classifier.", "aux", "AuxLogits")
            sizes = {name: p.numel() for name, p in network.named_parameters()}
            encoder = sum(n for name, n in sizes.items() if not name.startswith(others))
            documented = torchvision.models.get_model_weights(arch).IMAGENET1K_V1.meta  # type: ignore[attr-defined]
            heads = [
                m for name, m in network.named_modules() if name.startswith(("fc", "classifier"))
            ]
            (last,) = [head for head in heads if isinstance(head, torch.nn.Linear)]
            found[line["model"]] = {
                "encoder": encoder,
                "documented": documented["num_params"],
                "feature_dim": last.in_features,
            }
    return found


@pytest.mark.parametrize(("column", "kind"), [("parameters", "encoder"), ("feature_dim",) * 2])
def test_sizes_of_supervised_encoders_are_those_of_torchvision_s_networks(
    counts: dict[str, dict[str, int]], column: str, kind: str
) -> None:
    stated = {line["model"]: int(line[column]) for line in lines(SUPERVISED)}
    assert stated == {model: count[kind] for model, count in counts.items()}


def test_the_estimators_of_the_supervised_zoo_agree_with_it_less_than_its_static_rank() -> None:
    values: dict[str, list[float]] = defaultdict(list)
    for line in correlation_lines("sfda_2022_estimators"):
        values[line["proxy"].removeprefix("transferability:")].append(float(line["value"]))
    assert {len(of_estimator) for of_estimator in values.values()} == {11}
    means = {name: float(np.mean(of_estimator)) for name, of_estimator in values.items()}
    expected = {"leep": 0.410, "logme": 0.509, "n_leep": 0.611, "parc": 0.467, "sfda": 0.710}
    assert means == pytest.approx(expected, abs=0.0006)
    scores = scores_of(SUPERVISED)
    assert mean_weighted_kendall(static_ranks(scores), scores) > max(means.values()) + 0.1


@pytest.mark.parametrize(("kind", "agreement"), [("encoder", 0.609), ("documented", 0.578)])
def test_numbers_of_parameters_rank_supervised_encoders_by_either_count(
    counts: dict[str, dict[str, int]], kind: str, agreement: float
) -> None:
    scores = scores_of(SUPERVISED)
    sizes = {model: float(count[kind]) for model, count in counts.items()}
    found = mean_weighted_kendall(dict.fromkeys(scores, sizes), scores)
    assert found == pytest.approx(agreement, abs=0.0005)
