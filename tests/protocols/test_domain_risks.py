import numpy as np
import pytest
import torch
from torch import nn

from ssl_transfer import datasets, models
from ssl_transfer.config import compose, plain, resolve
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols.domain_risks import DomainObjective, domain_risks, variance_of, vrex
from ssl_transfer.protocols.tuned_classifier import TunedClassifier
from ssl_transfer.protocols.tuning import Tuning, TuningRun
from ssl_transfer.runs.signature import problems
from ssl_transfer.system import distributed

SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.9}
VREX = {"penalty": "vrex", "domains_per_batch": 2}


def small() -> Dataset:
    node = resolve(plain(compose(["dataset=digits_domains"])))["dataset"]
    return datasets.build({**node, "labels_per_class": 60, "test_per_class": 20})


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return small()


def encoder():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.SiLU(), nn.AdaptiveAvgPool2d(2))
        module = nn.Sequential(*layers, nn.Flatten())
    return models.wrap(module, Preprocessing(size=8, resize=None))


def tuning(trainable="head", **options):
    values = {"epochs": 2, "batch_size": 12, "optimizer": SGD, "augmentation": "none", **options}
    by_grid = {key for key, choices in values.get("grid", {}).items() if choices}
    values["optimizer"] = {k: v for k, v in values["optimizer"].items() if k not in by_grid}
    return Tuning(trainable=trainable, **values)


def trial(folder, dataset, trainable="head", surroundings=None, **options):
    folder.mkdir(parents=True, exist_ok=True)
    own = {"precision": "fp64", **(surroundings or {})}
    context = Context(folder, folder / "features", progress_bar=False, **own)
    return TuningRun(tuning(trainable, **options), encoder(), dataset, context)


# ---- the loss -----------------------------------------------------------------------------------


def test_the_risk_of_a_domain_is_the_mean_of_its_part_of_the_batch():
    losses = torch.tensor([[1.0, 2.0, 5.0, 7.0, 0.0, 3.0], [1.0, 1.0, 0.0, 0.0, 4.0, 4.0]])
    assert domain_risks(losses, 3).tolist() == [[1.5, 6.0, 1.5], [1.0, 0.0, 4.0]]
    assert domain_risks(losses, 1).tolist() == [[3.0], [pytest.approx(10 / 6)]]


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 10.0, 1000.0])
def test_vrex_is_the_formula_with_the_whole_objective_divided_by_a_weight_above_one(weight):
    risks = np.array([0.7, 0.2, 1.1])
    spread = np.mean((risks - risks.mean()) ** 2)
    expected = (risks.mean() + weight * spread) / max(1.0, weight)
    objective = vrex(torch.from_numpy(risks), torch.tensor(weight, dtype=torch.float64))
    assert objective.item() == pytest.approx(expected, rel=1e-12)


def test_the_published_variance_is_the_unbiased_one_divided_by_the_domains():
    risks = torch.tensor([0.7, 0.2, 1.1], dtype=torch.float64)
    unbiased = ((0.7 - 2 / 3) ** 2 + (0.2 - 2 / 3) ** 2 + (1.1 - 2 / 3) ** 2) / 2
    assert variance_of(risks, "published").item() == pytest.approx(unbiased / 3)
    two = torch.rand(5, 2, dtype=torch.float64)
    torch.testing.assert_close(variance_of(two, "published"), variance_of(two))


def test_the_penalty_begins_at_its_step():
    objective = DomainObjective(2, [4.0], from_step=1)
    losses = torch.tensor([[1.0, 3.0]])
    assert objective(losses).item() == 2.0
    objective.after_step()
    assert objective(losses).item() == (2 + 4 * 1) / 4


# ---- training -----------------------------------------------------------------------------------


def same(one, other):
    states = one.heads.state_dict(), other.heads.state_dict()
    return all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@pytest.mark.parametrize("trainable", ["head", "all"])
def test_a_weight_of_zero_is_balanced_empirical_risk_minimisation(tmp_path, digits, trainable):
    erm = trial(tmp_path, digits, trainable, domains_per_batch=2)
    penalised = trial(tmp_path, digits, trainable, **VREX, penalty_weight=0.0)
    without = erm.train([{}], ["train"], "erm")
    zero = penalised.train([{}], ["train"], "vrex")
    assert same(without, zero)
    other = trial(tmp_path, digits, trainable, **VREX, penalty_weight=3.0)
    assert not same(without, other.train([{}], ["train"], "other"))


def test_a_weight_above_one_is_a_smaller_step_on_the_published_objective(tmp_path, digits):
    # One step of plain SGD: dividing the objective by λ divides the step by λ.
    options = {"steps": 1, "schedule": "constant", "optimizer": {"name": "sgd", "lr": 0.1,
               "momentum": 0.0}, **VREX, "penalty_weight": 8.0}  # fmt: skip
    run = trial(tmp_path, digits, **options)
    start = run.learner([{}]).heads[0].weight.detach().clone()
    end = run.train([{}], ["train"], "x").heads[0].weight.detach()
    view = run.view(["train"], run.training_views)
    order = run.protocol.order(digits, ["train"], run.context.seed)
    batch = view.__getitems__(order.batch(0))
    weight, bias = start.clone().requires_grad_(), torch.zeros(2, dtype=torch.float64)
    losses = nn.functional.cross_entropy(
        batch.views[0].double() @ weight.T + bias, batch.targets, reduction="none"
    )
    first, second = losses[:6].mean(), losses[6:].mean()
    objective = (first + second) / 2 + 8 * ((first - second) / 2) ** 2
    (gradient,) = torch.autograd.grad(objective, weight)
    torch.testing.assert_close(end, start - 0.1 / 8 * gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_every_weight_of_a_grid_is_trained_in_one_pass_as_if_alone(tmp_path, digits, mode):
    run = trial(tmp_path, digits, **VREX, grid={"penalty_weight": [0.0, 1.0, 50.0]},
                encoder_mode=mode)  # fmt: skip
    points = run.protocol.points()
    bank = run.train(points, ["train"], "bank")
    scores = run.grid_scores(points)
    assert len(scores) == 3
    for head, point in zip(bank.heads, points, strict=True):
        alone = run.train([point], ["train"], "alone").heads[0]
        for one, other in zip(head.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_the_optimizer_forgets_its_momenta_when_the_penalty_begins(tmp_path, digits, monkeypatch):
    options = {**VREX, "penalty_weight": 1.0, "steps": 4, "penalty_from_step": 2}
    seen = []
    step = torch.optim.SGD.step

    def noting(optimizer, *args, **kwargs):
        momenta = [state["momentum_buffer"] for state in optimizer.state.values()]
        seen.append(sum(bool(momentum.any()) for momentum in momenta))
        return step(optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", noting)
    trial(tmp_path, digits, **options).train([{}], ["train"], "x")
    assert seen == [0, 2, 0, 2]


# ---- processes and interruptions ----------------------------------------------------------------

ANNEALED = {"domains_per_batch": 3, "penalty": "vrex", "penalty_weight": 20.0, "steps": 8}
ANNEALED |= {"penalty_from_step": 3, "optimizer": {**SGD, "lr": 0.02}}


def trained(folder, trainable):
    # Three domains on two processes: one of them has images on both.
    run = trial(folder / str(distributed.rank()), small(), trainable, **ANNEALED)
    learner = run.train([{}], ["train"], "x")
    gradients = [p.grad for p in learner.parameters() if p.grad is not None]
    return learner.state_dict(), gradients


@pytest.mark.parametrize("trainable", ["head", "all"])
def test_one_process_equals_two(gloo_pool, tmp_path, trainable):
    alone, _ = trained(tmp_path / "alone", trainable)
    (first, _), (second, _) = gloo_pool.run(trained, tmp_path, trainable)
    for name, tensor in alone.items():
        torch.testing.assert_close(first[name], tensor, rtol=0, atol=1e-9)
        assert torch.equal(first[name], second[name])


def loss_and_gradient(seed):
    """Return the objective and its gradient by this process's share of fixed losses."""
    generator = torch.Generator().manual_seed(seed)
    everything = torch.rand(2, 12, generator=generator, dtype=torch.float64)
    losses = everything[:, distributed.share(12)].requires_grad_()
    objective = DomainObjective(3, [0.5, 30.0])(losses)
    objective.sum().backward()
    return objective.detach(), losses.grad / distributed.world_size()


def test_value_and_gradient_of_one_process_equal_those_of_two(gloo_pool):
    value, gradient = loss_and_gradient(0)
    (first, left), (second, right) = gloo_pool.run(loss_and_gradient, 0)
    torch.testing.assert_close(first, value, rtol=0, atol=1e-14)
    assert torch.equal(first, second)
    torch.testing.assert_close(torch.cat([left, right], dim=1), gradient, rtol=0, atol=1e-14)


@pytest.mark.parametrize("stop", [2, 3, 5])
def test_killed_equals_undisturbed(tmp_path, digits, monkeypatch, stop):
    saving = {"checkpoint_every_steps": 1}
    calm = trial(tmp_path / "calm", digits, "all", saving, **ANNEALED).train([{}], ["train"], "x")
    after = TunedClassifier.after_step
    calls = []

    def dying(learner, progress):
        calls.append(progress)
        if len(calls) == stop + 1:
            raise KeyboardInterrupt
        after(learner, progress)

    monkeypatch.setattr(TunedClassifier, "after_step", dying)
    with pytest.raises(KeyboardInterrupt):
        trial(tmp_path / "torn", digits, "all", saving, **ANNEALED).train([{}], ["train"], "x")
    monkeypatch.undo()
    run = trial(tmp_path / "torn", digits, "all", saving, **ANNEALED)
    torn = run.train([{}], ["train"], "x")
    assert run.context.facts["resumed_at"] == [["x", stop]]
    state = calm.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in torn.state_dict().items())


# ---- selection ----------------------------------------------------------------------------------


@pytest.mark.parametrize("selection", ["val", "id_val", "ood_val", "test"])
@pytest.mark.parametrize("epochs", ["last", "best"])
def test_the_split_that_selects_is_recorded_and_validation_of_domains_is_never_trained_on(
    tmp_path, digits, monkeypatch, selection, epochs
):
    read = []
    train = TuningRun.train

    def noting(run, points, splits, name):
        read.append((name, [*splits]))
        return train(run, points, splits, name)

    monkeypatch.setattr(TuningRun, "train", noting)
    protocol = tuning(**VREX, grid={"penalty_weight": [0.0, 10.0]}, selection=selection,
                      epoch_selection=epochs)  # fmt: skip
    context = Context(tmp_path, tmp_path / "features", progress_bar=False)
    scores = list(protocol.run(encoder(), digits, context))
    assert {score.split for score in scores} == {"test"}
    facts = context.facts["selection"]
    assert facts["split"] == selection
    assert [point["penalty_weight"] for point in facts["scores"]] == [0.0, 10.0]
    of_domains = selection in ("id_val", "ood_val")
    assert facts.get("trained_on") == (["train"] if of_domains else None)
    alone = of_domains or (selection == "val" and epochs == "best")
    assert read == [("grid", ["train"]), ("refit", ["train"] if alone else ["train", "val"])]


def test_a_single_point_is_not_trained_on_the_validation_split_that_is_named(tmp_path, digits):
    context = Context(tmp_path, tmp_path / "features", progress_bar=False)
    list(tuning(selection="ood_val").run(encoder(), digits, context))
    assert context.facts["selection"]["trained_on"] == ["train"]
    assert context.facts["selection"]["split"] is None


def test_the_scores_of_a_selection_are_those_of_its_split(tmp_path, digits):
    run = trial(tmp_path, digits, selection="ood_val")
    learner = run.train([{}], ["train"], "x")
    (logits,) = run.predict(learner, "ood_val")
    assert run.scores(learner) == [(logits.argmax(1) == digits["ood_val"].targets).mean()]


# ---- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["penalty=vrex", "penalty_weight=1"], "`domains_per_batch` must be at least 2 for `pen"),
        (["penalty=vrex", "domains_per_batch=2"], "`penalty_weight` must be a number, or"),
        (["penalty_weight=1"], "`penalty_weight` must be left alone where there is no penalty"),
        (["penalty_from_step=5"], "`penalty_from_step` must be left alone"),
        (["penalty_variance=published"], "`penalty_variance` must be left alone"),
        (["grid.penalty_weight=[0,1]"], "`penalty_weight` must be left alone"),
        (["domains_per_batch=3"], r"must be a multiple of `domains_per_batch` \(3\)"),
        (["domains_per_batch=0"], "`protocol.domains_per_batch` must be at least 1"),
        (["penalty=irm", "domains_per_batch=2"], "`protocol.penalty` must be one of"),
        (
            ["penalty=vrex", "domains_per_batch=2", "penalty_weight=1", "grid.penalty_weight=[0]"],
            r"`protocol\.penalty_weight` must be null where `protocol\.grid\.penalty_weight` is",
        ),
        (
            ["penalty=vrex", "domains_per_batch=2", "grid.penalty_weight=[-1]"],
            "every item of `grid.penalty_weight` must be at least 0, but one is -1",
        ),
        (["selection=train"], "`protocol.selection` must be one of"),
    ],
)
def test_a_mistake_is_told_before_any_work(overrides, said):
    config = plain(compose(["protocol=finetune", *(f"protocol.{o}" for o in overrides)]))
    (sentence,) = problems(config)
    with pytest.raises(ValueError, match=said):
        raise ValueError(sentence)


def test_data_that_lack_domains_or_enough_of_them_are_refused_before_any_work(digits):
    bare = datasets.build(resolve(plain(compose(["dataset=digits"])))["dataset"])
    penalised = tuning(**VREX, penalty_weight=1.0)
    with pytest.raises(ValueError, match="must be null for a dataset without domains such as `dig"):
        penalised.check(bare)
    with pytest.raises(ValueError, match="must be val or test for `digits`, which has no split"):
        tuning(selection="ood_val").check(bare)
    with pytest.raises(ValueError, match=r"at most the 3 domains .* \(`school`, `bank`, `post`\)"):
        tuning(domains_per_batch=4).check(digits)


def test_gradients_are_not_accumulated_over_domains(tmp_path, digits):
    run = trial(tmp_path, digits, "head", {"accumulate": 2}, **VREX, penalty_weight=1.0)
    with pytest.raises(ValueError, match=r"`trainer\.accumulate` must be 1 for TunedClassifier"):
        run.train([{}], ["train"], "x")
