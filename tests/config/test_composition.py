import json
import random
import shutil

import pytest
from hydra import initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode

import launchers
from launchers import composition
from launchers.composition import CompositionCache, sweep_composer, task_overrides
from ssl_transfer.config import CONF, compose, options, plain
from ssl_transfer.config.composer import Composer
from ssl_transfer.config.hydra_errors import sentence


def command_line(chance: random.Random) -> list[str]:
    """Return random overrides of all kinds: options, keys, lists, nulls, additions, removals."""
    method = chance.choice(["as_is", "simclr", "barlow_twins", "supervised"])
    protocol = chance.choice(["linear_probe", "bn_tune", "finetune", "pretrain"])
    dataset = chance.choice(["digits", "textures", "cifar10", "image_folder"])
    line = [f"method={method}", f"protocol={protocol}", f"dataset={dataset}"]
    extra = [
        f"model={chance.choice(['small_resnet', 'resnet18', 'resnet50'])}",
        f"seed={chance.randrange(5)}",
        "paths.outputs=/elsewhere/outputs",
        "trainer.workers=2",
        "+dataset.citation='a, b = c'",
        f"dataset.name=my_{dataset}",
        "logger=wandb",
        "~retry",
    ]
    if method != "as_is":
        extra += [f"method.epochs={chance.randrange(1, 9)}", "method.optimizer.lr=0.25"]
        extra += ["dataset@method.pretrain_on=textures", "optimizer@method.optimizer=lars"]
    if protocol != "pretrain":
        extra += ["protocol.grid.lr=[0.1,1e-3]", "protocol.clip_grad_norm=null"]
        extra += [
            "optimizer@protocol.optimizer=adamw",
            "protocol.augmentation={crop_scale:[0.5,1]}",
        ]
    return line + chance.sample(extra, k=chance.randrange(len(extra)))


@pytest.fixture(scope="module")
def hydra():
    launchers.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        instance = GlobalHydra.instance().hydra
        assert isinstance(instance, Hydra)
        yield instance


@pytest.fixture(scope="module")
def composed_by_hydra(hydra):
    """Hydra's own composition of a command line, and a composer of the same sweep."""
    master = hydra.compose_config("config", [], run_mode=RunMode.MULTIRUN)
    loader = hydra.config_loader
    return lambda line: plain(loader.load_sweep_config(master, line)), sweep_composer(
        loader, master
    )


@pytest.mark.slow
def test_compositions_remembered_or_not_equal_hydras_own_on_random_command_lines(
    composed_by_hydra, tmp_path
):
    by_hydra, composer = composed_by_hydra
    chance = random.Random(0)
    lines = [command_line(chance) for _ in range(16)]
    path = tmp_path / "compositions.jsonl"
    cache = CompositionCache(path)
    for line in lines:
        cache.get(line, lambda line=line: plain(composer.compose(line)))
    again = CompositionCache(path)
    for line in lines:
        remembered = again.get(line, lambda: pytest.fail("it was composed before"))
        assert remembered == by_hydra(line), line


UNUSUAL = [
    ["experiment=demo", "seed=3"],
    ["seed=3", "experiment=demo_measures", "protocol.epochs=2"],
    ["protocol.epochs=2", "protocol=finetune", "protocol.epochs=4"],
    ["~experiment", "~logger", "seed=2"],
    ["~seed", "+seed=4"],
    ["~seed=0"],
    ["seed=7", "~seed=7"],
    ["protocol={epochs:2,clip_grad_norm:0.5}", "seed=1"],
    ["method=simclr", "method.optimizer={lr:1}", "method.optimizer.lr=2", "method.epochs=1"],
    ["method=simclr", "dataset@method.pretrain_on=digits", "method.pretrain_on.name=d", "seed=1"],
    ["+optimizer@protocol.extra=adam", "+protocol.note='a=b'", "++protocol.extra.lr=1", "++seed=5"],
    ["dataset.name='${model.name}_${seed}'", "seed=3", "+dataset.note='${oc.env:HOME}'"],
    ["+alias='${dataset}'", "alias={name:other}", "seed=2"],
    ["+alias='${lists.${seed}}'", "+lists=[[1],[2]]", "seed=1", "alias=[3,4]"],
    ["method=seed", "method.teacher={method:byol,seed:1}", "model.width=8"],
    ["+note='${hydra.job.name}'", "seed=2"],
    ["+dataset@extra=textures", "seed=1"],  # composed, and refused by `problems`
    ["seed=abc"],
    ["seed=1.5"],
    ["hydra.verbose=true", "seed=2"],
    ["+model.views=[{a:1},[2,null]]", "trainer.compile=True", "paths.data='/a b'", "seed=1_0"],
    ["trainer.checkpoint_every_minutes=1", "precision=1", "debug=1", "trainer.workers='2'"],
]
WRONG = [
    ["+alias='${dataset}'", "alias.name=other", "seed=2"],
    ["+note='${hydra:job.name}'", "~note='${hydra:job.name}'"],
    ["model=3"],
    ["model=no_such_thing", "seed=1"],
    ["metod=simclr", "seed=1"],
    ["protocol.epoch=3", "protocol=knn"],
    ["protocol.grid.x=1"],
    ["seed=1,2"],
    ["+seed=1"],
    ["~seed=1"],
    ["~nothing"],
    ["no_group@model=1"],
    ["logger@elsewhere=none"],
    ["foo"],
    ["hydra.nothing=1"],
    ["++model=resnet18"],
    ["model.name.first=x", "model=resnet18"],
]


@pytest.mark.slow
def test_unusual_command_lines_compose_to_the_same_or_fail_with_the_same_sentence(
    composed_by_hydra,
):
    by_hydra, composer = composed_by_hydra

    def outcome(compose, line):
        try:
            return compose(line)
        except Exception as error:  # Hydra lets a few of its own mistakes through
            told = sentence(error) if isinstance(error, HydraException) else str(error)
            return type(error), told

    for line in UNUSUAL + WRONG:
        expected = outcome(by_hydra, line)
        assert isinstance(expected, tuple) == (line in WRONG), (line, expected)
        assert outcome(lambda line: plain(composer.compose(line)), line) == expected, line


def test_runs_that_choose_the_same_options_share_hydras_work_and_nothing_else(
    composed_by_hydra, monkeypatch
):
    by_hydra, composer = composed_by_hydra
    composer = Composer(composer.loader, composer.whole)
    options = ["model=resnet18", "protocol=knn"]
    untouched = by_hydra(options)
    asked = []
    merged = composer._merged
    monkeypatch.setattr(composer, "_merged", lambda o: asked.append(o) or merged(o))
    for seed in range(5):
        own = [f"seed={seed}", "~retry", "+dataset.note={a: 1}", f"model.name=m{seed}"]
        composed = plain(composer.compose(options + own))
        assert (composed["seed"], composed["model"]["name"]) == (seed, f"m{seed}")
    assert plain(composer.compose(options)) == untouched
    assert asked == [tuple(options)]


@pytest.mark.parametrize(
    ("options", "by_whom"),
    [
        (["model=resnet18", "method=simclr", "protocol=bn_tune", "recipe=bn_tuning/paper"], "own"),
        (["method=byol", "dataset@method.pretrain_on=textures", "~experiment"], "own"),
        (["experiment=demo"], "hydra"),  # has keys of Hydra itself, which Hydra must check
    ],
)
def test_files_are_merged_without_hydras_own_unless_they_change_those(
    composed_by_hydra, monkeypatch, options, by_whom
):
    by_hydra, composer = composed_by_hydra
    composer = Composer(composer.loader, composer.whole)
    expected = by_hydra(options)
    asked = []
    whole = composer.whole
    monkeypatch.setattr(composer, "whole", lambda o: asked.append(o) or whole(o))
    assert plain(composer.compose(options)) == expected
    assert asked == ([tuple(options)] if by_whom == "hydra" else [])


def test_another_option_file_or_order_of_overrides_is_another_composition(tmp_path):
    cache = CompositionCache(tmp_path / "c.jsonl")
    assert cache.key(["seed=1", "seed=2"]) != cache.key(["seed=2", "seed=1"])
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "a.yaml").write_text("x: 1")
    first = CompositionCache(tmp_path / "c.jsonl", search_path=[str(tmp_path / "extra")])
    (tmp_path / "extra" / "a.yaml").write_text("x: 2")
    second = CompositionCache(tmp_path / "c.jsonl", search_path=[str(tmp_path / "extra")])
    assert len({c.key(["seed=1"]) for c in (cache, first, second)}) == 3


def test_another_schema_is_another_composition(tmp_path, monkeypatch):
    cache = CompositionCache(tmp_path / "c.jsonl")
    shutil.copytree(composition.CODE, tmp_path / "config")
    monkeypatch.setattr(composition, "CODE", tmp_path / "config")
    assert CompositionCache(tmp_path / "c.jsonl").key(["seed=1"]) == cache.key(["seed=1"])
    with (tmp_path / "config" / "schema.py").open("a") as file:
        file.write("DEFAULT = 1\n")
    assert CompositionCache(tmp_path / "c.jsonl").key(["seed=1"]) != cache.key(["seed=1"])


def test_a_torn_line_is_composed_again(tmp_path):
    path = tmp_path / "c.jsonl"
    cache = CompositionCache(path)
    path.write_text(f"{cache.key(['seed=3'])}\t" + '{"seed": ')
    cache = CompositionCache(path)
    assert cache.get(["seed=3"], lambda: plain(compose(["seed=3"])))["seed"] == 3
    lines = [line for line in path.read_text().splitlines() if line]
    assert json.loads(lines[-1].split("\t")[2])["seed"] == 3
    assert CompositionCache(path).get(["seed=3"], pytest.fail)["seed"] == 3


def test_nobody_else_decides_what_a_command_line_means(tmp_path, monkeypatch):
    path = tmp_path / "c.jsonl"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "theirs"))
    theirs = CompositionCache(path)
    custom = plain(compose(["model=custom", "model._target_=os.system"]))
    theirs.get(["seed=3"], lambda: custom)
    others = path.read_text().splitlines()[-1].split("\t")[2]
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "mine"))
    composed = CompositionCache(path).get(["seed=3"], lambda: plain(compose(["seed=3"])))
    assert composed["model"]["_target_"] != "os.system"
    # Lines of mine with another text, a node of another text, or below another key, are not mine.
    lines = path.read_text()
    key, _, text = lines.splitlines()[-1].split("\t")
    model = json.loads(text)["model"]["sha256"]
    for forged in (
        lines.replace(text, text.replace('"seed":3', '"seed":4')),
        lines.replace('"small_resnet"', '"other"'),
        lines.replace(model, json.loads(others)["model"]["sha256"]),
        lines.replace(key, theirs.key(["seed=4"])),
        "\n".join(line for line in lines.splitlines() if not line.startswith(model)),
    ):
        assert forged != lines
        path.write_text(forged + "\n")
        for seed in (3, 4):
            composed = CompositionCache(path).get(
                [f"seed={seed}"], lambda s=seed: plain(compose([f"seed={s}"]))
            )
            assert composed == plain(compose([f"seed={seed}"]))
    monkeypatch.setenv("XDG_STATE_HOME", str(path))  # no place for a key
    assert CompositionCache(path).get(["seed=5"], lambda: plain(compose(["seed=5"])))["seed"] == 5


def test_hydras_own_overrides_do_not_shape_a_run():
    overrides = ["seed=1", "hydra.verbose=true", "hydra/launcher=basic", "model.width=8"]
    assert task_overrides(overrides) == ["seed=1", "model.width=8"]


def test_constant_axis_keys_wait_for_the_option_they_belong_to():
    line = ["-m", "method=simclr,as_is", "method.epochs=5", "+dataset.x='a b'", "seed=1", "~retry"]
    line += ["dataset@method.pretrain_on=digits"]
    deferred = launchers.defer_axis_keys(line)
    assert deferred == [
        "-m", "method=simclr,as_is", "method.epochs=choice(5)", '+dataset.x=choice("a b")',
        "seed=1", "~retry", "dataset@method.pretrain_on=choice(digits)",
    ]  # fmt: skip
    assert launchers.defer_axis_keys(line[1:]) == line[1:]


def test_a_constant_null_waits_as_other_constants_do_and_stays_null():
    line = ["-m", "model=resnet18,resnet50", "model.weights.path=null"]
    deferred = launchers.defer_axis_keys(line)
    assert deferred[:2] == line[:2]
    assert OverridesParser.create().parse_override(deferred[2]).is_sweep_override()
    assert launchers.restore_nulls(deferred) == line


@pytest.mark.parametrize("axis", ["model", "method", "dataset", "protocol"])
def test_an_unknown_option_is_answered_with_the_known_ones(axis):
    with pytest.raises(HydraException) as caught:
        compose([f"{axis}=no_such_thing"])
    assert options(axis)[0] in str(caught.value)


def test_overrides_of_a_run_are_told_from_hydras_own() -> None:
    given = [
        "seed=3",
        "hydra.verbose=1",
        "hydra/launcher=local",
        "dataset.root='a b'",
        "+x.y=[1,2]",
    ]
    expected = ["seed=3", "dataset.root='a b'", "+x.y=[1,2]"]
    assert task_overrides(given) == expected
    assert task_overrides(tuple(given)) == expected  # from memory
    parsed = OverridesParser.create().parse_overrides(expected)
    assert [one.input_line for one in parsed] == expected
