"""Layout: datasets/clevr_dataset.py of the set's authors, which names folders, images and arrays.

https://github.com/ysharma1126/ssl_identifiability/blob/e68696c/datasets/clevr_dataset.py; the
folders ``trainset`` and ``testset`` are those of main_3dident.py there.
"""

import math
from pathlib import Path

import numpy as np
import pytest
from miniatures import draw, samples

from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.causal3dident import FACTORS, causal3dident

COUNTS = {"trainset": 12, "testset": 3}  # images per shape


def latents(part: str, shape: int) -> np.ndarray:
    generator = np.random.default_rng([len(part), shape])
    return generator.uniform(-1, 1, (COUNTS[part], 10))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part, count in COUNTS.items():
        for shape in range(7):
            width = int(np.ceil(np.log10(count)))
            names = [f"{str(number).zfill(width)}.png" for number in range(count)]
            draw(tmp_path / part / f"images_{shape}", *names)
            raw = latents(part, shape)
            np.save(tmp_path / part / f"raw_latents_{shape}.npy", raw)
            scale = np.array([3.0] * 3 + [math.pi / 2] * 7)
            np.save(tmp_path / part / f"latents_{shape}.npy", raw * scale)
    return tmp_path


def read(root: Path, **keys: object) -> Dataset:
    return causal3dident(root=str(root), name="causal3dident", sizes="warn", flip=False, **keys)


def test_every_image_has_the_row_of_its_number(root: Path) -> None:
    dataset = read(root, latents="raw_latents")
    assert (dataset.target, dataset.classes) == ("values", FACTORS)
    assert len(FACTORS) == 10
    assert dataset.facts["sizes"] == {"train": 67, "val": 17, "test": 21}
    for part, keys in (("trainset", ("train", "val")), ("testset", ("test",))):
        found = samples(dataset, *keys)
        assert len(found) == 7 * COUNTS[part]
        for name, (_, factors) in found.items():
            shape, number = int(name[len("images_")]), int(Path(name).stem)
            assert factors == latents(part, shape)[number].tolist()


def test_angles_and_hues_have_the_period_of_their_scale(root: Path) -> None:
    for scale, turn in (("latents", 2 * math.pi), ("raw_latents", 4)):
        dataset = read(root, latents=scale)
        assert dataset.periods == dict.fromkeys(FACTORS[3:], turn)
    radians, raw = (
        read(root, latents=scale)["test"].targets for scale in ("latents", "raw_latents")
    )
    np.testing.assert_allclose(radians[:, 3:] / (2 * math.pi), raw[:, 3:] / 4)


def test_folders_of_bare_numbers_are_read_too(root: Path) -> None:
    expected = read(root)["test"].targets
    for part in COUNTS:
        for shape in range(7):
            (root / part / f"images_{shape}").rename(root / part / str(shape))
    dataset = read(root)
    assert (dataset["test"].targets == expected).all()
    assert dataset["test"].names[0] == "0/0.png"


def test_a_part_of_the_images_can_be_read_and_depends_on_the_split_seed(root: Path) -> None:
    def names(**keys: object) -> set[str]:
        dataset = read(root, val_fraction=0, **keys)
        return {*dataset["train"].names}

    whole, ten, twenty = names(), names(train_images=10), names(train_images=20)
    assert (len(whole), len(ten), len(twenty)) == (84, 10, 20)
    assert ten < twenty < whole
    assert names(train_images=10, split_seed=1) != ten
    assert names(train_images=500) == whole
    few = read(root, test_images=5)
    assert len(few["test"]) == 5
    assert few.facts["available"] == {"train": 84, "test": 21}


def test_an_unread_image_may_be_damaged(root: Path) -> None:
    part = read(root, test_images=2)
    unread = {*read(root)["test"].names} - {*part["test"].names}
    (root / "testset" / min(unread)).write_bytes(b"no image")
    assert read(root, test_images=2)["test"].names == part["test"].names
    with pytest.raises(ValueError, match="must decode, but 1 of"):
        read(root)


def test_published_sizes_are_round_numbers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"{'train': 250000, 'test': 25000}, but has {'train': 84"):
        causal3dident(root=str(root), name="causal3dident")
    module = "ssl_transfer.datasets.causal3dident.PUBLISHED"
    monkeypatch.setattr(module, {"train": 84, "test": 21})
    causal3dident(root=str(root), name="causal3dident")
    monkeypatch.setattr(module, {"train": 83, "test": 21})
    with pytest.raises(ValueError, match=r"{'train': 83, 'test': 21}, but has {'train': 84, 'test"):
        causal3dident(root=str(root), name="causal3dident")
    # 25,200 of 25,000 are less than 1 % more.
    assert abs(7 * 3600 - 25_000) <= 250


def test_a_missing_part_is_named_with_the_layout(root: Path) -> None:
    (root / "testset" / "latents_6.npy").unlink()
    with pytest.raises(ValueError, match=r"must lie in `.*` as trainset/images_0, "
                       r"trainset/latents_0\.npy, .*testset/latents_6\.npy` does not exist; "
                       r"download it by hand, .*zenodo\.org/record/4784282"):  # fmt: skip
        read(root)


def test_images_and_rows_must_be_equally_many(root: Path) -> None:
    (root / "trainset" / "images_3" / "07.png").unlink()
    told = r"images_3` must hold one image for each of the 12 rows of latents_3\.npy \(cow\), "
    with pytest.raises(ValueError, match=told + "numbered from 0, but holds 11 images; unpack"):
        read(root)
    draw(root / "trainset" / "images_3", "12.png")
    with pytest.raises(ValueError, match="but holds 12 images with other numbers; unpack"):
        read(root)


@pytest.mark.parametrize("content", [np.zeros((12, 9)), np.zeros(12), np.array(["a"] * 12)])
def test_latents_of_another_form_are_explained(root: Path, content: np.ndarray) -> None:
    np.save(root / "trainset" / "latents_0.npy", content)
    with pytest.raises(
        ValueError, match=r"latents_0\.npy` must be an array of numbers with 10 col"
    ):
        read(root)


def test_a_damaged_file_and_a_number_that_is_none_are_explained(root: Path) -> None:
    rows = latents("testset", 2)
    rows[1, 4] = math.nan
    np.save(root / "testset" / "latents_2.npy", rows)
    with pytest.raises(ValueError, match=r"one of `images_2/1\.png` in test is nan"):
        read(root)
    (root / "testset" / "latents_2.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match=r"latents_2\.npy` must be an array .* cannot be read"):
        read(root)
