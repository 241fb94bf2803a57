import pytest
import torch
from torch.nn import functional as F

from ssl_transfer.protocols.classification import classification_loss
from ssl_transfer.protocols.selection import edges
from ssl_transfer.system import distributed


def batch(heads=3, samples=8, classes=4):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(heads, samples, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (samples,), generator=generator)
    rows = torch.randint(-1, 2, (samples, classes), generator=generator)
    weights = torch.rand(classes, generator=generator, dtype=torch.float64)
    return logits, labels, rows, weights


def test_one_class_per_image_gives_cross_entropy_for_every_head():
    logits, labels, _, _ = batch()
    expected = torch.stack([F.cross_entropy(head, labels) for head in logits])
    torch.testing.assert_close(classification_loss(logits, labels), expected)
    torch.testing.assert_close(classification_loss(logits[1], labels), expected[1])


def test_several_classes_per_image_give_binary_cross_entropy_for_every_head():
    logits, _, rows, _ = batch()
    shown = rows.clamp(min=0)
    expected = torch.stack(
        [F.binary_cross_entropy_with_logits(head, shown.double()) for head in logits]
    )
    torch.testing.assert_close(classification_loss(logits, shown), expected)
    torch.testing.assert_close(classification_loss(logits[1], shown), expected[1])


def test_entries_that_do_not_count_have_no_gradient_and_the_others_share_the_image():
    logits = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([[1, -1, 0], [-1, -1, -1]])
    loss = classification_loss(logits, rows)
    loss.backward()
    assert loss.item() == pytest.approx(float(torch.log(torch.tensor(2.0))) / 2)
    expected = torch.tensor([[-0.125, 0.0, 0.125], [0.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(logits.grad, expected)


def test_weights_that_average_one_over_the_batch_are_torchs():
    logits, labels, _, weights = batch()
    weights = weights / weights[labels].mean()
    expected = torch.stack([F.cross_entropy(head, labels, weight=weights) for head in logits])
    torch.testing.assert_close(classification_loss(logits, labels, weights), expected)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["class", "classes"])
def test_a_batch_has_the_mean_loss_of_its_halves(kind, weighted):
    logits, labels, rows, weights = batch()
    targets = labels if kind == "class" else rows
    factor = weights if weighted else None
    halves = [
        classification_loss(logits[:, part], targets[part], factor)
        for part in (slice(0, 4), slice(4, 8))
    ]
    whole = classification_loss(logits, targets, factor)
    torch.testing.assert_close(whole, torch.stack(halves).mean(0))


def grid(**axes):
    points = [{}]
    for key, values in axes.items():
        points = [{**point, key: value} for point in points for value in values]
    return points


def test_a_best_value_at_an_end_is_named(caplog):
    points = grid(lr=[1.0, 0.1, 0.01], weight_decay=[1e-3, 1e-4, 1e-5])
    scores = [0.0] * 9
    scores[1] = 1.0  # lr 1, weight decay 1e-4
    assert edges(points, scores) == ["lr"]
    assert "`lr` lies at an end of its values, 0.01 to 1;" in caplog.text


def test_only_the_first_process_warns_of_an_end(caplog, monkeypatch):
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    assert edges(grid(lr=[1.0, 0.1, 0.01]), [0.5, 0.4, 0.3]) == ["lr"]
    assert not caplog.text


@pytest.mark.parametrize(
    ("points", "scores"),
    [
        (grid(lr=[1.0, 0.1, 0.01]), [0.5, 0.5, 0.1]),  # reached inside, too
        (grid(lr=[1.0, 0.1]), [0.5, 0.4]),  # all ends
        (grid(weight_decay=[0.0, 0.1, 0.2]), [0.5, 0.4, 0.3]),  # nothing below zero
        (grid(lr=[1.0, 0.1, 0.01]), [None, 0.5, 0.4]),  # beyond it diverged
    ],
)
def test_nothing_is_said_where_no_better_value_can_be_expected(points, scores, caplog):
    assert edges(points, scores) == []
    assert not caplog.text
