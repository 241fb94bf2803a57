"""Layouts and names of files, from public sources:

* Flickr1024: ``Train``, ``Validation``, ``Test`` with ``0001_L.png`` and ``0001_R.png``;
  data/train/GenerateTrainingPatches.m of https://github.com/YingqianWang/iPASSR.
* COIL-100: ``coil-100/obj1__0.png``; prtools_data/coil100.m of https://github.com/bobduin/PRTools.
* ALOI: ``1/1_r5.png`` in aloi_red4_view.tar; predpca/aloi/main_preprocess.py of
  https://github.com/takuyaisomura/predpca-py. The archives aloi_red4_ill.tar (``1_l1c1.png``) and
  aloi_red4_col.tar (``1_i110.png``): dm_nevis/datasets_storage/handlers/aloi.py of
  https://github.com/google-deepmind/dm_nevis.
* ALOT: ``1/1_c1l1r60.png``, ``1/1_c1i.png``, and the conditions c1 to c4, l1 to l5, l8, r60, r120,
  r180: http://aloi.science.uva.nl/public_alot/alot/technical_details.html.
* Exposure errors: ``a4747-09-05-19-at-19h04m32s-_MG_9562_P1.5.JPG``; example_images and
  main_training.m of https://github.com/mahmoudnafifi/Exposure_Correction.
* RealBlur: ``scene230/gt/gt_7.png`` and ``scene230/blur/blur_7.png``; README.md and the lists of
  https://github.com/rimchang/RealBlur.
* DaLI and the folders of all: ``datasets/*.py`` of https://github.com/linusericsson/ssl-invariances.
"""

import itertools
import logging
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from miniatures import draw

from ssl_transfer.datasets import Dataset, multi_view_sets
from ssl_transfer.datasets.multi_view_sets import (
    aloi,
    alot,
    coil100,
    dali,
    exposure_errors,
    flickr1024,
    realblur,
)

REALBLUR = "RealBlur-J_ECC_IMCORR_centroid_itensity_ref"


def groups(dataset: Dataset) -> list[list[str]]:
    """Return the names of the views of every group."""
    split = dataset["test"]
    members = defaultdict(list)
    for name, number in zip(split.names, split.groups.tolist(), strict=True):
        members[number].append(name)
    return [members[number] for number in range(len(members))]


@pytest.fixture
def pairs_root(tmp_path: Path) -> Path:
    for part in ("Train", "Validation", "Test"):
        draw(tmp_path / part, "0001_L.png", "0001_R.png", "0002_R.png", "0002_L.png")
    return tmp_path


def test_a_stereo_pair_is_a_left_and_a_right_view(pairs_root: Path) -> None:
    dataset = flickr1024(root=str(pairs_root), name="it", sizes="warn")
    assert groups(dataset)[0] == ["Test/0001_L.png", "Test/0001_R.png"]
    assert [len(names) for names in groups(dataset)] == [2] * 6
    assert dataset["test"].targets.tolist() == [0] * 12
    assert len(dataset["train"]) == len(dataset["val"]) == 0


def test_the_published_number_of_pairs_is_checked(pairs_root: Path) -> None:
    with pytest.raises(ValueError, match=r"'objects': 1024, 'views': 2048}, but has .*: 6, .*: 12"):
        flickr1024(root=str(pairs_root), name="it")


def test_a_single_view_and_a_foreign_image_are_named(pairs_root: Path) -> None:
    (pairs_root / "Test" / "0002_L.png").unlink()
    with pytest.raises(ValueError, match=r"the same 2 views, but `Test/0002` lacks `L`; complete"):
        flickr1024(root=str(pairs_root), name="it")
    draw(pairs_root / "Train", "cover.png")
    with pytest.raises(ValueError, match=r"<pair>_R.png, but `Train/cover.png` is not; remove"):
        flickr1024(root=str(pairs_root), name="it")


def test_coil_has_72_views_per_object_in_the_order_of_the_angles(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(multi_view_sets, "COIL_OBJECTS", 2)
    names = [f"obj{n}__{angle}.png" for n in (1, 2) for angle in range(0, 360, 5)]
    draw(tmp_path / "coil-100", *names)
    dataset = coil100(root=str(tmp_path), name="it")
    assert groups(dataset)[1][:3] == [f"coil-100/obj2__{angle}.png" for angle in (0, 5, 10)]
    assert [len(names) for names in groups(dataset)] == [72, 72]
    assert dataset.classes == ("obj1", "obj2")
    assert np.bincount(dataset["test"].targets).tolist() == [72, 72]
    (tmp_path / "coil-100" / "obj1__5.png").rename(tmp_path / "coil-100" / "obj1__7.png")
    with pytest.raises(ValueError, match=r"`1` lacks `5` and has `coil-100/obj1__7.png` besides"):
        coil100(root=str(tmp_path), name="it")
    monkeypatch.setattr(multi_view_sets, "COIL_OBJECTS", 1)
    with pytest.raises(ValueError, match=r"`2` is not part of the set"):
        coil100(root=str(tmp_path), name="it")


ALOI_NAMES = {
    "viewpoint": [f"r{angle}" for angle in range(0, 360, 5)],
    "illumination": [f"l{light}c{camera}" for light in range(1, 9) for camera in range(1, 4)],
    "temperature": [f"i{kind}" for kind in [*range(110, 191, 10), *range(210, 251, 20)]],
}


@pytest.mark.parametrize(
    ("factor", "number", "views"),
    [("viewpoint", 2, 72), ("illumination", 6, 8), ("temperature", 2, 12)],
)
def test_aloi_groups_by_object_and_for_illumination_by_camera(
    factor: str, number: int, views: int, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(multi_view_sets, "ALOI_OBJECTS", 2)
    for n in (1, 2):
        draw(tmp_path / factor / str(n), *(f"{n}_{name}.png" for name in ALOI_NAMES[factor]))
    dataset = aloi(root=str(tmp_path), name="it", factor=factor)
    assert [len(names) for names in groups(dataset)] == [views] * number
    for names in groups(dataset):
        assert len({Path(name).parent for name in names}) == 1
        if factor == "illumination":
            assert len({name[-5] for name in names}) == 1  # the camera
    assert dataset["test"].targets.tolist() == sorted(dataset["test"].targets.tolist())
    assert dataset.facts["factor"] == factor


def alot_names(texture: int) -> list[str]:
    views = [
        f"c{camera}l{light}{rotation}"
        for camera in range(1, 5)
        for light in (1, 2, 3, 4, 5, 8)
        for rotation in ("", "r60", "r120", "r180")
    ]
    views += [f"c{camera}i" for camera in range(1, 5)]
    return [f"{texture}/{texture}_{view}.png" for view in views]


@pytest.fixture(scope="module")
def two_textures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alot")
    draw(folder, *alot_names(1), *alot_names(2))
    return folder


@pytest.fixture
def textures_root(two_textures: Path, monkeypatch) -> Path:
    monkeypatch.setattr(multi_view_sets, "TEXTURES", 2)
    return two_textures


@pytest.mark.parametrize(
    ("factor", "number", "views"),
    [("viewpoint", 12, 16), ("illumination", 32, 6), ("temperature", 8, 2)],
)
def test_alot_has_its_nominal_groups_per_texture(
    factor: str, number: int, views: int, textures_root: Path
) -> None:
    dataset = alot(root=str(textures_root), name="it", factor=factor)
    assert [len(names) for names in groups(dataset)] == [views] * number
    assert (dataset.classes, dataset.facts["grouping"]) == (("1", "2"), "texture_and_light")


def published_views(mode: str, class_idx: int, images: list[str]) -> list[str]:
    """Return what ``get_views_of_class`` of the published ``datasets/alot.py`` returns."""
    texture = class_idx % 250
    own = [name for name in images if int(name.split("/")[0]) == texture + 1]
    stems = {name: name.split("/")[1].removesuffix(".png") for name in own}
    views = []
    for name, stem in stems.items():
        condition = stem.split("_")[1]
        if mode == "viewpoint":
            light = [1, 2, 3, 4, 5, 8][texture % 6]
            if "i" not in condition and int(condition.split("l")[1][0]) == light:
                views.append(name)
        elif mode == "illumination":
            camera, angle = (class_idx % 1000) // 250, class_idx // 1000
            rotation = int(condition.split("r")[1]) if "r" in condition else 0
            if condition[1] == str(camera + 1) and rotation == angle * 60 and "i" not in condition:
                views.append(name)
        elif condition[1] == str(class_idx // 250 + 1) and condition[2:] in ("i", "l8"):
            views.append(name)
    return sorted(views)


@pytest.mark.parametrize(
    ("factor", "count"), [("viewpoint", 1500), ("illumination", 4000), ("temperature", 1000)]
)
def test_alot_can_be_grouped_as_published(factor: str, count: int, textures_root: Path) -> None:
    images = [*alot_names(1), *alot_names(2)]
    numbers = [number for number in range(count) if number % 250 < 2]  # of two textures
    expected = [published_views(factor, number, images) for number in numbers]
    keys = {"grouping": "published"} if factor == "viewpoint" else {}
    dataset = alot(root=str(textures_root), name="it", factor=factor, **keys)
    unique = {tuple(names) for names in expected}
    assert {tuple(sorted(names)) for names in groups(dataset)} == unique
    # The published groups of the viewpoint repeat each texture's only group for all six lights.
    assert len(expected) == len(unique) * (6 if factor == "viewpoint" else 1)


def test_the_published_grouping_is_refused_where_it_does_not_differ(textures_root: Path) -> None:
    with pytest.raises(ValueError, match=r"`dataset.grouping` must be .* `published` with `temper"):
        alot(root=str(textures_root), name="it", factor="temperature", grouping="published")


def test_a_missing_texture_is_named(textures_root: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(multi_view_sets, "TEXTURES", 3)
    with pytest.raises(ValueError, match=r"the same 2 views, but `3/1` has none, `3/2` has none"):
        alot(root=str(textures_root), name="it", factor="temperature")
    with caplog.at_level(logging.WARNING):
        dataset = alot(root=str(textures_root), name="it", factor="temperature", sizes="warn")
    assert len(groups(dataset)) == 8
    assert "`3/1` has none" in caplog.text


def test_dali_has_as_many_views_of_every_object(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(multi_view_sets, "DALI_OBJECTS", 2)
    monkeypatch.setattr(multi_view_sets, "DALI_VIEWS", 3)
    draw(tmp_path / "input/png", *(f"{n}/{view}.png" for n in (1, 2) for view in "abc"))
    dataset = dali(root=str(tmp_path), name="it")
    assert [len(names) for names in groups(dataset)] == [3, 3]
    (tmp_path / "input/png/2/b.png").unlink()
    with pytest.raises(ValueError, match=r"the same number of views, but `2` has 2 of 3; complete"):
        dali(root=str(tmp_path), name="it")


@pytest.fixture
def exposures_root(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setitem(multi_view_sets.EXPOSURE_OBJECTS, "training", 2)
    for stem in ("a4747-09-05-19-at-19h04m32s-_MG_9562", "a0145-DSC_0009-1"):
        draw(tmp_path / "training/GT_IMAGES", f"{stem}.jpg")
        exposures = ("N1.5", "N1", "0", "P1", "P1.5")
        draw(tmp_path / "training/INPUT_IMAGES", *(f"{stem}_{key}.JPG" for key in exposures))
    return tmp_path


def test_exposures_are_grouped_by_the_text_before_the_first_hyphen(exposures_root: Path) -> None:
    dataset = exposure_errors(root=str(exposures_root), name="it")
    assert [len(names) for names in groups(dataset)] == [6, 6]
    for key, names in zip(("a0145", "a4747"), groups(dataset), strict=True):
        assert names[0].startswith(f"training/GT_IMAGES/{key}-")
        assert all(Path(name).name.split("-")[0] == key for name in names)
    # The published rule, which searches for the text in the path, finds the same groups.
    inputs = sorted((exposures_root / "training/INPUT_IMAGES").iterdir())
    for key, names in zip(("a0145", "a4747"), groups(dataset), strict=True):
        found = {path.name for path in inputs if key in path.name}
        assert found == {Path(name).name for name in names[1:]}


def test_two_images_of_one_exposure_and_another_part_are_refused(exposures_root: Path) -> None:
    with pytest.raises(ValueError, match=r"as validation/GT_IMAGES, validation/INPUT_IMAGES, but"):
        exposure_errors(root=str(exposures_root), name="it", part="validation")
    draw(exposures_root / "training/INPUT_IMAGES", "a0145-other_P1.JPG")
    with pytest.raises(ValueError, match=r"P1.JPG` and .* are both view `P1` of `a0145`; remove"):
        exposure_errors(root=str(exposures_root), name="it")


def test_a_blurred_photograph_is_paired_within_its_scene_by_number(tmp_path: Path) -> None:
    scenes = {"scene230": (7, 10), "scene044": (21, 7)}
    for scene, numbers in scenes.items():
        for kind, number in itertools.product(("gt", "blur"), numbers):
            draw(tmp_path / REALBLUR / scene, f"{kind}/{kind}_{number}.png")
    dataset = realblur(root=str(tmp_path), name="it", sizes="warn")
    pairs = groups(dataset)
    assert len(pairs) == 4
    for sharp, blurred in pairs:
        assert blurred == sharp.replace("/gt/gt_", "/blur/blur_")
    with pytest.raises(ValueError, match=r"'objects': 4738, 'views': 9476}, but has"):
        realblur(root=str(tmp_path), name="it")
    (tmp_path / REALBLUR / "scene230/blur/blur_7.png").unlink()
    with pytest.raises(ValueError, match=r"`scene230/7` lacks `blur`"):
        realblur(root=str(tmp_path), name="it")


@pytest.mark.parametrize(
    ("read", "layout"),
    [
        (flickr1024, "Train, Validation, Test, but"),
        (coil100, r"coil-100, but .*by hand.*coil-100\.zip of"),
        (aloi, r"viewpoint, but .*the folders 1 to 1000 of aloi_red4_view\.tar"),
        (alot, r"1, but .*the folders 1 to 250 of alot_png4\.tar"),
        (dali, "input/png, but .*dali_data"),
        (exposure_errors, "training/GT_IMAGES, training/INPUT_IMAGES, but"),
        (realblur, f"{REALBLUR}, but .*rimchang/RealBlur"),
    ],
)
def test_a_missing_folder_is_refused_with_the_layout(read, layout: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"`it` must lie in `.*` as {layout}"):
        read(root=str(tmp_path), name="it")


def test_published_numbers_of_groups_and_views() -> None:
    sizes = {
        factor: (len(multi_view_sets._alot_groups(factor, published=False)), len(views))
        for factor, views in multi_view_sets.ALOT_VIEWS.items()
    }
    assert sizes == {"viewpoint": (1500, 16), "illumination": (4000, 6), "temperature": (1000, 2)}
    assert len(multi_view_sets._alot_groups("viewpoint", published=True)) == 250
    views = {factor: len(names) for factor, names in multi_view_sets.ALOI_VIEWS.items()}
    assert views == {"viewpoint": 72, "illumination": 8, "temperature": 12}
