import numpy as np
import pytest

from ssl_transfer.estimators.episodes import _first_of_shuffled, draw_episodes

SIZES = (20, 9, 12, 30, 8, 11)
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(6), SIZES)).astype(np.int64)
DRAW = {"ways": 3, "shots": 2, "queries": 6, "episodes": 40, "seed": 1}


def test_the_images_of_a_way_are_distinct_and_of_its_class():
    episodes = draw_episodes(LABELS, **DRAW)
    assert (LABELS[episodes.support] == episodes.classes[..., None]).all()
    assert (LABELS[episodes.queries] == episodes.classes[..., None]).all()
    for classes, samples in zip(episodes.classes, episodes.samples, strict=True):
        assert len(set(classes)) == 3
        assert len(set(samples)) == 3 * 8
    assert len(episodes) == 40
    assert np.array_equal(episodes[3:5].samples, episodes.samples[3:5])


def test_an_episode_depends_on_its_number_seed_and_labels_alone():
    episodes = draw_episodes(LABELS, **DRAW)
    again = draw_episodes(LABELS, **DRAW | {"episodes": 7})
    assert np.array_equal(again.samples, episodes.samples[:7])
    other = draw_episodes(LABELS, **DRAW | {"seed": 2})
    assert not np.array_equal(other.samples, episodes.samples)


def test_more_shots_and_ways_add_to_the_same_queries():
    few = draw_episodes(LABELS, **DRAW)
    more = draw_episodes(np.append(LABELS, [1, 4, 4]), **DRAW | {"shots": 4, "ways": 4})
    # Classes 1 and 4 have more samples: the others' are the same.
    same = ~np.isin(few.classes, (1, 4))
    assert np.array_equal(more.classes[:, :3], few.classes)
    assert np.array_equal(more.queries[:, :3][same], few.queries[same])
    assert np.array_equal(more.support[:, :3, :2][same], few.support[same])


def test_shuffling_is_that_of_fisher_and_yates():
    generator = np.random.default_rng(3)
    sizes = generator.integers(6, 10, 50)
    chance = generator.random((50, 6))
    places = _first_of_shuffled(chance, sizes)
    for size, draws, chosen in zip(sizes, chance, places, strict=True):
        order = list(range(size))
        for j, u in enumerate(draws):
            other = j + int(u * (size - j))
            order[j], order[other] = order[other], order[j]
        assert chosen.tolist() == order[:6]


def test_all_images_and_classes_are_equally_likely():
    labels = np.repeat(np.arange(4), 10)
    episodes = draw_episodes(labels, ways=2, shots=1, queries=3, episodes=3000, seed=5)
    # Each class has a share of 1/2 of the episodes; each of its images one of 1/10 of its draws.
    classes = np.bincount(episodes.classes.reshape(-1), minlength=4) / 3000
    assert classes == pytest.approx(np.full(4, 1 / 2), abs=0.05)
    images = np.bincount(episodes.support.reshape(-1), minlength=40) / 6000
    assert images == pytest.approx(np.full(40, 1 / 40), abs=0.01)


def test_classes_with_too_few_images_are_never_drawn():
    episodes = draw_episodes(LABELS, **DRAW | {"queries": 8})
    assert set(episodes.classes.reshape(-1)) == {0, 2, 3, 5}  # those with at least ten
    with pytest.raises(ValueError, match="5 classes must have 10 samples each, but only 4 have"):
        draw_episodes(LABELS, **DRAW | {"queries": 8, "ways": 5})
