import pytest
import torch

from ssl_transfer.metrics import mean_per_class, top1


def logits_for(predictions, classes):
    return torch.nn.functional.one_hot(torch.tensor(predictions), classes).float()


def test_top1_is_the_share_of_right_predictions():
    assert top1(logits_for([0, 1, 2, 2], 3), torch.tensor([0, 1, 2, 0])) == 0.75


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_logits_may_lie_on_another_device_than_labels():
    logits, labels = logits_for([0, 1, 2, 2], 3).cuda(), torch.tensor([0, 1, 2, 0])
    assert (top1(logits, labels), mean_per_class(logits, labels)) == (0.75, pytest.approx(5 / 6))
