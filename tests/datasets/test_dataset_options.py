import functools
import inspect

import pytest
from hydra.errors import HydraException

from ssl_transfer import datasets
from ssl_transfer.config import CONF, compose, locate, options, plain
from ssl_transfer.config.hydra_errors import sentence
from ssl_transfer.datasets import Options, huggingface, image_table
from ssl_transfer.runs import Run
from ssl_transfer.runs.signature import problems

OPTIONS = options("dataset")
EMBEDDED = ("digits", "digits_domains", "figures", "photos", "shapes", "textures")
VIEWS = ("stereo_patches",)  # embedded, and all in test
PUBLISHED = (
    "aircraft caltech101 cars chestx cifar10 cifar100 cropdiseases cub200 dtd eurosat fashionmnist "
    "flowers food food101 gtsrb imagenet imagenet_10pct imagenet_1pct isic mhist mnist pcam pets "
    "plantvillage stl10 sun397 svhn tiny_imagenet traffic_sign voc2007 imagenet_v2 imagenet_sketch "
    "imagenet_r imagenet_a omniglot miniimagenet imagenet100 inaturalist18 camelyon17 "
    "cifar10_1perc cifar100_10perc lsun"
)
PUBLISHED_LANDMARKS = "300w celeba_attributes celeba_landmarks leeds_pose"
PUBLISHED_FACTORS = "causal3dident"
PUBLISHED_VIEWS = (
    "aloi aloi_illumination aloi_temperature alot alot_illumination alot_temperature coil100 dali "
    "exposure_errors flickr1024 realblur"
)
ALIASES = {"food": "food101"}
# Keys whose value in an option is not what the reader takes without one.
OWN = {"imagenet_1pct": {"share": 0.01}, "imagenet_10pct": {"share": 0.1}}
OWN |= {"cifar10_1perc": {"percent": 1}, "cifar100_10perc": {"percent": 10}}
OWN |= {
    f"{name}_{factor}": {"factor": factor}
    for name in ("aloi", "alot")
    for factor in ("illumination", "temperature")
}
# The file shows the roles of columns; null means a usual name.
OWN["lsun"] = {"val": "none", "test": "val"}
OWN["image_table"] = {"columns": dict.fromkeys(image_table.USUAL)}
OWN["huggingface"] = {"columns": dict.fromkeys(huggingface.USUAL)}
MINE = ("dataset=image_folder", "dataset.root=images")
# Where a mirrored image may show another class, or none.
NO_FLIPS = {
    "digits",
    "digits_domains",
    "fashionmnist",
    "gtsrb",
    "mnist",
    "omniglot",
    "svhn",
    "traffic_sign",
}
NO_FLIPS |= {"300w", "celeba_landmarks", "figures", "leeds_pose", "shapes", "causal3dident"}


@functools.cache
def composed(option: str) -> dict:
    return plain(compose([f"dataset={option}"]))["dataset"]


def node(option: str) -> dict:
    return dict(composed(option))


def test_the_options_are_those_of_the_readme() -> None:
    own = {"image_folder", "image_list", "image_table", "static_views", "unlabelled_folder"}
    own |= {"huggingface", "lmdb", "webdataset"}
    published = {*PUBLISHED.split(), *PUBLISHED_LANDMARKS.split(), *PUBLISHED_VIEWS.split()}
    published |= {*PUBLISHED_FACTORS.split()}
    assert {*EMBEDDED, *VIEWS, *published, *own} == set(OPTIONS)


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_shows_every_key_of_its_reader(option: str) -> None:
    config = node(option)
    assert (CONF / "dataset" / f"{option}.yaml").read_text().startswith("# ")
    assert config["name"] == ALIASES.get(option, option)
    parameters = inspect.signature(locate(config.pop("_target_"))).parameters
    assert set(config) == set(parameters)
    assert config.pop("flip") is (option not in NO_FLIPS)
    defaults = {key: parameters[key].default for key in config}
    differing = {key: value for key, value in config.items()
                 if defaults[key] not in (inspect.Parameter.empty, value)}  # fmt: skip
    assert differing == OWN.get(option, {})


@pytest.mark.parametrize("option", OPTIONS)
def test_all_options_share_the_same_keys(option: str) -> None:
    assert set(inspect.signature(Options).parameters) <= set(node(option))


@pytest.mark.parametrize(("alias", "option"), ALIASES.items())
def test_an_alias_is_the_same_run(alias: str, option: str) -> None:
    runs = [Run(plain(compose([f"dataset={name}"]))) for name in (alias, option)]
    assert runs[0].id == runs[1].id
    assert runs[0].place == runs[1].place


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (["dataset=voc2007", "dataset.difficult=maybe"], "dataset.difficult"),
        (["dataset=pets", "dataset.val_rule=other"], "dataset.val_rule"),
        (["dataset=chestx", "dataset.test=mine"], "dataset.test"),
        (["dataset=gtsrb", "+dataset.splt=1"], "dataset.splt"),
        (["dataset=image_folder", "dataset.root=x", "dataset.on_duplicates=skip"], "on_duplicates"),
        (["dataset=image_folder", "dataset.root=x", "dataset.exclude_classes=a"], "exclude_class"),
        ([*MINE, "dataset.metric=top_1"], "`dataset.metric` must be one of ['top1', 'top5', 'mean"),
        ([*MINE, "dataset.extra_metrics=[auc,recall]"], "must be a list of one of ['top1', 'top5'"),
        ([*MINE, "+dataset.also=[auc]"], "`dataset`; it is called `extra_metrics` now."),
    ],
)
def test_misspelt_keys_and_values_are_found_before_any_data(
    changed: list[str], sentence: str
) -> None:
    told = problems(plain(compose(changed)))
    assert len(told) == 1
    assert sentence in told[0]


def test_a_key_under_its_former_name_is_refused_with_the_new_one() -> None:
    with pytest.raises(HydraException) as refused:
        compose([*MINE, "dataset.also=[auc]"])
    assert sentence(refused.value).endswith("is not a key of `dataset=image_folder`; it is called "
                                            "`extra_metrics` now.")  # fmt: skip
    with pytest.raises(ValueError, match="`also` has another name now; use `extra_metrics`"):
        datasets.assemble(Options(name="mine"), also=("auc",))
    with pytest.raises(ValueError, match="`also` has another name now; use `extra_metrics`"):
        datasets.Dataset(name="mine", also=("auc",))


def test_what_refuses_copies_or_lets_them_pass_is_one_run() -> None:
    base = ["dataset=image_folder", "dataset.root=/photos"]
    changes = [
        "on_duplicates=error", "on_duplicates=warn", "on_duplicates=drop", "class_depth=2",
        "test_folder=val", "groups=x", "exclude_classes=[a]",
    ]  # fmt: skip
    ids = [Run(plain(compose([*base, f"dataset.{change}"]))).id for change in changes]
    assert ids[0] == ids[1] == Run(plain(compose(base))).id
    assert len({*ids}) == len(ids) - 1


@pytest.mark.parametrize("option", EMBEDDED)
def test_embedded_options_build(option: str) -> None:
    dataset = datasets.build(node(option) | {"name": "renamed"})
    assert dataset.name == "renamed"
    assert dataset.flip is (option not in NO_FLIPS)
    assert {"train", "test"} <= set(dataset.splits)
    assert len(dataset["val"]) > 0
    assert all(split.images[0].mode == "RGB" for split in dataset.splits.values())


@pytest.mark.parametrize("option", VIEWS)
def test_embedded_options_of_views_build(option: str) -> None:
    dataset = datasets.build(node(option) | {"name": "renamed"})
    assert (dataset.name, dataset.target) == ("renamed", "views")
    assert [len(dataset[key]) for key in ("train", "val")] == [0, 0]
    assert len(dataset["test"]) > 0
