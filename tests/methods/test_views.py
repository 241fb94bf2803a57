"""Named views are the published ones, and can be looked at."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_transfer import methods, preview
from ssl_transfer.config import CONF, UNTRAINED, compose, options, plain
from ssl_transfer.datasets.transforms import OPERATIONS, Augmentation, Pipeline
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.runs import Run
from ssl_transfer.runs.signature import problems

GREY_FIRST = ("crop", "grayscale", "jitter", "blur", "solarize")
COLOURS_FIRST = ("jitter", "grayscale", "crop", "blur", "solarize")
CROP_LAST = ("jitter", "grayscale", "blur", "solarize", "crop")
# Crop, flip, (jitter's probability and strengths), grey, blur, solarisation, order, size.
PUBLISHED: dict[str, list[tuple[int, Any]]] = {
    "default": [(2, ((0.2, 1), 0.5, (0.8, 0.4, 0.4, 0.4, 0.1), 0.2, 0.5, 0, OPERATIONS, None))],
    "ventral": [(2, ((0.2, 1), 0.5, (0, 0, 0, 0, 0), 0, 0, 0, OPERATIONS, None))],
    "dorsal": [(2, ((1, 1), 0, (0.8, 0.4, 0.4, 0.4, 0.1), 0.2, 0.5, 0, CROP_LAST, None))],
    "moco_v1": [(2, ((0.2, 1), 0.5, (1, 0.4, 0.4, 0.4, 0.4), 0.2, 0, 0, GREY_FIRST, None))],
    "moco_v2_small": [(2, ((0.2, 1), 0.5, (0.8, 0.8, 0.8, 0.8, 0.4), 0.5, 0.5, 0, OPERATIONS,
                           None))],
    "simclr": [(2, ((0.08, 1), 0.5, (0.8, 0.8, 0.8, 0.8, 0.2), 0.2, 0.5, 0, OPERATIONS, None))],
    "barlow_twins": [
        (1, ((0.08, 1), 0.5, (0.8, 0.4, 0.4, 0.2, 0.1), 0.2, 1, 0, OPERATIONS, None)),
        (1, ((0.08, 1), 0.5, (0.8, 0.4, 0.4, 0.2, 0.1), 0.2, 0.1, 0.2, OPERATIONS, None)),
    ],
    "cifar": [(2, ((0.08, 1), 0.5, (0.8, 0.4, 0.4, 0.4, 0.1), 0.2, 0, 0, OPERATIONS, None))],
    "ssl_sota": [(2, ((0.2, 1), 0.5, (0.8, 0.4, 0.4, 0.4, 0.1), 0.1, 0, 0, COLOURS_FIRST, None))],
    "swav": [
        (2, ((0.14, 1), 0.5, (0.8, 0.8, 0.8, 0.8, 0.2), 0.2, 0.5, 0, OPERATIONS, None)),
        (6, ((0.05, 0.14), 0.5, (0.8, 0.8, 0.8, 0.8, 0.2), 0.2, 0.5, 0, OPERATIONS, 96)),
    ],
    "dino": [
        (1, ((0.14, 1), 0.5, (0.8, 0.4, 0.4, 0.2, 0.1), 0.2, 1, 0, OPERATIONS, None)),
        (1, ((0.14, 1), 0.5, (0.8, 0.4, 0.4, 0.2, 0.1), 0.2, 0.1, 0.2, OPERATIONS, None)),
        (8, ((0.05, 0.14), 0.5, (0.8, 0.4, 0.4, 0.2, 0.1), 0.2, 0.5, 0, OPERATIONS, 96)),
    ],
}  # fmt: skip
PUBLISHED["seed"] = [(1, PUBLISHED["default"][0][1])]
PUBLISHED["seed_multi_crop"] = [
    (1, ((0.14, 1), 0.5, (0.8, 0.4, 0.4, 0.4, 0.1), 0.2, 0.5, 0, OPERATIONS, None)),
    (6, ((0.05, 0.14), 0.5, (0.8, 0.4, 0.4, 0.4, 0.1), 0.2, 0.5, 0, OPERATIONS, 96)),
]
SAME = {"byol": "barlow_twins", "moco_v2": "default", "stl10": "ssl_sota",
        "tiny_imagenet": "ssl_sota"}  # fmt: skip


def described(name: str) -> tuple[Augmentation, ...]:
    config = plain(compose(["method=w_mse", f"views@method={name}"]))
    assert problems(config) == []
    return methods.augmentations(config["method"])


def facts(view: Augmentation) -> Any:
    jitter = (view.jitter_probability, view.brightness, view.contrast, view.saturation, view.hue)
    return (view.crop_scale, view.flip_probability, jitter, view.grayscale_probability,
            view.blur_probability, view.solarize_probability, view.order, view.size)  # fmt: skip


@pytest.mark.parametrize("name", [*PUBLISHED, *SAME])
def test_named_views_are_those_of_the_tables(name: str) -> None:
    expected = [view for count, view in PUBLISHED[SAME.get(name, name)] for _ in range(count)]
    assert [facts(view) for view in described(name)] == expected
    blurred = [view for view in described(name) if view.blur_probability]
    assert all(view.blur_sigma == (0.1, 2.0) for view in blurred)


@pytest.mark.parametrize("name", options("views"))
def test_every_named_list_says_where_it_comes_from_and_fits_a_method(name: str) -> None:
    header = (CONF / "views" / f"{name}.yaml").read_text().partition("\nviews")[0]
    assert re.search(r"arxiv.org/abs/\d{4}\.\d{4,5}|github.com|Published nowhere", header)
    assert described(name)


@pytest.mark.parametrize("method", [name for name in options("method") if name not in UNTRAINED])
def test_every_method_takes_other_views_by_name_and_they_are_part_of_the_run(method: str) -> None:
    own = plain(compose([f"method={method}", "protocol=pretrain"]))
    line = [f"method={method}", "protocol=pretrain", "views@method=ventral"]
    assert len(methods.augmentations(plain(compose(line))["method"])) == 2
    assert Run(plain(compose(line))).id != Run(own).id


def test_a_name_in_the_lists_place_is_told_how_to_be_chosen() -> None:
    (problem,) = problems(plain(compose(["method=simclr", "method.views=byol"])))
    assert problem.startswith("`method.views`: ")
    assert "`views@method=NAME`" in problem
    assert "small_multi_crop" in problem


def test_values_of_views_are_checked_before_any_work() -> None:
    (problem,) = problems(plain(compose(["method=simclr", "method.views=[{hue:0.7},{}]"])))
    assert problem == "`method.views[0].hue` must lie in [0, 0.5], but is 0.7."


@pytest.mark.slow
def test_dorsal_views_show_the_same_pixels_and_ventral_views_the_same_colours() -> None:
    ramp = np.linspace(60, 200, 48, dtype=np.uint8)
    image = Image.fromarray(np.stack([np.tile(ramp, (48, 1))] * 3, axis=2))
    preprocessing = Preprocessing(size=24, resize=32, mean=(0, 0, 0), std=(1, 1, 1))

    def draw(view: Augmentation, seed: int) -> torch.Tensor:
        zero = np.zeros(1, np.int64)
        return Pipeline(preprocessing, view)([image], seed=seed, epochs=zero, indices=zero)[0]

    for seed in range(8):
        # Colours of a grey ramp change by monotone functions: it still rises from left to right.
        assert (draw(described("dorsal")[0], seed).mean((0, 1)).diff() >= -1e-3).all()
        view = draw(described("ventral")[0], seed)
        torch.testing.assert_close(view[0], view[2])
        assert view.min() >= 59 / 255
        assert view.max() <= 201 / 255


@pytest.mark.parametrize(("width", "height"), [(96, 48), (48, 144), (48, 48)])
def test_dorsal_views_show_the_middle_at_the_size_of_the_encoder(width: int, height: int) -> None:
    # Resize(24) and CenterCrop(24), as published, though the evaluation resizes to 32.
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    resized = image.resize((width // 2, height // 2), Image.Resampling.BILINEAR)
    left, top = (width // 2 - 24) // 2, (height // 2 - 24) // 2
    expected = np.asarray(resized.crop((left, top, left + 24, top + 24))) / 255
    preprocessing = Preprocessing(size=24, resize=32, mean=(0, 0, 0), std=(1, 1, 1))
    plain_view = dataclasses.replace(
        described("dorsal")[1], jitter_probability=0, grayscale_probability=0, blur_probability=0
    )
    zero = np.zeros(1, np.int64)
    found = Pipeline(preprocessing, plain_view)([image], seed=0, epochs=zero, indices=zero)[0]
    np.testing.assert_allclose(found.permute(1, 2, 0), expected, atol=1e-6)


def test_the_preview_shows_images_and_views_with_their_normalisation_undone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "views.png"
    line = ["method=swav", "views@method=small_multi_crop", "dataset@method.pretrain_on=textures",
            "method.views=[{crop_scale:null,flip_probability:0,count:2},{size:16}]",
            "--images", "3", "--to", str(target)]  # fmt: skip
    assert preview.main(line) == 0
    assert str(target) in capsys.readouterr().out
    picture = np.asarray(Image.open(target)).astype(int)
    cell, gap = 96, preview.GAP
    assert picture.shape == (preview.HEADER + 3 * (cell + gap) + gap, 4 * (cell + gap) + gap, 3)
    header, picture = np.split(picture, [preview.HEADER])
    step = cell + gap
    named = [header[:, gap + column * step :][:, :cell] for column in range(4)]
    assert all((title < 90).all(axis=2).any() for title in named)  # dark on paper
    assert np.array_equal(named[1][:, :20], named[2][:, :20])  # "view", then a number
    assert not np.array_equal(named[1], named[2])
    cells = [
        picture[gap : gap + cell, gap + column * (cell + gap) :][:, :cell] for column in range(4)
    ]
    # Without a random part a view is the image itself, at the encoder's size.
    assert np.array_equal(cells[1], cells[2])
    blocks = [c.reshape(32, 3, 32, 3, 3).mean((1, 3)) for c in cells[:2]]
    assert np.abs(blocks[0] - blocks[1]).mean() < 12
    # A view of 16 px takes a quarter of its cell, in the middle.
    assert (cells[3][:20] == preview.PAPER).all()
    assert (cells[3][24:72, 24:72] != preview.PAPER).any()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (["method=as_is"], "must pre-train"),
        (["method=simclr", "method.views=[{hue:2}]"], "hue` must lie in"),
        (["method=simclrr"], "simclrr"),
    ],
)
def test_what_cannot_be_previewed_is_told_in_a_sentence(
    line: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert preview.main(line) == 1
    assert told in capsys.readouterr().err


def test_the_views_of_an_experiment_are_drawn_whatever_it_evaluates() -> None:
    own = ["experiment=mixed_barlow_twins/cifar10_resnet18", "dataset@method.pretrain_on=digits"]
    plain_method = ["method=mixed_barlow_twins", "dataset@method.pretrain_on=digits"]
    more = ["protocol=knn", "recipe=mixed_barlow_twins/knn"]
    pictures = [preview.preview([*own, *line], images=2, epoch=0) for line in ([], more)]
    assert pictures[0].size == pictures[1].size
    assert np.array_equal(np.asarray(pictures[0]), np.asarray(pictures[1]))
    other = preview.preview(plain_method, images=2, epoch=0)
    assert not np.array_equal(np.asarray(other), np.asarray(pictures[0]))


def test_images_fill_their_cells_beside_larger_views(tmp_path: Path) -> None:
    line = ["method=simclr", "model.preprocessing.size=150", "dataset@method.pretrain_on=photos"]
    picture = np.asarray(preview.preview(line, images=1, epoch=0))[preview.HEADER :].astype(int)
    cell = picture[preview.GAP :][:150, preview.GAP :][:, :150]
    # 48 px three times as large, in the middle of 150 px.
    assert (cell[:3] == preview.PAPER).all()
    image = cell[3:147, 3:147]
    assert np.array_equal(image, image[::3, ::3].repeat(3, 0).repeat(3, 1))
    assert image.std() > 5


@pytest.mark.parametrize("name", ["views.foo", "nowhere/views.png"])
def test_a_picture_that_cannot_be_written_is_told_before_it_is_drawn(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert preview.main(["method=nonsense", "--to", str(tmp_path / name)]) == 1
    assert capsys.readouterr().err.startswith("`--to` must name a picture such as views.png")
