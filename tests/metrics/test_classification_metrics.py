import typing

import numpy as np
import pytest
import torch

from ssl_transfer import metrics
from ssl_transfer.metrics import (
    auc,
    ece,
    f1,
    map_11_point,
    map_11_point_sklearn,
    mean_per_class,
    top1,
    top5,
)


def logits_for(predictions, classes):
    return torch.nn.functional.one_hot(torch.tensor(predictions), classes).float()


def test_top1_is_the_share_of_right_predictions():
    assert top1(logits_for([0, 1, 2, 2], 3), torch.tensor([0, 1, 2, 0])) == 0.75


def test_top5_is_scikit_learns_where_no_scores_are_equal():
    from sklearn.metrics import top_k_accuracy_score

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(300, 12, generator=generator)
    labels = torch.randint(0, 12, (300,), generator=generator)
    expected = top_k_accuracy_score(labels.numpy(), logits.numpy(), k=5, labels=np.arange(12))
    assert top5(logits, labels) == pytest.approx(expected, abs=1e-12)
    assert top1(logits, labels) < expected < 1


def test_of_equal_scores_the_first_classes_are_among_the_five():
    votes = torch.zeros(7, 7)
    assert top5(votes, torch.arange(7)) == pytest.approx(5 / 7)
    votes[:, 6], votes[:, 5] = 2.0, -torch.inf  # 6, then 0 to 3
    assert top5(votes, torch.arange(7)) == pytest.approx(5 / 7)
    assert top5(votes[4:6], torch.tensor([4, 5])) == 0
    assert top5(votes, torch.full((7,), 6)) == top1(votes, torch.full((7,), 6)) == 1


def test_what_is_always_recorded_depends_on_the_number_of_classes():
    assert metrics.standard("class", 2) == metrics.standard("class", 5)
    assert metrics.standard("class", 5) == {"top1", "mean_per_class"}
    assert metrics.standard("class", 6) == {"top1", "top5", "mean_per_class"}
    assert metrics.standard("classes", 20) == set()


def test_every_class_weighs_the_same_in_mean_per_class():
    labels = torch.tensor([0] * 8 + [1] * 2)
    predicted = [0] * 8 + [1, 0]
    assert mean_per_class(logits_for(predicted, 2), labels) == pytest.approx((1.0 + 0.5) / 2)
    assert top1(logits_for(predicted, 2), labels) == pytest.approx(0.9)


def test_classes_absent_from_the_labels_are_left_out_even_if_predicted():
    score = mean_per_class(logits_for([0, 3, 1], 5), torch.tensor([0, 0, 1]))
    assert score == pytest.approx((0.5 + 1.0) / 2)


def test_mean_per_class_is_the_balanced_accuracy_of_scikit_learn():
    from sklearn.metrics import balanced_accuracy_score

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 7, generator=generator)
    labels = torch.randint(0, 7, (200,), generator=generator)
    expected = balanced_accuracy_score(labels.numpy(), logits.argmax(1).numpy())
    assert mean_per_class(logits, labels) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", [top1, mean_per_class])
def test_what_cannot_be_scored_is_refused(metric):
    with pytest.raises(ValueError, match="at least one sample"):
        metric(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"lie in \[0, 3\), but reach from 0 to 3"):
        metric(torch.zeros(2, 3), torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="NaN"):
        metric(torch.full((2, 3), torch.nan), torch.tensor([0, 1]))


def noisy_scores(samples, classes, seed=0, distinct=None):
    """Scores that tell something of rows of 1, 0 and -1; few distinct values make many ties."""
    generator = np.random.default_rng(seed)
    targets = generator.choice([1, 0, -1], (samples, classes), p=[0.3, 0.6, 0.1])
    scores = generator.normal(targets, 1.0)
    if distinct is not None:
        scores = np.round(scores * distinct) / distinct
    return torch.from_numpy(scores), torch.from_numpy(targets)


def published_average_precision(shown, scores):
    """``voc_ap`` and ``voc_eval_cls`` of linear.py (Ericsson et al. 2021) restated."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(shown, scores)
    levels = np.linspace(0, 1, 11)
    reached = [precision[recall >= level] for level in levels]
    return sum(float(p.max()) if len(p) else 0.0 for p in reached) / 11


@pytest.mark.parametrize("distinct", [None, 4, 1])
@pytest.mark.parametrize("seed", range(3))
def test_map_is_the_mean_of_the_published_average_precisions(distinct, seed):
    scores, targets = noisy_scores(60, 4, seed, distinct)
    expected = []
    for column, truth in zip(scores.T.numpy(), targets.T.numpy(), strict=True):
        kept = truth >= 0
        expected.append(published_average_precision(truth[kept], column[kept]))
    assert map_11_point_sklearn(scores, targets) == pytest.approx(np.mean(expected), abs=1e-12)


def test_a_recall_of_three_in_ten_reaches_the_level_of_the_challenge_but_not_the_published_one():
    # Ten are shown, of which three rank first and seven behind two wrong ones: precision is 1 up to
    # a recall of 0.3, and 10/12 at most beyond it.
    truth = torch.tensor([[1] * 3 + [0] * 2 + [1] * 7]).T
    scores = torch.arange(12.0, 0.0, -1.0)[:, None]
    assert map_11_point(scores, truth) == pytest.approx((4 * 1 + 7 * 10 / 12) / 11, abs=1e-12)
    published = published_average_precision(truth[:, 0].numpy(), scores[:, 0].numpy())
    assert published == pytest.approx((3 * 1 + 8 * 10 / 12) / 11, abs=1e-12)
    assert map_11_point_sklearn(scores, truth) == pytest.approx(published, abs=1e-12)


def test_map_by_hand():
    # Ranks 1, 0, 1, 0: a recall of 0.5 at precision 1, all of it at 2/3.
    scores, targets = torch.tensor([[4.0, 3.0, 2.0, 1.0]]).T, torch.tensor([[1, 0, 1, 0]]).T
    assert map_11_point(scores, targets) == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


def test_entries_that_are_not_scored_change_nothing_wherever_they_rank():
    scores, targets = noisy_scores(40, 1)
    kept = targets[:, 0] >= 0
    changed = torch.where(targets < 0, 100.0, scores)
    assert not bool(kept.all())
    alone = map_11_point(scores[kept], targets[kept])
    assert map_11_point(scores, targets) == map_11_point(changed, targets) == alone


def test_classes_that_no_sample_shows_are_left_out_of_map():
    scores, targets = noisy_scores(40, 3)
    without = targets.clone()
    without[:, 1] = without[:, 1].clamp(max=0)
    two = [0, 2]
    assert map_11_point(scores, without) == map_11_point(scores[:, two], targets[:, two])
    with pytest.raises(ValueError, match="needs a class that some sample shows"):
        map_11_point(scores, targets.clamp(max=0))


def test_infinite_scores_of_a_class_that_was_never_learned_are_ties():
    targets = torch.tensor([[1], [0], [0], [1]])
    for constant in (torch.inf, -torch.inf, 0.0):
        scores = torch.full((4, 1), constant)
        assert map_11_point(scores, targets) == pytest.approx(0.5)
        assert map_11_point_sklearn(scores, targets) == pytest.approx((1 + 10 * 0.5) / 11)


def test_map_of_the_challenge_has_no_first_point():
    # The best image is wrong: the challenge's curve never has a precision above 1/2.
    scores, targets = torch.tensor([[2.0, 1.0]]).T, torch.tensor([[0, 1]]).T
    assert map_11_point(scores, targets) == pytest.approx(0.5)
    assert map_11_point_sklearn(scores, targets) == pytest.approx((1 + 10 * 0.5) / 11)


@pytest.mark.parametrize("distinct", [None, 2])
def test_auc_and_f1_are_scikit_learns(distinct):
    from sklearn.metrics import f1_score, roc_auc_score

    scores, targets = noisy_scores(80, 2, 3, distinct)
    labels = targets[:, 1].clamp(min=0)
    margin = (scores[:, 1] - scores[:, 0]).numpy()
    assert auc(scores, labels) == pytest.approx(roc_auc_score(labels, margin), abs=1e-12)
    assert f1(scores, labels) == pytest.approx(f1_score(labels, margin > 0), abs=1e-12)
    assert 0.5 < auc(scores, labels) < 1


def test_f1_of_a_class_that_is_neither_shown_nor_predicted_is_zero():
    assert f1(logits_for([0, 0], 2), torch.tensor([0, 0])) == 0


def test_auc_of_a_single_class_is_refused():
    with pytest.raises(ValueError, match="samples of both classes"):
        auc(logits_for([0, 1], 2), torch.tensor([1, 1]))


def published_ece(logits, labels):
    """Guo et al. 2017, eq. 3, bin by bin."""
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    confidence, right = shares.max(1), shares.argmax(1) == labels
    total = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_ece_is_the_published_sum_over_bins(scale):
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(500, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 6, (500,), generator=generator)
    assert ece(logits, labels) == pytest.approx(published_ece(logits.numpy(), labels.numpy()))


def test_ece_of_certain_predictions_is_the_share_of_wrong_ones():
    assert ece(100 * logits_for([0, 1, 2, 2], 3), torch.tensor([0, 1, 2, 0])) == pytest.approx(0.25)


@pytest.mark.parametrize("name", sorted(metrics.CLASSIFICATION))
def test_every_metric_refuses_the_other_kind_of_target(name):
    several = name in metrics.SEVERAL_CLASSES
    targets = torch.tensor([0, 1]) if several else torch.tensor([[1, 0], [0, 1]])
    message = "the targets have " + ("one; use one of" if several else "several; use one of")
    classes = 6 if name in metrics.MANY_CLASSES else 2
    with pytest.raises(ValueError, match=message):
        metrics.CLASSIFICATION[name](torch.eye(2), targets)
    with pytest.raises(ValueError, match=message):
        metrics.check(name, "class" if several else "classes", classes)
    metrics.check(name, "classes" if several else "class", classes)


@pytest.mark.parametrize("metric", [auc, f1])
def test_metrics_of_two_classes_refuse_three(metric):
    with pytest.raises(ValueError, match="defined for two classes, but there are 3"):
        metric(torch.eye(3), torch.tensor([0, 1, 1]))


@pytest.mark.parametrize("classes", [2, 5])
def test_the_five_best_of_five_classes_are_refused_with_what_fits(classes):
    fitting = "'ece', 'mean_per_class', 'top1'" if classes == 5 else "'auc', 'ece', 'f1'"
    said = rf"`top5` is defined for more than five classes, but there are {classes}; .*{fitting}"
    with pytest.raises(ValueError, match=said):
        metrics.check("top5", "class", classes)
    with pytest.raises(ValueError, match=said):
        top5(torch.eye(classes), torch.arange(classes))


def test_the_names_of_metrics_are_those_that_an_option_may_have():
    assert set(typing.get_args(metrics.Name)) == set(metrics.CLASSIFICATION)


@pytest.mark.parametrize(
    ("name", "targets", "said"),
    [
        (
            "top1",
            torch.zeros(0, dtype=torch.int64),
            "`top1` needs at least one sample, but val has",
        ),
        ("auc", torch.ones(3, dtype=torch.int64), "`auc` needs samples of both classes, but val"),
        ("map_11_point", torch.zeros(3, 2, dtype=torch.int64), "some sample shows, but val shows"),
    ],
)
def test_targets_on_which_a_metric_is_not_defined_are_refused(name, targets, said):
    with pytest.raises(ValueError, match=said):
        metrics.check_targets(name, targets, "val")


@pytest.mark.parametrize(("metric", "scores"), [(ece, [torch.inf, 0.0]), (auc, [-torch.inf] * 2)])
def test_infinite_scores_that_leave_no_number_are_refused(metric, scores):
    with pytest.raises(ValueError, match="some are NaN or infinite"):
        metric(torch.tensor([scores, [0.0, 1.0]]), torch.tensor([0, 1]))


def test_an_unknown_metric_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"one of \['auc', .*'top5'\], but is 'top_1'"):
        metrics.check("top_1", "class", 3)


def test_what_selection_maximises_falls_with_an_error():
    logits, labels = torch.tensor([[3.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])
    assert metrics.goodness("ece", logits, labels) == -ece(logits, labels)
    assert metrics.goodness("top1", logits, labels) == 0.5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_logits_may_lie_on_another_device_than_labels():
    logits, labels = logits_for([0, 1, 2, 2], 3).cuda(), torch.tensor([0, 1, 2, 0])
    assert (top1(logits, labels), mean_per_class(logits, labels)) == (0.75, pytest.approx(5 / 6))
