"""The command that writes a static set of augmented views, and the reader of such a set."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from miniatures import draw, pixels
from PIL import Image

from ssl_transfer import datasets, static_views
from ssl_transfer.config import compose, plain, resolve
from ssl_transfer.datasets.transforms import Pipeline, views
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.randomness import derive

# Names as in ImageNet (n01440764_44-0.jpeg is in the comments of experiments/sample-augs.py of
# github.com/WOWNICE/ssl-small at 9847a64), and names with a dash and an inner dot.
NAMES = ("n01440764/n01440764_44.JPEG", "n01440764/n01440764_180.JPEG", "n01440764/z.JPEG",
         "n01443537/a-1.v2.png", "n01443537/b-1.png")  # fmt: skip
FILES = [
    f"{stem}-{view}.jpeg"
    for stem in ("n01440764/n01440764_180", "n01440764/n01440764_44", "n01443537/a-1.v2",
                 "n01443537/b-1")
    for view in range(3)
]  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "train"
    draw(folder, *NAMES)
    return folder


def command(source: Path, target: Path, *more: str, size: int = 12) -> int:
    arguments = ["--source", str(source), "--target", str(target), "--images-per-class", "2"]
    return static_views.main([*arguments, "--workers", "1", "--size", str(size), *more])


def written(target: Path) -> dict[str, bytes]:
    return {
        path.relative_to(target).as_posix(): path.read_bytes()
        for path in sorted(target.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def read(target: Path, **keys: object) -> datasets.Dataset:
    node = resolve(plain(compose(["dataset=static_views", f"dataset.root={target}"])))["dataset"]
    return datasets.build({**node, **keys})


def array(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def test_the_first_images_of_each_class_are_written_under_published_names(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new" / "static"
    assert command(source, target) == 0
    assert "4 images of 2 classes, 12 files written" in capsys.readouterr().out
    assert sorted(written(target)) == sorted(FILES)
    sizes = {name: array(target / name).shape[:2] for name in FILES}
    assert {sizes[name] for name in FILES if name.endswith("-0.jpeg")} == {(6, 5)}
    assert {sizes[name] for name in FILES if not name.endswith("-0.jpeg")} == {(12, 12)}
    with Image.open(target / FILES[0]) as image:
        assert image.format == "JPEG"
        # The tables of quality 75, Pillow's default.
        published = tmp_path / "published.jpeg"
        Image.new("RGB", (8, 8)).save(published)
        with Image.open(published) as judge:
            assert image.quantization == judge.quantization


def test_png_keeps_the_pixels_that_the_pipeline_draws(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "static"
    assert command(source, target, "--format", "png", "--seed", "3") == 0
    config = plain(compose(["method=moco_v2", "views@method=moco_v2"]))
    augmentation, _ = views(config["method"]["views"])
    pure = Preprocessing(size=12, resize=None, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    for name in ("n01440764/n01440764_44", "n01443537/b-1"):
        original = array(target / f"{name}-0.png")
        number = np.array([derive(0, name)])
        for view in (1, 2):
            pipeline = Pipeline(pure, augmentation, view=view - 1)
            batch = pipeline([Image.fromarray(original)], seed=3, epochs=0 * number, indices=number)
            expected = batch[0].permute(1, 2, 0).mul(255).round().numpy().astype(np.uint8)
            assert (array(target / f"{name}-{view}.png") == expected).all()
    assert (array(target / "n01443537/b-1-0.png") == pixels("n01443537/b-1.png")).all()


def test_a_view_depends_on_the_seed_and_on_its_image_alone(source: Path, tmp_path: Path) -> None:
    for number, seed in enumerate((0, 0, 1)):
        if number == 1:
            draw(source, "n01440764/a_first_one.JPEG")
        assert command(source, tmp_path / str(number), "--seed", str(seed)) == 0
    name = "n01440764/n01440764_180-1.jpeg"
    first, more, seeded = (written(tmp_path / str(number)) for number in range(3))
    assert "n01440764/a_first_one-1.jpeg" in more
    assert first[name] == more[name] != seeded[name]
    assert first[name.replace("-1.", "-0.")] == seeded[name.replace("-1.", "-0.")]


def test_an_interrupted_command_writes_only_what_is_lacking(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "static"
    assert command(source, target) == 0
    whole = written(target)
    for name in FILES[2:5]:
        (target / name).unlink()
    with pytest.raises(ValueError, match=r"2 of 4 do not have them all: `n01440764_180`, `n0"):
        read(target)
    kept = {name: (target / name).stat().st_mtime_ns for name in written(target)}
    capsys.readouterr()
    assert command(source, target) == 0
    assert "3 files written" in capsys.readouterr().out
    assert written(target) == whole
    assert {name: (target / name).stat().st_mtime_ns for name in kept} == kept
    shutil.rmtree(target / "n01443537")
    with pytest.raises(ValueError, match="objects"):
        read(target)


def test_views_of_other_settings_are_not_mixed(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "static"
    assert command(source, target) == 0
    assert command(source, target, "--seed", "5") == 1
    assert "holds views that were made with seed 0 (now 5)" in capsys.readouterr().err
    assert json.loads((target / "manifest.json").read_text())["seed"] == 0
    assert command(source, source.parent) == 1
    assert "must be a new or an empty folder" in capsys.readouterr().err
    assert command(source, source / "static") == 1
    assert "must not lie in the source" in capsys.readouterr().err


def test_files_of_any_mode_become_rgb_and_upright(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "odd"
    folder.mkdir(parents=True)
    colours = Image.fromarray(pixels("odd"))
    colours.convert("P").save(folder / "palette.png")
    transparent = colours.copy()
    transparent.putalpha(0)
    transparent.save(folder / "transparent.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    colours.save(folder / "turned.jpg", exif=exif)
    target = tmp_path / "static"
    keys = ["--images-per-class", "3", "--format", "png"]
    assert command(tmp_path / "train", target, *keys) == 0
    assert (array(target / "odd/transparent-0.png") == 255).all()
    assert array(target / "odd/palette-0.png").shape == (6, 5, 3)
    assert array(target / "odd/turned-0.png").shape == (5, 6, 3)
    assert command(tmp_path / "train", tmp_path / "raw", *keys, "--ignore-orientation") == 0
    assert array(tmp_path / "raw/odd/turned-0.png").shape == (6, 5, 3)


def test_the_reader_gives_each_object_its_original_and_two_views(
    source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "static"
    command(source, target, "--format", "png")
    dataset = read(target, name="mine")
    test = dataset["test"]
    assert (dataset.name, dataset.target, dataset.classes) == (
        "mine", "views", ("n01440764", "n01443537"),
    )  # fmt: skip
    assert list(test.names) == [name.replace("jpeg", "png") for name in FILES]
    assert test.groups is not None
    assert test.groups.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert test.targets.tolist() == [0] * 6 + [1] * 6
    assert (np.asarray(test.images[4]) == array(target / test.names[4])).all()
    assert (dataset.facts["mask"], dataset.facts["augmentation"]) == ("normal", "moco_v2")


def test_a_set_of_the_published_code_has_no_manifest(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "static"
    command(source, target)
    (target / "manifest.json").unlink()
    shutil.rmtree(target / "n01443537")
    dataset = read(target)
    assert list(dataset["test"].names) == FILES[:6]
    assert dataset.facts["augmentation"] is None


def test_an_image_that_is_skipped_takes_its_object_with_it(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "static"
    command(source, target)
    (target / FILES[4]).write_bytes(b"damaged")
    with pytest.raises(ValueError, match="must decode"):
        read(target)
    dataset = read(target, on_corrupt="skip", sizes="warn")
    test = dataset["test"]
    assert test.groups is not None
    assert test.groups.tolist() == [0] * 3 + [2] * 3 + [3] * 3
    assert dataset.facts["corrupt"] == 1


def test_levels_have_masked_views_of_the_same_crops(tmp_path: Path) -> None:
    source, target = tmp_path / "train", tmp_path / "static"
    for name in ("a", "b"):
        (source / "c").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(name, 90, 80)).save(source / "c" / f"{name}.png")
    assert command(source, target, "--views", "easy", "--masks", "--format", "png", size=32) == 0
    assert len(written(target)) == 2 * 11
    parts = {}
    for mask, numbers in (("normal", (1, 2)), ("g_mask", (3, 4)), ("rand_g_mask", (5, 6)),
                          ("avg_mask", (7, 8)), ("rand_avg_mask", (9, 10))):  # fmt: skip
        test = read(target, mask=mask)["test"]
        assert list(test.names[:3]) == [f"c/a-{view}.png" for view in (0, *numbers)]
        parts[mask] = np.stack([np.asarray(image) for image in test.images[1:3]])
    for mask in ("g_mask", "avg_mask"):
        changed = (parts[mask] != parts["normal"]).any(axis=3)
        for view in changed:
            rows, columns = view.any(axis=1), view.any(axis=0)
            assert view.mean() < 1
            # A rectangle, but for pixels of noise that happen to be equal.
            assert view.sum() >= 0.97 * rows.sum() * columns.sum()
    grey = (parts["avg_mask"] == (124, 116, 104)).all(axis=3)
    elsewhere = (parts["rand_avg_mask"] == (124, 116, 104)).all(axis=3)
    assert grey.sum(axis=(1, 2)).tolist() == elsewhere.sum(axis=(1, 2)).tolist()


@pytest.mark.parametrize("name", ["nointer", "hard", "super_hard", "ventral", "small_images"])
def test_every_name_of_views_writes_a_set(name: str, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "static"
    assert command(source, target, "--views", name) == 0
    assert len(read(target)["test"]) == 12
    manifest = json.loads((target / "manifest.json").read_text())
    assert (manifest["views"], manifest["complete"], manifest["objects"]) == (name, True, 4)


def test_wrong_arguments_are_one_sentence(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "static"
    draw(source, "n01443537/0.png", "n01443537/0.jpg")
    for keys, told in (
        (["--views", "moco2"], "`--views` must be one of nointer, easy, hard, super_hard, barl"),
        (["--views", "one_crop"], "must describe two views, but one_crop describes one"),
        (["--masks"], "`--masks` needs views that overlap by choice, easy or hard or super_hard"),
        (
            ["--images-per-class", "4"],
            "`n01440764 (3)`; lower --images-per-class to 3",
        ),
        (["--source", str(tmp_path / "trane")], "has `train`"),
        (["--source", str(source / "n01440764")], "must have a folder of images per class"),
    ):
        assert command(source, target, *keys) == 1, keys
        error = capsys.readouterr().err
        assert told in error, (keys, error)
        assert error.count("\n") == 1
    assert not target.exists()
    assert command(source, target) == 1
    assert "several of" in (error := capsys.readouterr().err)
    assert "are called `n01443537/0`; rename them" in error
    (source / "n01443537/0.jpg").unlink()
    (source / "n01443537/0.png").write_bytes(b"damaged")
    assert command(source, target) == 1
    assert "0.png` must be an image that decodes" in capsys.readouterr().err


def test_files_of_other_names_are_refused_by_the_reader(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be named <name>-<view>.<extension>, but `n0144076"):
        read(source)
    target = tmp_path / "static"
    command(source, target)
    shutil.copy(target / FILES[0], (target / FILES[0]).with_suffix(".png"))
    with pytest.raises(ValueError, match="are the same view; remove one"):
        read(target)
    with pytest.raises(ValueError, match=r"written by ssl_transfer.static_views, but .* does not"):
        read(tmp_path / "nowhere")


@pytest.mark.slow
def test_several_processes_write_the_same_files(source: Path, tmp_path: Path) -> None:
    assert command(source, tmp_path / "one") == 0
    assert command(source, tmp_path / "two", "--workers", "2") == 0
    assert written(tmp_path / "one") == written(tmp_path / "two")
