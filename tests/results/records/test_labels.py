import random
from typing import Any

import labels_by_document
import pytest

from results.records.labels import distinguish, identify, natural


def test_equal_configurations_get_no_text() -> None:
    assert distinguish([{"a": 1}, {"a": 1}]) == ["", ""]


def test_all_of_a_few_differing_keys_are_shown_by_their_last_name() -> None:
    configs = [
        {"method": {"epochs": 4, "optimizer": {"lr": 0.1}, "kept": 1}},
        {"method": {"epochs": 40, "optimizer": {"lr": 0.2}, "kept": 1}},
    ]
    assert distinguish(configs) == ["epochs=4 lr=0.1", "epochs=40 lr=0.2"]


def test_names_that_end_alike_are_shown_as_far_as_they_differ() -> None:
    configs = [{"model": {"width": 1}, "method": {"width": n}} for n in (2, 3)]
    configs.append({"model": {"width": 2}, "method": {"width": 3}})
    assert distinguish(configs)[2] == "model.width=2 method.width=3"


def test_of_many_differing_keys_just_enough_are_shown() -> None:
    configs = [{"a": n, "b": n, "c": n, "deep": {"d": n}, "e": n % 2} for n in range(4)]
    assert distinguish(configs) == ["a=0", "a=1", "a=2", "a=3"]


def test_of_another_node_its_name_is_shown() -> None:
    sets = ({"name": "digits", "reader": "a", "flip": "no"}, {"name": "photos", "reader": "s"})
    configs = [{"method": {"epochs": n, "pretrain_on": one}} for n, one in enumerate(sets)]
    assert distinguish(configs) == ["epochs=0 pretrain_on=digits", "epochs=1 pretrain_on=photos"]
    configs.append({"method": {"epochs": 1, "pretrain_on": {**sets[1], "flip": "yes"}}})
    assert len(set(distinguish(configs))) == 3


def document(number: int, **axes: Any) -> dict[str, Any]:
    """Return a record of one encoder, as far as labels need it, with parts of its identity."""
    names = {"model": "m", "method": "as_is", "protocol": "knn", "dataset": "own"}
    identity = {axis: {"name": name, **axes.get(axis, {})} for axis, name in names.items()}
    return {"run_id": f"{number:016x}", **names, "encoder": {"id": "e" * 16, "label": "m"},
            "identity": {**identity, "precision": "fp32"}, "requires": []}  # fmt: skip


def test_labels_know_what_was_hashed_not_the_configuration() -> None:
    documents = [document(1), document(2)]
    for number, one in enumerate(documents):
        how = {"resources": {"gpus": number}, "keep_encoder": bool(number)}
        one["config"] = {**one["identity"], "protocol": {"name": "knn", **how}}
    assert len(set(identify(documents))) == 1
    documents[1]["identity"]["protocol"]["k"] = 3
    assert [one.protocol for one in identify(documents)] == ["knn", "knn k=3"]


def test_equal_weights_with_different_preprocessings_are_different_encoders() -> None:
    documents = [document(n, model={"preprocessing": {"size": 32 * n}}) for n in (1, 2, 1)]
    assert [one.encoder for one in identify(documents)] == ["m size=32", "m size=64", "m size=32"]
    # What a file beside the weights states is in the record only.
    documents = [document(n) for n in (1, 2, 1)]
    for one, mean in zip(documents, (0.5, 0.4, 0.5), strict=True):
        one["encoder"] = {**one["encoder"], "preprocessing": {"mean": [mean]}}
    first, second, third = identify(documents)
    assert first == third
    assert len({first.encoder_id, second.encoder_id}) == 2
    assert len({first.encoder, second.encoder}) == 2


def test_records_with_and_without_the_preprocessing_are_of_one_encoder() -> None:
    earlier, later = document(1), document(2)
    later["encoder"] = {**later["encoder"], "preprocessing": {"size": 32}}
    assert len(set(identify([earlier, later]))) == 1
    assert identify([earlier, later])[0].encoder_id == "e" * 16


def test_records_of_earlier_code_are_labelled_by_their_configuration() -> None:
    documents = [document(n, protocol={"k": n, "added_later": None}) for n in (1, 2)]
    for one in documents:
        one["config"] = one.pop("identity")
    assert [one.protocol for one in identify(documents)] == ["knn k=1", "knn k=2"]
    del documents[0]["config"]["protocol"]["added_later"]
    assert [one.protocol for one in identify(documents)] == ["knn k=1", "knn k=2"]
    for one in documents:
        del one["config"]  # an early failure
    assert [one.protocol for one in identify(documents)] == ["knn", "knn"]


@pytest.mark.parametrize(
    ("roots", "labels"),
    [
        (("/a/proj1/images", "/a/proj2/images"), ("root=proj1/images", "root=proj2/images")),
        (("/a/x/1/images", "/b/x/1/images"), ("root=a/x/1/images", "root=b/x/1/images")),
        (("fold0/train.txt", "fold1/train.txt", "a.txt"),
         ("root=fold0/train.txt", "root=fold1/train.txt", "root=a.txt")),
        (("images", "other/images"), ("root=images", "root=other/images")),
        (("images", "images/"), ("root=images", "root=images/")),
        (("/images", "images"), ("root=/images", "root=images")),
        (("1", 1, True), ("root='1'", "root=1", "root=True")),
        (("null", None), ("root=null", "root=None")),
        (({}, {"a": None}), ("root={}", "a=null")),
        ((0.5, "0.5/a", "a"), ("root=0.5", "root=0.5/a", "root=a")),
    ],
)  # fmt: skip
def test_two_values_never_share_a_label(roots: tuple[Any, ...], labels: tuple[str, ...]) -> None:
    documents = [document(n, dataset={"root": root}) for n, root in enumerate(roots)]
    assert tuple(one.dataset for one in identify(documents)) == tuple(f"own {x}" for x in labels)


def test_null_counts_where_an_identity_holds_it() -> None:
    sizes = ({"size": 32}, {"size": 32, "resize": None})
    documents = [document(n, protocol={"preprocessing": one}) for n, one in enumerate(sizes)]
    assert [one.protocol for one in identify(documents)] == ["knn", "knn resize=null"]


def test_missing_keys_are_left_out_and_paths_shortened() -> None:
    configs = [{"weights": {}}, {"weights": {"path": "/data/swav.pth"}}]
    assert distinguish(configs)[1] == "path=swav.pth"
    configs = [{}, {"weights": {"path": "/data/swav.pth"}}]
    assert distinguish(configs) == ["", "path=swav.pth"]


def test_numbers_are_sorted_by_size() -> None:
    assert sorted(["epochs=40", "epochs=4", "b", "epochs=10"], key=natural) == [
        "b",
        "epochs=4",
        "epochs=10",
        "epochs=40",
    ]


def test_views_are_told_apart_by_what_differs_in_them() -> None:
    configs = [{"method": {"views": [{"count": 2, "hue": hue, "flip": 0.5}]}} for hue in (0, 0.4)]
    assert distinguish(configs) == ["hue=0", "hue=0.4"]
    configs.append({"method": {"views": [{"hue": 0}, {"hue": 0.4}]}})
    texts = distinguish(configs)
    assert len(set(texts)) == 3
    assert all(len(text) < 40 for text in texts)


def random_documents(chance: random.Random) -> list[dict[str, Any]]:
    """Return a few records and failures that share and lack parts in many ways."""
    documents = []
    for number in range(chance.randrange(1, 14)):
        pick, one_id = chance.choice, f"{number:016x}"
        identity: dict[str, Any] = {
            "model": {
                "name": "m",
                "width": pick([1, 1, 2]),
                "preprocessing": pick([None, {"s": 1}]),
            },
            "method": pick(
                [{"name": "as_is"}, {"name": "simclr", "views": [{"hue": pick([0, 1])}]}]
            ),
            "dataset": {"name": pick("ab"), "root": pick(["/x/a", "/y/a", 1, 1.0, True])},
            "protocol": {
                "name": pick(["knn", "probe"]),
                "k": pick([1, 1, 2.0, 2]),
                "lr": pick([1e-5, 1]),
            },
            "precision": pick(["fp32", "fp32", "bf16"]),
        }
        one = {
            "run_id": one_id,
            "model": "m",
            "method": identity["method"]["name"],
            "protocol": pick([identity["protocol"]["name"], "pretrain"]),
            "dataset": pick([identity["dataset"]["name"], identity["dataset"]["name"], None]),
            "requires": pick([[], ["x"]]),
            "encoder": pick([
                None,
                {"id": pick(["e" * 16, "f" * 16, None, one_id]), "label": pick(["m", "n", ""])},
                {"id": "e" * 16, "label": "m", "preprocessing": {"s": pick([1, 2])}},
            ]),
        }  # fmt: skip
        key = pick(["identity", "identity", "identity", "config", "neither"])
        if key != "neither":
            one[key] = dict(reversed(identity.items())) if pick([False, True]) else identity
        documents.append(one)
    return documents


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 8))]
)
def test_labels_of_descriptions_are_those_of_whole_documents(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(60):
        documents = random_documents(chance)
        repeated = [*documents, *chance.sample(documents, len(documents) // 2)]
        for some in (documents, repeated):
            assert identify(some) == labels_by_document.identify(some)
            mean_over = ["protocol.k"] if any(_has_k(one) for one in some) else []
            assert identify(some, mean_over) == labels_by_document.identify(some, mean_over)


def _has_k(document: dict[str, Any]) -> bool:
    return "identity" in document or "config" in document
