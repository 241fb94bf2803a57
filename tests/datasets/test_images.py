import numpy as np
import pytest
from PIL import Image

from ssl_transfer.datasets.base import Split, concatenate
from ssl_transfer.datasets.decoding import Decoding, read_rgb, to_rgb
from ssl_transfer.datasets.images import ArrayImages, FileImages

RAMP = np.linspace(0, 255, 12).reshape(3, 4).round().astype(np.uint8)


def grey_of(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    pixels = np.asarray(image)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def test_sixteen_bit_grey_keeps_its_brightness(tmp_path) -> None:
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert (grey_of(read_rgb(tmp_path / "deep.png")) == RAMP).all()
    assert (grey_of(to_rgb(Image.fromarray(RAMP.astype(np.int32) * 257))) == RAMP).all()


def test_grey_bilevel_and_palette_become_rgb() -> None:
    assert (grey_of(to_rgb(Image.fromarray(RAMP))) == RAMP).all()
    assert set(grey_of(to_rgb(Image.fromarray(RAMP).convert("1"))).ravel()) <= {0, 255}
    palette = Image.new("P", (1, 1), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert to_rgb(palette).getpixel((0, 0)) == (10, 20, 30)


def test_transparent_pixels_show_white() -> None:
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    image.putpixel((1, 0), (200, 0, 0, 0))
    assert [to_rgb(image).getpixel((x, 0)) for x in (0, 1)] == [(10, 20, 30), (255, 255, 255)]
    grey = Image.new("LA", (1, 1), (0, 0))
    assert to_rgb(grey).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (1, 1), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.info["transparency"] = 1
    assert to_rgb(palette).getpixel((0, 0)) == (255, 255, 255)


def test_cmyk_becomes_rgb(tmp_path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=95)
    red, green, blue = read_rgb(tmp_path / "red.jpg").getpixel((4, 4))
    assert red > 240
    assert max(green, blue) < 15


def test_photographs_are_turned_upright(tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    Image.fromarray(RAMP).save(tmp_path / "lying.png", exif=exif)
    assert (grey_of(read_rgb(tmp_path / "lying.png")) == np.rot90(RAMP, -1)).all()
    assert (grey_of(read_rgb(tmp_path / "lying.png", Decoding(upright=False))) == RAMP).all()


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown range"):
        to_rgb(Image.fromarray(np.zeros((2, 2), np.float32)))


def test_a_file_that_vanishes_is_named(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"gone\.png` must be an image that decodes"):
        FileImages([str(tmp_path / "gone.png")])[0]


def numbered(start: int, count: int) -> Split:
    values = np.arange(start, start + count)
    pixels = np.broadcast_to(values[:, None, None, None], (count, 1, 1, 3)).astype(np.uint8)
    return Split(ArrayImages(pixels), values.astype(np.int64), [f"{v}" for v in values])


def test_subsets_and_sums_keep_images_targets_and_names_together() -> None:
    both = (numbered(0, 5) + numbered(50, 3)).subset([7, 0, 5]) + numbered(90, 1)
    assert both.targets.tolist() == [52, 0, 50, 90]
    assert [image.getpixel((0, 0))[0] for image in both.images] == [52, 0, 50, 90]
    assert list(both.names) == ["52", "0", "50", "90"]
    assert both.images[-1].getpixel((0, 0))[0] == 90
    assert len(both.images[1:3]) == 2
    with pytest.raises(IndexError):
        both.images[4]
    assert len(concatenate(numbered(0, 2), numbered(0, 0), numbered(9, 1))) == 3
