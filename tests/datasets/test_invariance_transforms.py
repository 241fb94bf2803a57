"""Each transform against torchvision on tensors and Pillow, image by image."""

import itertools
from typing import get_args

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import InterpolationMode

from ssl_transfer.datasets import recolouring, warps
from ssl_transfer.datasets.embedded import photos
from ssl_transfer.datasets.invariance_transforms import STRAIN, TRANSFORMS, Definition, Name

SOUND = Definition()
PUBLISHED = Definition(
    grid="published",
    deformation="affine",
    interpolation="nearest",
    extra_shear_degrees=1.0,
    blur_kernel=23,
)
SIDE = 48
LEVEL = 1 / 255


@pytest.fixture(scope="module")
def images():
    tiles = photos(name="photos")["test"].images
    return [tiles[i] for i in (3, 100, 200, 400)]


@pytest.fixture(scope="module")
def pixels(images):
    arrays = np.stack([np.asarray(image) for image in images])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 255


def judged(name, settings, definition=SOUND):
    """The transform of one image by torchvision, for each of some settings."""
    mode = {"bilinear": InterpolationMode.BILINEAR, "nearest": InterpolationMode.NEAREST}
    mode = mode[definition.interpolation]
    kernel = definition.blur_kernel
    extra = [definition.extra_shear_degrees, 0.0]
    plain = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    plain["interpolation"] = mode

    def widths(sigma):
        return kernel or 2 * max(1, int(np.ceil(3 * sigma))) + 1

    return {
        "rotation": lambda x, angle: TF.rotate(x, angle, mode),
        "translation": lambda x, a, b: TF.affine(
            x, **{**plain, "translate": [a, b], "shear": extra}
        ),
        "scale": lambda x, factor: TF.affine(x, **{**plain, "scale": factor, "shear": extra}),
        "shear": lambda x, a, b: TF.affine(x, **{**plain, "shear": [a, b]}),
        "resized_crop": lambda x, *box: TF.resized_crop(
            x, *(round(edge) for edge in box), [SIDE, SIDE]
        ),
        "h_flip": lambda x, on: TF.hflip(x) if on else x,
        "v_flip": lambda x, on: TF.vflip(x) if on else x,
        "grayscale": lambda x, on: TF.rgb_to_grayscale(x, 3) if on else x,
        "brightness": TF.adjust_brightness,
        "contrast": TF.adjust_contrast,
        "saturation": TF.adjust_saturation,
        "hue": TF.adjust_hue,
        "blur": lambda x, sigma: TF.gaussian_blur(x, widths(sigma), sigma),
        "sharpness": TF.adjust_sharpness,
        "invert": lambda x, on: TF.invert(x) if on else x,
        "equalize": lambda x, on: TF.equalize((x * 255).byte()) / 255 if on else x,
        "posterize": lambda x, bits: TF.posterize((x * 255).byte(), int(bits)) / 255,
    }[name]


# Settings in pixels of these images, of which three standard deviations of a blur fit inside.
FEWER = {"scale": 10, "translation": 16, "shear": 16, "resized_crop": 16, "blur": 9}


@pytest.mark.parametrize("definition", [SOUND, PUBLISHED], ids=["sound", "published"])
@pytest.mark.parametrize("name", sorted(set(TRANSFORMS) - {"deform"}))
def test_a_transform_is_torchvisions(name, definition, pixels):
    chosen = TRANSFORMS[name]
    settings = chosen.settings(FEWER.get(name, None if chosen.count < 9 else 9), definition)
    scale = {"blur": 0.5, "resized_crop": SIDE / 256}.get(name, 1.0)
    judge = judged(name, settings, definition)
    for row in settings:
        result = chosen(pixels, row[None], definition, (SIDE, SIDE), scale=scale)
        in_pixels = row * scale if name in ("blur", "resized_crop") else row
        expected = torch.stack([judge(image, *in_pixels.tolist()) for image in pixels])
        differing = (result - expected).abs() > 1e-4
        # Rounding decides between two pixels where the nearest is read exactly between them.
        ties = definition.interpolation == "nearest"
        allowed = 0.05 if ties and name in ("rotation", "translation", "scale", "shear") else 0.001
        assert differing.float().mean() <= allowed, (name, row)


@pytest.mark.parametrize("name", sorted(set(TRANSFORMS) - {"deform", "hue", "resized_crop"}))
def test_a_transform_is_pillows_within_rounding(name, images, pixels):
    chosen = TRANSFORMS[name]
    settings = chosen.settings(FEWER.get(name, None if chosen.count < 9 else 9), PUBLISHED)
    judge = judged(name, settings, PUBLISHED)
    scale = 0.5 if name == "blur" else 1.0
    if name == "equalize":
        judge = lambda x, on: ImageOps.equalize(x) if on else x  # noqa: E731
    elif name == "posterize":
        judge = lambda x, bits: TF.posterize(x, int(bits))  # noqa: E731
    for row in settings:
        result = chosen(pixels, row[None], PUBLISHED, (SIDE, SIDE), scale=scale)
        expected = [judge(image, *(row * scale).tolist()) for image in images]
        levels = np.stack([np.asarray(image) for image in expected]) / 255
        difference = np.abs(result.permute(0, 2, 3, 1).numpy() - levels)
        # Pillow rounds grey and blends to 8 bits, which a factor of 5 or 30 multiplies.
        blends = name in ("contrast", "saturation", "sharpness")
        allowed = LEVEL * (1 + abs(row[0] - 1) * blends) + 1e-4
        spatial = TRANSFORMS[name].group == "spatial"
        assert (difference > allowed).mean() <= (0.05 if spatial else 0), row


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
@pytest.mark.parametrize("definition", [SOUND, PUBLISHED], ids=["sound", "published"])
def test_images_with_settings_of_their_own_are_as_those_with_one_setting(name, definition, pixels):
    chosen = TRANSFORMS[name]
    every = chosen.settings(None, definition)
    rows = every[np.linspace(0, len(every) - 1, len(pixels)).astype(int)]
    window, scale = (40, 40), SIDE / 256
    together = chosen(pixels, rows, definition, window, scale=scale)
    assert together.shape == (4, 3, 40, 40)
    for image, row, result in zip(pixels, rows, together, strict=True):
        alone = chosen(image[None], row[None], definition, window, scale=scale)
        torch.testing.assert_close(alone[0], result, atol=1e-5, rtol=0)


@pytest.mark.parametrize("beyond", get_args(warps.Beyond))
@pytest.mark.parametrize("interpolation", get_args(warps.Interpolation))
def test_many_images_with_one_map_are_read_as_each_by_itself(interpolation, beyond, pixels):
    many = pixels.repeat(3, 1, 1, 1) * torch.linspace(0.5, 1, 12).view(-1, 1, 1, 1)
    assert len(many) >= warps.SHARING > len(pixels)
    maps = warps.affine_matrices(angle=31.0, translate=(3.3, -20.0), scale=0.7)
    options = {"interpolation": interpolation, "beyond": beyond}
    together = warps.warp(warps.image_minor(many), maps, (40, 36), **options)
    alone = torch.cat([warps.warp(image[None], maps, (40, 36), **options) for image in many])
    # A place between two pixels may be rounded to either of them.
    differing = (together - alone).abs() > 1e-4
    assert differing.float().mean() < (0.01 if interpolation == "nearest" else 1e-9)


@pytest.mark.parametrize("name", sorted(set(TRANSFORMS) - {"resized_crop"}))
def test_the_crop_is_that_of_the_whole_transformed_image(name, pixels):
    chosen = TRANSFORMS[name]
    settings = chosen.settings(None, SOUND)[-1:]
    before = pixels.clone()
    whole = chosen(pixels, settings, SOUND, (SIDE, SIDE), scale=SIDE / 256)
    crop = chosen(pixels, settings, SOUND, (40, 40), scale=SIDE / 256)
    torch.testing.assert_close(crop, whole[..., 4:44, 4:44], atol=1e-5, rtol=0)
    assert torch.equal(pixels, before)


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
@pytest.mark.parametrize("definition", [SOUND, PUBLISHED], ids=["sound", "published"])
def test_exactly_the_identity_settings_change_nothing(name, definition, pixels):
    chosen = TRANSFORMS[name]
    settings = chosen.settings(None, definition)
    identity = chosen.is_identity(settings, definition)
    for number in {0, 1, len(settings) // 2, *np.flatnonzero(identity).tolist()}:
        row = settings[number : number + 1]
        result = chosen(pixels, row, definition, (SIDE, SIDE))
        same = result.shape == pixels.shape and bool(torch.isclose(result, pixels, atol=1e-5).all())
        assert same == identity[number], row


def test_published_grids_hold_the_published_settings():
    def settings(name):
        return TRANSFORMS[name].settings(None, PUBLISHED)

    def steps(low, high, count):
        return torch.linspace(low, high, count, dtype=torch.float64)

    a = steps(-16, 16, 17)[:16]
    assert np.allclose(settings("translation"), list(itertools.product(a, a)))
    a = steps(-160, 160, 17)[:16]
    assert np.allclose(settings("shear"), list(itertools.product(a, a)))
    a, b = steps(0, 0.25, 4) * 256, steps(0.75, 0.25, 4) * 256
    assert np.allclose(settings("resized_crop"), list(itertools.product(a, a, b, b)))
    assert np.allclose(settings("rotation")[:, 0], steps(0, 360, 257)[:256])
    assert np.allclose(settings("scale")[:, 0], steps(1 / 4, 2, 256))
    for name in ("brightness", "contrast", "saturation"):
        assert np.allclose(settings(name)[:, 0], steps(0.25, 5, 256))
    assert np.allclose(settings("hue")[:, 0], steps(-0.5, 0.5, 256))
    assert np.allclose(settings("blur")[:, 0], steps(1e-5, 20, 256))
    assert np.allclose(settings("sharpness")[:, 0], steps(1, 30, 256))
    sigmas = torch.linspace(10, 50, 8).to(int).repeat(32)
    assert np.array_equal(settings("deform")[:, 0], sigmas)
    assert np.array_equal(settings("posterize")[:, 0], np.arange(1, 8))
    for name in ("h_flip", "v_flip", "grayscale", "invert", "equalize"):
        assert np.array_equal(settings(name), [[0], [1]])


def test_sound_grids_are_symmetric_without_repetition_and_stay_inside():
    for name in ("translation", "shear"):
        settings = TRANSFORMS[name].settings(None, SOUND)
        assert np.allclose(settings[::-1], -settings)
    tangents = np.tan(np.radians(TRANSFORMS["shear"].settings(None, SOUND)))
    assert len(np.unique(tangents.round(9), axis=0)) == 256
    top, left, height, width = TRANSFORMS["resized_crop"].settings(None, SOUND).T
    assert min(top.min(), left.min()) == 0
    assert (top + height).max() == (left + width).max() == 256
    assert (top + height / 2).mean() == (left + width / 2).mean() == 128


def test_elastic_deformation_moves_pixels_smoothly_and_by_the_stated_amount():
    field = warps.smooth_fields(sigma=6.0, rms=STRAIN * 6.0, window=(64, 96), seed=3)
    assert field.square().mean(dim=(1, 2)).sqrt().tolist() == pytest.approx([2.1, 2.1], rel=1e-5)
    assert field.mean(dim=(1, 2)).abs().max() < 1e-5
    # The correlation of smoothed noise at distance d is exp(-d²/(4 sigma²)).
    moved = (field * field.roll(6, dims=2)).mean() / field.square().mean()
    assert moved == pytest.approx(np.exp(-0.25), abs=0.15)
    assert torch.equal(field, warps.smooth_fields(6.0, STRAIN * 6.0, (64, 96), 3))
    assert not torch.equal(field, warps.smooth_fields(6.0, STRAIN * 6.0, (64, 96), 4))


def test_a_displaced_image_is_the_image_read_at_the_displaced_places(pixels):
    field = torch.zeros(1, 2, SIDE, SIDE)
    field[:, 0], field[:, 1] = 3, -2  # read from the right and from above
    result = warps.displaced(pixels, field, (SIDE, SIDE))
    torch.testing.assert_close(result[..., 2:, :-3], pixels[..., :-2, 3:], atol=1e-5, rtol=0)


def test_the_seed_draws_the_deformations(pixels):
    chosen = TRANSFORMS["deform"]
    settings = chosen.settings(None, SOUND)[:1]
    for definition in (SOUND, PUBLISHED):
        other = Definition(**{**vars(definition), "seed": 1})
        first, again, second = (
            chosen(pixels, settings, one, (40, 40), scale=SIDE / 256)
            for one in (definition, definition, other)
        )
        assert torch.equal(first, again)
        assert not torch.allclose(first, second, atol=0.01)


def test_a_wide_blur_is_pillows_gaussian(pixels, images):
    result = recolouring.blur(pixels, np.full(4, 3.0), (SIDE, SIDE))[..., 12:-12, 12:-12]
    blurred = [np.asarray(image.filter(ImageFilter.GaussianBlur(3.0))) for image in images]
    expected = torch.from_numpy(np.stack(blurred)).permute(0, 3, 1, 2)[..., 12:-12, 12:-12] / 255
    assert (result - expected).abs().mean() < 1.5 * LEVEL  # Pillow's is three box filters


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_images_are_resized_as_by_pillow(mode, pixels, images):
    size = (21, 33)
    resample = Image.Resampling[mode.upper()]
    expected = np.stack([np.asarray(image.resize(size[::-1], resample)) for image in images])
    eight_bits = warps.resized_levels(recolouring.levels(pixels), size, mode)
    for result in (eight_bits, recolouring.levels(warps.resized(pixels, size, mode))):
        difference = result.permute(0, 2, 3, 1).numpy().astype(int) - expected
        assert np.abs(difference).max() <= 2  # Pillow rounds between both axes
    nearest = warps.resized_levels(recolouring.levels(pixels), (96, 96), "nearest")
    doubled = recolouring.levels(pixels).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert torch.equal(nearest, doubled)


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [
        ("translation", 10, "power of 2 for `translation`, but is 10; use 9"),
        ("resized_crop", 100, "power of 4 for `resized_crop`, but is 100; use 81"),
        ("grayscale", 256, "at most 2 for `grayscale`, but is 256; use 2 or null"),
        ("posterize", 8, "at most 7"),
    ],
)
def test_numbers_of_settings_that_a_transform_cannot_have_are_refused(name, count, message):
    with pytest.raises(ValueError, match=message):
        TRANSFORMS[name].settings(count, SOUND)


def test_the_names_are_those_of_the_transforms():
    assert list(get_args(Name)) == list(TRANSFORMS)
