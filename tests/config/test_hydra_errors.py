"""What Hydra's parser says is told as a sentence."""

import pytest
from hydra.errors import HydraException

from ssl_transfer.config import compose, options
from ssl_transfer.config.hydra_errors import renamed_option, sentence


@pytest.mark.parametrize("override", ["method.epochs={a:[b=1]}", "model.width=[1,2", "a b=3"])
def test_an_argument_that_does_not_parse_is_named_with_what_to_do(override: str) -> None:
    with pytest.raises(HydraException) as caught:
        compose([override])
    told = sentence(caught.value)
    assert told.startswith(f"every argument must read as key=value, but `{override}` does not (")
    assert "put quotes around" in told
    assert "\n" not in told


@pytest.mark.parametrize("text", [r"(patient\d+)_", "^(.)", "(a|b)", "f(x)"])
def test_a_text_that_does_not_parse_is_answered_with_the_argument_to_type(text: str) -> None:
    with pytest.raises(HydraException) as caught:
        compose([f"dataset.groups={text}"])
    assert f"""in quotes: 'dataset.groups="{text}"'.""" in sentence(caught.value)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            ["method=as_is", "dataset@method.pretrain_on=digits"],
            "`dataset@method.pretrain_on` has no place in the option chosen of `method`",
        ),
        (
            ["model=mobilenet_v3_small", "model.preprocessing.size=32"],
            "as it stands; `+model.preprocessing.size=…` adds it.",
        ),
        (["method=simclr", "method.views.2.count=4"], "the list has no such place"),
        (["method=simclr", "method.epoch=4"], "did you mean `epochs`?"),
    ],
)
def test_what_cannot_be_overridden_is_told_with_what_to_do(line: list[str], told: str) -> None:
    with pytest.raises(HydraException) as caught:
        compose(line)
    assert told in sentence(caught.value)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("dataset=/data/my birds", "dataset=image_folder 'dataset.root=\"/data/my birds\"'."),
        ("dataset=cells/train.csv", "dataset=image_table dataset.path=cells/train.csv."),
        ("model=runs/moco.pth", "model=resnet50 model.weights.path=runs/moco.pth"),
    ],
)
def test_a_path_in_place_of_an_option_is_answered_with_the_key_for_it(
    typed: str, told: str
) -> None:
    with pytest.raises(HydraException) as caught:
        compose([typed])
    said = sentence(caught.value)
    assert f"must name an option, but `{typed.partition('=')[2]}` is a path" in said
    assert told in said


def test_options_are_listed_by_their_own_names_also_for_a_path() -> None:
    with pytest.raises(HydraException) as caught:
        compose(["experiment=/x/y"])
    assert "/x/demo" not in sentence(caught.value)


@pytest.mark.parametrize(
    ("former", "new"),
    [
        ("experiment=bn_tuning_many_shot", "experiment=bn_tuning/many_shot"),
        ("experiment=mixed_barlow_twins_imagenet", "experiment=mixed_barlow_twins/imagenet"),
        ("experiment=mixed_bt_linear_cifar10", "experiment=mixed_barlow_twins/linear_cifar10"),
        ("experiment=labels_1pct", "experiment=swav/labels_1pct"),
        ("recipe=mixed_bt_knn", "recipe=mixed_barlow_twins/knn"),
        ("recipe=bn_tuning_paper", "recipe=bn_tuning/paper"),
        ("recipe=imagenet_labels", "recipe=swav/labels"),
        ("recipe=transfer_2021", "recipe=transfer_2021/shared"),
    ],
)  # fmt: skip
def test_a_former_name_of_an_experiment_or_a_recipe_is_answered_with_its_new_one(
    former: str, new: str
) -> None:
    with pytest.raises(HydraException) as caught:
        compose([former])
    assert sentence(caught.value) == f"`{former}` has another name now; use `{new}`."


def test_no_two_experiments_had_the_same_former_name() -> None:
    for group in ("experiment", "recipe"):
        names = [name for name in options(group) if "/" in name]
        former = [
            "transfer_2021" if n == "transfer_2021/shared" else n.replace("/", "_") for n in names
        ]
        assert [renamed_option(group, name) for name in former] == names


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("experiment=moco/linear_evl", "is `moco/linear_evl`; did you mean `moco/linear_eval`?"),
        ("recipe=knn", "`recipe` must be one of bn_tuning/paper, invariances/classification, "),
        ("hydra/launcher=slum", "`hydra/launcher` must be one of basic, in_process, local, slurm"),
    ],
)  # fmt: skip
def test_an_unknown_option_is_answered_with_all_that_there_are(typed: str, told: str) -> None:
    with pytest.raises(HydraException) as caught:
        compose([typed])
    assert told in sentence(caught.value)
