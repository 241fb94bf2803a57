"""Landmarks follow the image through the evaluation's resize and crop."""

import itertools

import numpy as np
import pytest
from PIL import Image

from ssl_transfer.datasets import transforms
from ssl_transfer.datasets.geometry import outside, to_view
from ssl_transfer.datasets.transforms import centre_crop
from ssl_transfer.preprocessing import Preprocessing

VIEWS = {
    "same": Preprocessing(size=32, resize=None),
    "cropped": Preprocessing(size=32, resize=37),
    "enlarged": Preprocessing(size=96, resize=110),
    "square": Preprocessing(size=48, resize=None, square=True),
    "squashed": Preprocessing(size=32, resize=37, squash=True),
}
SIZES = [(61, 80), (80, 61), (64, 64), (50, 97), (31, 33), (113, 45)]


def dot_in(size: tuple[int, int], x: float, y: float) -> Image.Image:
    """Return a black image with a round white dot whose centre of mass is (x, y)."""
    columns, rows = np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5
    level = np.exp(-((columns - x)[None] ** 2 + (rows - y)[:, None] ** 2) / (2 * 2.0**2))
    pixels = np.rint(255 * level).astype(np.uint8)
    return Image.fromarray(np.repeat(pixels[..., None], 3, axis=2))


def centre_of_mass(image: Image.Image) -> tuple[float, float]:
    levels = np.asarray(image)[..., 0].astype(float)
    rows, columns = np.mgrid[: levels.shape[0], : levels.shape[1]] + 0.5
    return float((levels * columns).sum() / levels.sum()), float(
        (levels * rows).sum() / levels.sum()
    )


@pytest.mark.parametrize(("view", "size"), list(itertools.product(VIEWS, SIZES)))
def test_a_dot_is_seen_where_its_landmark_is_mapped_to(view: str, size: tuple[int, int]) -> None:
    preprocessing = VIEWS[view]
    for share_x, share_y in ((0.5, 0.5), (0.42, 0.55), (0.58, 0.44)):
        x, y = share_x * size[0], share_y * size[1]
        seen = centre_of_mass(centre_crop(dot_in(size, x, y), preprocessing))
        landmarks, sizes = np.array([[x, y]]), np.array([size], dtype=np.int64)
        mapped = to_view(landmarks, sizes, preprocessing)[0]
        assert seen == pytest.approx(mapped, abs=0.2)
        assert not outside(mapped[None], preprocessing.size).any()


def test_a_dot_in_a_strip_that_is_resized_in_part_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    preprocessing, size = VIEWS["cropped"], (40, 300)
    landmarks, sizes = np.array([[21.0, 152.0]]), np.array([size], dtype=np.int64)
    mapped = to_view(landmarks, sizes, preprocessing)[0]
    monkeypatch.setattr(transforms, "_MOST_PIXELS", 1000)
    seen = centre_of_mass(centre_crop(dot_in(size, 21.0, 152.0), preprocessing))
    assert seen == pytest.approx(mapped, abs=0.2)


def test_sizes_and_corners_are_rounded_as_the_view_rounds_them() -> None:
    chance = np.random.default_rng(0)
    sizes = chance.integers(20, 700, (500, 2))
    for resize, size in ((256, 224), (37, 32), (224, 224)):
        preprocessing = Preprocessing(size=size, resize=resize)
        origin = to_view(np.zeros((500, 2)), sizes, preprocessing)
        corner = to_view(sizes.astype(np.float64), sizes, preprocessing)
        for (width, height), first, last in zip(sizes.tolist(), origin, corner, strict=True):
            # The rounding of torchvision's Resize and CenterCrop, restated.
            short = min(width, height)
            new_width = resize if width == short else int(resize * width / short)
            new_height = resize if height == short else int(resize * height / short)
            left, top = round((new_width - size) / 2), round((new_height - size) / 2)
            assert first.tolist() == [-left, -top]
            assert last == pytest.approx([new_width - left, new_height - top], abs=1e-9)


def test_unknown_landmarks_stay_unknown_and_are_not_outside() -> None:
    landmarks = np.array([[np.nan, np.nan, -1.0, 5.0, 60.0, 60.0]])
    sizes = np.array([[60, 60]], dtype=np.int64)
    mapped = to_view(landmarks, sizes, Preprocessing(size=30, resize=None))
    np.testing.assert_allclose(mapped, [[np.nan, np.nan, -0.5, 2.5, 30, 30]])
    assert outside(mapped, 30).tolist() == [[False, True, False]]
    assert outside(mapped, 30, tolerance=0.5).tolist() == [[False, False, False]]
