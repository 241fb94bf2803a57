import dataclasses
import math

from results.agreement.choosing import MEAN, RANDOM, Choice, Miss
from results.agreement.cost import Cost
from results.report import losses
from results.statistics.estimate import Estimate


def choice(dataset: str, regret: float, proxy: str = "knn") -> Choice:
    value = (
        Estimate(regret, regret - 0.5, regret + 0.5, 9)
        if dataset == MEAN
        else Estimate.exact(regret)
    )
    return Choice(dataset, proxy, "finetune", 8, regret=value, hit_at_1=0.5, hit_at_3=1.0)


def test_the_loss_on_one_dataset_names_it() -> None:
    one = choice("digits", 1.25)
    assert losses.loss(one, [one], choice("digits", 4.0, RANDOM)) == (
        "Choosing the encoder by `knn` loses 1.25 points of `finetune` on `digits`; a random "
        "choice loses 4.00."
    )


def test_the_mean_loss_has_its_interval_and_names_the_worst_dataset() -> None:
    per_dataset = [choice("digits", 1.0), choice("textures", 3.0)]
    assert losses.loss(choice(MEAN, 2.0), per_dataset, None) == (
        "Choosing the encoder by `knn` loses 2.00 [1.50, 2.50] points of `finetune`, mean over 2 "
        "datasets, and most on `textures`: 3.00."
    )
    assert losses.loss(Choice(MEAN, "knn", "finetune"), [], None) is None


def test_hits_are_counted_over_datasets() -> None:
    text = losses.hits([choice("digits", 1.0), choice("textures", 3.0), choice("faces", 0.0)])
    assert text == (
        "`knn` ranks the best encoder first on 1.5 of 3 datasets, and among its first three on 3."
    )
    assert losses.hits([choice("digits", 1.0)]) is None


def test_missed_encoders_are_named_with_both_ranks() -> None:
    miss = Miss("swav", "digits", 1, 7, 0.9, 0.2, 8)
    assert losses.misses("knn", [miss], "finetune") == (
        "`knn` misses `swav` on `digits` (1 of 8 by `finetune`, 7 by `knn`)."
    )
    assert "no encoder" in losses.misses("knn", [], "finetune")


CHEAP = Cost({"cpu": 60.0}, {}, runs=10, cells=10)
DEAR = Cost({"cpu": 1200.0}, {}, runs=10, cells=10)


def test_costs_are_compared_per_encoder_and_dataset() -> None:
    assert losses.cost("knn", CHEAP, "finetune", DEAR) == (
        "The scores of `knn` took 6.0 s per encoder and dataset, 60.0 s for 10 runs on cpu; those "
        "of `finetune` 2 min, so the proxy takes 5 % of the time."
    )


def test_a_cost_that_is_known_in_part_is_a_lower_bound_and_gives_no_ratio() -> None:
    text = losses.cost("knn", dataclasses.replace(CHEAP, unknown=1), "finetune", DEAR)
    assert text is not None
    assert "took at least 6.0 s" in text
    assert "%" not in text


def test_costs_on_other_devices_are_not_compared() -> None:
    other = Cost({"NVIDIA A100": 10.0}, {}, runs=1, cells=1)
    text = losses.cost("knn", CHEAP, "finetune", other)
    assert text is not None
    assert text.endswith("on cpu.")
    mixed = Cost({"cpu": 1.0, "NVIDIA A100": 1.0}, {}, runs=2, cells=2)
    assert math.isnan(mixed.total)
    assert "not comparable" in str(losses.cost("knn", mixed, "finetune", DEAR))
    assert losses.cost("parameters", Cost(), "finetune", DEAR) is None
    assert losses.cost("knn", None, "finetune", DEAR) is None
