"""Layouts of 300-W and CelebA.

300-W: folders and names as datasets/faces_in_the_wild_300w.py of
https://github.com/linusericsson/ssl-invariances reads them; the files of landmarks and the names
of the training sets from https://github.com/yinguobing/facial-landmark-dataset/issues/1 to 4.
CelebA: torchvision/datasets/celeba.py at v0.19.0, which is the judge, too
(https://github.com/pytorch/vision/blob/v0.19.0/torchvision/datasets/celeba.py).
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torchvision
from miniatures import pixels, write
from PIL import Image

from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.faces import (
    LANDMARKS_300W,
    celeba_attributes,
    celeba_landmarks,
    faces_300w,
    seed_0_parts,
)
from ssl_transfer.datasets.images import ArrayImages, SizedImages

HEIGHT, WIDTH = 60, 50


def save(path: Path, height: int, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(path.name, height, width)).save(path)


def points(name: str) -> np.ndarray:
    """Return 68 places; some of them are outside of the image."""
    chance = np.random.default_rng(len(name) + sum(map(ord, name)))
    return np.round(chance.uniform(-3, [WIDTH - 10, HEIGHT - 15], (68, 2)), 3)


def face(path: Path) -> None:
    save(path, HEIGHT, WIDTH)
    lines = [f"{x:.3f} {y:.3f}" for x, y in points(path.stem)]
    # HELEN's files have two blanks after the colon.
    write(path.with_suffix(".pts"), "version: 1", "n_points:  68", "{", *lines, "}")


@pytest.fixture
def root_300w(tmp_path: Path) -> Path:
    for number in range(1, 6):
        face(tmp_path / "01_Indoor" / f"indoor_{number:03d}.png")
        face(tmp_path / "02_Outdoor" / f"outdoor_{number:03d}.png")
    return tmp_path


def read_300w(root: Path, **keys) -> Dataset:
    return faces_300w(root=str(root), name="300w", sizes="warn", **keys)


def test_300w_is_divided_as_published(root_300w: Path) -> None:
    dataset = read_300w(root_300w)
    assert (dataset.target, dataset.classes) == ("landmarks", LANDMARKS_300W)
    assert len(set(LANDMARKS_300W)) == 68
    # The published code: sorted paths, numpy's global generator with seed 0, 30 %, 30 % and 40 %.
    images = sorted(str(path.relative_to(root_300w)) for path in root_300w.glob("0*/*.png"))
    order = np.arange(10)
    np.random.seed(0)  # noqa: NPY002 - restated
    np.random.shuffle(order)  # noqa: NPY002
    for key, part in {"train": order[:3], "val": order[3:6], "test": order[6:]}.items():
        assert list(dataset[key].names) == [images[i] for i in part]
    parts = seed_0_parts(600)
    assert [len(parts[key]) for key in ("train", "val", "test")] == [180, 180, 240]
    with pytest.raises(ValueError, match=r"{'train': 180, 'val': 180, 'test': 240}, but has"):
        faces_300w(root=str(root_300w), name="300w")


@pytest.mark.parametrize("unrounded_shift", [False, True])
def test_a_face_is_cut_to_the_square_of_its_landmarks(
    root_300w: Path, unrounded_shift: bool
) -> None:
    dataset = read_300w(root_300w, unrounded_shift=unrounded_shift)
    for key in ("train", "val", "test"):
        split = dataset[key]
        for name, image, target, size in zip(
            split.names, split.images, split.targets, split.sizes, strict=True
        ):
            # The published code, restated; Pillow pads with black and rounds the corners.
            keypoint = points(Path(name).stem)
            x1, y1 = keypoint.min(axis=0)
            x2, y2 = keypoint.max(axis=0)
            length = max(math.ceil(x2 - x1), math.ceil(y2 - y1))
            with Image.open(root_300w / name) as whole:
                expected = whole.crop((x1, y1, x1 + length, y1 + length))
            assert (np.asarray(image) == np.asarray(expected)).all()
            assert image.size == tuple(size.tolist())
            corner = (x1, y1) if unrounded_shift else (round(x1), round(y1))
            np.testing.assert_allclose(target.reshape(68, 2), keypoint - corner, atol=1e-9)


def test_a_margin_is_added_on_all_four_sides(root_300w: Path) -> None:
    tight, wide = read_300w(root_300w), read_300w(root_300w, margin=0.5)
    assert wide.fingerprint != tight.fingerprint
    for small, large in zip(tight["test"].sizes, wide["test"].sizes, strict=True):
        assert large == pytest.approx(2 * small, abs=2)
    middle = [d["test"].targets.mean() / d["test"].sizes.mean() for d in (tight, wide)]
    assert abs(middle[1] - 0.5) < abs(middle[0] - 0.5)


def test_officially_the_challenges_images_are_tested(root_300w: Path) -> None:
    with pytest.raises(ValueError, match=r"lfpw/trainset, but `.*afw` does not exist; download it"):
        read_300w(root_300w, split_rule="official")
    training = ["afw/134212_1.jpg", "helen/trainset/232194_1.jpg", "lfpw/trainset/image_0001.png"]
    for name in training:
        face(root_300w / name)
    dataset = read_300w(root_300w, split_rule="official")
    assert sorted([*dataset["train"].names, *dataset["val"].names]) == training
    assert len(dataset["test"]) == 10
    with pytest.raises(ValueError, match=r"{'train': 3148, 'test': 600}, but has"):
        faces_300w(root=str(root_300w), name="300w", split_rule="official")


@pytest.mark.parametrize(
    ("line", "text", "told"),
    [
        (1, "version: 2", r"line 1 of .*_003\.pts` must be `version: 1`, but is 'version: 2'"),
        (2, "n_points: 49", "line 2 of .* must be `n_points: 68`, but is 'n_points: 49'"),
        (7, "1.0 2.0 3.0", "line 7 of .* must be two numbers, but is '1.0 2.0 3.0'"),
        (8, "1.0 nan", "line 8 of .* must be two numbers, but is '1.0 nan'"),
        (72, "1.0 2.0", "line 72 of .* must be `}`, but is '1.0 2.0'"),
    ],
)  # fmt: skip
def test_a_damaged_file_of_landmarks_is_named_with_its_line(
    root_300w: Path, line: int, text: str, told: str
) -> None:
    path = root_300w / "01_Indoor" / "indoor_003.pts"
    lines = path.read_text().splitlines()
    lines[line - 1] = text
    write(path, *lines)
    with pytest.raises(ValueError, match=told):
        read_300w(root_300w)


def test_too_few_or_too_many_lines_of_landmarks_are_refused(root_300w: Path) -> None:
    path = root_300w / "01_Indoor" / "indoor_003.pts"
    lines = path.read_text().splitlines()
    write(path, *lines, "1.0 2.0")
    with pytest.raises(ValueError, match=r"72 lines that .* 68 are landmarks, but has 73; unpack"):
        read_300w(root_300w)
    write(path, *lines[:-1])
    with pytest.raises(ValueError, match=r"must have 72 lines .* but has 71; unpack"):
        read_300w(root_300w)
    write(path, *lines[:-2], "}")
    with pytest.raises(ValueError, match=r"line 71 of .* must be two numbers, but is '}'; unpack"):
        read_300w(root_300w)


def test_landmarks_at_one_place_and_empty_folders_are_refused(root_300w: Path) -> None:
    path = root_300w / "02_Outdoor" / "outdoor_002.pts"
    write(path, "version: 1", "n_points: 68", "{", *["4.0 5.0"] * 68, "}")
    with pytest.raises(ValueError, match=r"`02_Outdoor/outdoor_002\.png` are all at one place"):
        read_300w(root_300w)
    for one in root_300w.rglob("*.pts"):
        one.unlink()
    with pytest.raises(ValueError, match=r"01_Indoor` must hold files of landmarks \(\*\.pts\)"):
        read_300w(root_300w)


# Five of the forty attributes, in their order.
ATTRIBUTES = ["5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald"]
COLUMNS = "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y "


@pytest.fixture
def root_celeba(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Thirteen images; torchvision's checksums do not hold for them."""
    monkeypatch.setattr(torchvision.datasets.CelebA, "_check_integrity", lambda self: True)
    home = tmp_path / "celeba"
    names = [f"{number:06d}.jpg" for number in range(1, 14)]
    chance = np.random.default_rng(0)
    for name in names:
        save(home / "img_align_celeba" / name, 218, 178)
    parts = [0] * 6 + [1] * 3 + [2] * 4
    write(home / "list_eval_partition.txt", *map("{} {}".format, names, parts))
    places = chance.integers(60, 120, (13, 10))
    rows = [f"{n} " + "".join(f"{v:5d}" for v in row) for n, row in zip(names, places, strict=True)]
    heading = COLUMNS + "rightmouth_x rightmouth_y"
    write(home / "list_landmarks_align_celeba.txt", "13", heading, *rows)
    marks = [[1 if (i + k) % 3 else -1 for k in range(5)] for i in range(13)]
    rows = [f"{n} " + "".join(f"{v:3d}" for v in row) for n, row in zip(names, marks, strict=True)]
    write(home / "list_attr_celeba.txt", "13", " ".join(ATTRIBUTES), *rows)
    write(home / "identity_CelebA.txt", *(f"{name} 1" for name in names))
    boxes = [f"{name} 1 2 3 4" for name in names]
    write(home / "list_bbox_celeba.txt", "13", "image_id x_1 y_1 width height", *boxes)
    return tmp_path


@pytest.mark.parametrize(
    ("reader", "kind", "target"),
    [(celeba_landmarks, "landmarks", "landmarks"), (celeba_attributes, "attr", "classes")],
)
def test_celeba_is_that_of_torchvision(root_celeba: Path, reader, kind: str, target: str) -> None:
    dataset = reader(root=str(root_celeba), name="celeba", sizes="warn")
    assert dataset.target == target
    for key, theirs in (("train", "train"), ("val", "valid"), ("test", "test")):
        judge = torchvision.datasets.CelebA(str(root_celeba), split=theirs, target_type=kind)
        split = dataset[key]
        assert list(split.names) == judge.filename
        for (image, labels), own, targets in zip(judge, split.images, split.targets, strict=True):
            assert (np.asarray(own) == np.asarray(image)).all()
            assert targets.tolist() == labels.tolist()
    if kind == "attr":
        assert list(dataset.classes) == ATTRIBUTES
        assert dataset.metric == "map_11_point"
    else:
        assert dataset.classes == ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
        assert dataset["test"].sizes.tolist() == [[178, 218]] * 4


@pytest.mark.parametrize("reader", [celeba_landmarks, celeba_attributes])
def test_the_sizes_of_celeba_are_checked(root_celeba: Path, reader) -> None:
    with pytest.raises(ValueError, match=r"{'train': 162770, 'val': 19867, 'test': 19962"):
        reader(root=str(root_celeba), name="celeba")


def test_a_face_of_another_size_is_refused_when_it_is_read() -> None:
    images = ArrayImages(np.zeros((2, 218, 178, 3), dtype=np.uint8))
    sized = SizedImages(images, np.array([[178, 218], [177, 218]]))
    assert sized[0].size == (178, 218)
    with pytest.raises(ValueError, match=r"must have 177x218 px, .* but image 1 has 178x218 px"):
        sized[1]


def changed(path: Path, line: int, text: str | None) -> None:
    lines = path.read_text().splitlines()
    lines[line - 1 : line] = [] if text is None else [text]
    write(path, *lines)


@pytest.mark.parametrize(
    ("file", "line", "text", "told"),
    [
        ("list_landmarks_align_celeba.txt", 5, "000003.jpg 1 2", r"line 5 of .*celeba\.txt` must"),
        ("list_landmarks_align_celeba.txt", 5, "000003.jpg" + " inf" * 10, "with ten finite num"),
        ("list_landmarks_align_celeba.txt", 2, "x y", r"line 2 of .* must be the columns \['lefte"),
        ("list_landmarks_align_celeba.txt", 1, "202599", "that follow, 13, but is '202599'"),
        ("list_landmarks_align_celeba.txt", 7, None, "that follow, 12, but is '13'"),
        ("list_eval_partition.txt", 3, "000003.jpg 3", r"line 3 of .*partition\.txt` must be `im"),
        ("list_eval_partition.txt", 3, "9.jpg 0", r"an image of the other list"),
        ("list_eval_partition.txt", 3, None, "one line for each of 13 images, but has 12"),
    ],
)  # fmt: skip
def test_a_damaged_list_of_celeba_is_named_with_its_line(
    root_celeba: Path, file: str, line: int, text: str | None, told: str
) -> None:
    changed(root_celeba / "celeba" / file, line, text)
    with pytest.raises(ValueError, match=told):
        celeba_landmarks(root=str(root_celeba), name="celeba", sizes="warn")


def test_a_mark_that_is_neither_shown_nor_absent_is_named(root_celeba: Path) -> None:
    path = root_celeba / "celeba" / "list_attr_celeba.txt"
    changed(path, 4, "000002.jpg 1 -1 0 1 1")
    with pytest.raises(ValueError, match=r"line 4 of .*attr_celeba\.txt` must be .* 5 marks of"):
        celeba_attributes(root=str(root_celeba), name="celeba", sizes="warn")
    write(path, "13")
    with pytest.raises(ValueError, match="one per image, but has 1 lines"):
        celeba_attributes(root=str(root_celeba), name="celeba", sizes="warn")


def test_a_missing_folder_is_described(tmp_path: Path) -> None:
    for reader, named in ((faces_300w, "01_Indoor, 02_Outdoor"), (celeba_landmarks, "celeba/img_")):
        with pytest.raises(ValueError, match=rf"must lie in `.*` as {named}"):
            reader(root=str(tmp_path), name="faces")
