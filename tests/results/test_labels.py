from results.labels import distinguish, natural


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


def test_what_a_job_asks_of_a_cluster_does_not_count() -> None:
    assert distinguish([{"resources": {"gpus": n}} for n in (1, 2)]) == ["", ""]


def test_what_refuses_data_or_fetches_them_does_not_count() -> None:
    for key, values in (("sizes", ("strict", "warn")), ("download", (False, True))):
        assert distinguish([{"dataset": {key: value}} for value in values]) == ["", ""]


def test_missing_keys_are_left_out_and_paths_shortened() -> None:
    configs = [{"weights": {"path": None}}, {"weights": {"path": "/data/swav.pth"}}]
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
