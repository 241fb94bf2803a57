import itertools

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from ssl_transfer.datasets import Dataset, embedded


def pixels(dataset: Dataset, key: str) -> np.ndarray:
    return np.stack([np.asarray(image) for image in dataset[key].images])


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return embedded.digits(name="digits", flip=False)


@pytest.fixture(scope="module")
def textures() -> Dataset:
    return embedded.textures(name="textures")


@pytest.fixture(scope="module")
def photos() -> Dataset:
    return embedded.photos(name="photos")


def test_digits_are_scikit_learns(digits: Dataset) -> None:
    from sklearn.datasets import load_digits

    judge = load_digits()
    seen = []
    for split in digits.splits.values():
        for image, target, name in zip(split.images, split.targets, split.names, strict=True):
            expected = np.rint(judge.images[int(name)] * 255 / 16)
            assert (np.asarray(image) == expected[..., None]).all()
            assert target == judge.target[int(name)]
            seen.append(int(name))
    assert sorted(seen) == list(range(1797))
    assert digits.facts["sizes"] == {"train": 959, "val": 239, "test": 599}


def test_textures_are_standardised_and_balanced(textures: Dataset) -> None:
    assert textures.facts["sizes"] == {"train": 1152, "val": 288, "test": 864}
    for key, count in (("train", 144), ("val", 36), ("test", 108)):
        assert (np.bincount(textures[key].targets) == count).all()
        grey = pixels(textures, key).astype(float)
        assert (grey == grey[..., :1]).all()
        # Clipping to 8 bits moves the mean of patches with few bright spots (galaxies).
        assert np.abs(np.median(grey.mean(axis=(1, 2, 3))) - 127.5) < 1
        assert np.abs(np.median(grey.std(axis=(1, 2, 3))) - 48) < 1


def test_standardised_patches_have_one_mean_and_spread() -> None:
    noise = np.random.default_rng(0).normal(size=(5, 32, 32))
    levels = np.array([40, 80, 120, 160, 200])[:, None, None]
    spreads = np.array([3, 6, 9, 12, 15])[:, None, None]
    result = embedded.standardised(np.rint(levels + spreads * noise).clip(0, 255).astype(np.uint8))
    assert np.abs(result.mean(axis=(1, 2)) - 127.5).max() < 0.5
    assert np.abs(result.std(axis=(1, 2)) - 48).max() < 1  # clipping takes a little off
    assert (embedded.standardised(np.full((1, 4, 4), 9, np.uint8)) == 128).all()


@pytest.mark.parametrize("split_seed", [0, 1])
@pytest.mark.parametrize("name", ["textures", "photos"])
def test_no_pixel_is_in_two_splits(name: str, split_seed: int) -> None:
    dataset = getattr(embedded, name)(name=name, split_seed=split_seed)
    covered: dict[str, dict[str, np.ndarray]] = {}
    for key, split in dataset.splits.items():
        for sample in split.names:
            *source, place = sample.split("/")
            span = int(source[1]) if name == "textures" else embedded.TILE
            top, left = (int(number) for number in place.split("_"))
            masks = covered.setdefault(source[0], {})
            mask = masks.setdefault(key, np.zeros((1000, 1000), bool))
            mask[top : top + span, left : left + span] = True
    assert len(covered) == len(dataset.classes)
    for masks in covered.values():
        for one, other in itertools.combinations(masks.values(), 2):
            # Grown by 7 pixels, one split's patches still do not reach the other's.
            assert not (ndimage.maximum_filter(one, size=15, mode="constant") & other).any()


def test_patches_are_the_pictures_own_pixels(photos: Dataset) -> None:
    picture = np.asarray(Image.open(embedded._bundled(embedded.PHOTOS["coffee"])).convert("RGB"))
    split = photos["train"]
    rows = np.flatnonzero(split.targets == list(photos.classes).index("coffee"))
    for row in rows[::40].tolist():
        top, left = (int(number) for number in split.names[row].split("/")[1].split("_"))
        assert (np.asarray(split.images[row]) == picture[top : top + 48, left : left + 48]).all()


def test_pre_training_never_sees_the_pictures_of_textures() -> None:
    sources = {file for file, _ in embedded.TEXTURES.values()}
    assert not sources & set(embedded.PHOTOS.values())


def test_splits_follow_split_seed_and_val_fraction(textures: Dataset) -> None:
    again = embedded.textures(name="textures")
    assert again.fingerprint == textures.fingerprint
    other = embedded.textures(name="textures", split_seed=1)
    assert set(other["test"].names) != set(textures["test"].names)
    half = embedded.textures(name="textures", val_fraction=0.5)
    assert half.facts["sizes"] == {"train": 720, "val": 720, "test": 864}
    assert list(half["test"].names) == list(textures["test"].names)


def test_few_labels_per_class(textures: Dataset, digits: Dataset) -> None:
    for name in ("textures", "digits"):
        dataset = getattr(embedded, name)(name=name, labels_per_class=10)
        assert (np.bincount(dataset["train"].targets) == 8).all()
        assert (np.bincount(dataset["val"].targets) == 2).all()


def test_textures_neither_saturate_nor_fail(textures: Dataset) -> None:
    from sklearn.linear_model import LogisticRegression

    def fit(features) -> float:
        train, test = (features(pixels(textures, key)[..., 0]) for key in ("train", "test"))
        mean, std = train.mean(axis=0), train.std(axis=0) + 1e-6
        model = LogisticRegression(C=0.01, max_iter=60, tol=1e-2)
        model.fit((train - mean) / std, textures["train"].targets)
        return model.score((test - mean) / std, textures["test"].targets)

    def spectrum(grey: np.ndarray) -> np.ndarray:
        power = np.log1p(np.abs(np.fft.rfft2(grey.astype(float) - 127.5)))
        return (power[:, :17, :17] + power[:, [0, *range(31, 15, -1)], :17])[:, ::2, ::2].reshape(
            len(grey), -1
        )

    raw = fit(lambda grey: grey[:, ::4, ::4].reshape(len(grey), -1) / 255)
    spectral = fit(spectrum)
    assert raw < 0.35  # chance is 0.125
    assert raw + 0.1 < spectral < 0.9


def test_missing_bundled_images_are_explained() -> None:
    with pytest.raises(ValueError, match="wheels of scikit-learn and scikit-image"):
        embedded._bundled("skimage/data/no_such_picture.png")


def test_stereo_patches_show_the_same_part_of_the_scene_from_two_places() -> None:
    from skimage.data import stereo_motorcycle

    left, right, disparity = stereo_motorcycle()
    dataset = embedded.stereo_patches(name="stereo", step=48)
    split, shown = dataset["test"], pixels(dataset, "test").astype(float)
    assert split.groups.tolist() == [number // 2 for number in range(len(split))]
    unshifted = []
    for pair in range(0, len(split), 2):
        place, view = split.names[pair].split("/")
        top, start = map(int, place.split("_"))
        assert (view, split.names[pair + 1]) == ("left", f"{place}/right")
        square = (slice(top, top + 48), slice(start, start + 48))
        assert (shown[pair] == left[square]).all()
        shift = round(float(np.median(disparity[square][np.isfinite(disparity[square])])))
        assert (shown[pair + 1] == right[square[0], start - shift : start - shift + 48]).all()
        unshifted.append(np.abs(left[square].astype(float) - right[square]).mean())
    shifted = np.abs(shown[::2] - shown[1::2]).mean()
    assert shifted < np.mean(unshifted) / 2
    assert len(split) == 2 * dataset.facts["objects"] == 278
    assert len(embedded.stereo_patches(name="stereo")["test"]) == 2 * 524
