import dataclasses

import numpy as np
import pytest

from ssl_transfer.datasets import Dataset, concatenate
from ssl_transfer.datasets.base import fingerprint
from ssl_transfer.datasets.digit_domains import DOMAINS, PLACES, digits_domains


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return digits_domains(name="digits_domains", flip=False)


def colours(split) -> np.ndarray:
    """Return 0 for red digits, 1 for green ones."""
    means = np.array([np.asarray(image).reshape(-1, 3).mean(axis=0) for image in split.images])
    return (means[:, 1] > means[:, 0]).astype(int)


def test_the_sizes_and_domains_are_those_of_its_yaml(dataset: Dataset) -> None:
    assert dataset.facts["sizes"] == {"train": 2157, "id_val": 537, "ood_val": 300, "test": 599}
    assert dataset.domains == ("school", "bank", "post", "office", "court")
    domains = {key: set(split.domains.tolist()) for key, split in dataset.splits.items()}
    assert domains == {"train": {0, 1, 2}, "id_val": {0, 1, 2}, "ood_val": {3}, "test": {4}}
    assert dataset["val"] is dataset["id_val"]


def test_the_colour_agrees_with_the_label_as_often_as_its_domain_says(dataset: Dataset) -> None:
    both = concatenate(dataset["train"], dataset["val"])
    for split in (both, dataset["ood_val"], dataset["test"]):
        agrees = colours(split) == split.targets
        for number in np.unique(split.domains).tolist():
            expected = DOMAINS[dataset.domains[number]].agreement
            share = agrees[split.domains == number].mean()
            assert abs(share - expected) < 0.06
    assert set(PLACES["train"]) == set(dataset.domains[:3])


def test_labels_are_wrong_as_often_as_asked(dataset: Dataset) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits().target
    wrong = [
        (digits[int(name.split("/")[1])] >= 5) != target
        for split in dataset.splits.values()
        for name, target in zip(split.names, split.targets.tolist(), strict=True)
    ]
    assert abs(np.mean(wrong) - 0.1) < 0.02
    clean = digits_domains(name="clean", label_noise=0.0, labels_per_class=10, test_per_class=50)
    for name, target in zip(clean["test"].names, clean["test"].targets.tolist(), strict=True):
        assert (digits[int(name.split("/")[1])] >= 5) == target


def test_a_digit_is_in_one_split_and_shown_once_in_each_of_its_domains(dataset: Dataset) -> None:
    groups = {key: set(split.groups.tolist()) for key, split in dataset.splits.items()}
    assert sum(map(len, groups.values())) == len(set.union(*groups.values())) == 1797
    counts = np.unique(dataset["train"].groups, return_counts=True)[1]
    assert (counts == 3).all()


def test_few_labels_are_few_in_every_validation_split() -> None:
    few = digits_domains(name="few", labels_per_class=20)
    sizes = few.facts["sizes"]
    assert (sizes["train"], sizes["id_val"], sizes["ood_val"]) == (32, 8, 8)


def test_domains_follow_their_samples(dataset: Dataset) -> None:
    split = dataset["train"]
    picked = [5, 2000, 7]
    assert split.subset(picked).domains.tolist() == split.domains[picked].tolist()
    joined = concatenate(split, dataset["ood_val"])
    assert joined.domains.tolist() == [*split.domains.tolist(), *[3] * 300]
    assert len(set(joined.names)) == len(joined)


def test_other_domains_are_another_fingerprint(dataset: Dataset) -> None:
    split = dataset["test"]
    moved = dataclasses.replace(split, domains=split.domains + 1)
    bare = dataclasses.replace(split, domains=None)
    prints = {fingerprint(("a",), {"test": s}, "") for s in (split, moved, bare)}
    assert len(prints) == 3
