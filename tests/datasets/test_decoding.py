"""Files of every kind become the RGB that a person sees, or are refused by name."""

import io
import logging
import os
import random
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_transfer.datasets import decoding, files
from ssl_transfer.datasets.base import Dataset
from ssl_transfer.datasets.decoded import decode_once
from ssl_transfer.datasets.decoding import Decoding, Facts, decode, decoding_of, to_levels
from ssl_transfer.datasets.folder import image_folder
from ssl_transfer.datasets.images import FileImages

RAMP = np.linspace(0, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)
WHITE = (255, 255, 255)


def saved(image: Image.Image, kind: str, **keys: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **keys)
    return buffer.getvalue()


def pixels(data: bytes, how: Decoding | None = None) -> np.ndarray:
    image, _ = decode(data, how or Decoding())
    assert image.mode == "RGB"
    return np.asarray(image)


def png(bits: int, colour_type: int, rows: np.ndarray, *, tRNS: bytes = b"") -> bytes:
    """Return a PNG file of kinds that Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    height, width = rows.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    raw = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in rows)
    extra = chunk(b"tRNS", tRNS) if tRNS else b""
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(values: np.ndarray, **tags: int) -> bytes:
    """Return a little-endian TIFF of grey values, or of channels one after the other."""
    kinds = {"u": 1, "i": 2, "f": 3}
    height, width = values.shape[-2:]
    channels = len(values) if values.ndim == 3 else 1
    bits = 8 * values.dtype.itemsize
    content = values.astype(values.dtype.newbyteorder("<")).tobytes()
    size = len(content) // channels
    entries = {
        256: width, 257: height, 258: bits, 259: 1, 262: 1 if channels == 1 else 2, 273: 8,
        277: channels, 278: height, 279: size, 284: 2 if channels > 1 else 1,
        339: kinds[values.dtype.kind], **{int(tag[1:]): value for tag, value in tags.items()},
    }  # fmt: skip
    tail, fields, offset = b"", b"", 8 + len(content)
    for tag, value in sorted(entries.items()):
        if channels > 1 and tag in (258, 273, 279, 339):
            many = [8 + n * size for n in range(channels)] if tag == 273 else [value] * channels
            fields += struct.pack("<HHII", tag, 4, channels, offset + len(tail))
            tail += struct.pack(f"<{channels}I", *many)
        else:
            fields += struct.pack("<HHII", tag, 4, 1, value)
    directory = struct.pack("<H", len(entries)) + fields + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", offset + len(tail)) + content + tail + directory


# ---- more than 8 bits ---------------------------------------------------------------------------


def test_the_default_range_is_the_exact_division_by_257() -> None:
    values = np.arange(65536)[None]
    assert (to_levels(values, (0, 65535)) == (values + 128) // 257).all()


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "uint32", "float32"])
def test_a_range_spreads_the_values_over_all_levels(dtype: str) -> None:
    expected = np.floor(RAMP * (255 / 4095) + 0.5)
    found = pixels(tiff(RAMP.astype(dtype)), decoding_of([0, 4095]))
    assert (found == expected[..., None]).all()
    assert len(np.unique(found)) == 256


def test_big_endian_and_white_is_zero() -> None:
    deep = Image.fromarray(RAMP * 16)
    plain = pixels(saved(deep, "PNG"))
    big = saved(Image.fromarray((RAMP * 16).astype(">u2")), "TIFF")
    assert big[:2] == b"MM"
    assert (pixels(big) == plain).all()
    assert (pixels(tiff(RAMP * 16, t262=0)) == 255 - plain).all()


def test_floating_point_pixels_need_a_range_and_must_be_finite() -> None:
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    with pytest.raises(ValueError, match=r"here 0 to 1.*dataset\.value_range=.*such as \[0,1\]"):
        pixels(tiff(values))
    assert (pixels(tiff(values), decoding_of([0, 1]))[..., 0] == np.rint(values * 255)).all()
    values[1, 1] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        pixels(tiff(values), decoding_of([0, 1]))


@pytest.mark.parametrize("wrong", [[1], [0, 1, 2], [5, 5], [9, 0], [0, float("nan")], []])
def test_a_wrong_range_is_refused(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match=r"dataset\.value_range. must be null or two finite"):
        decoding_of(wrong)


def test_what_pillow_misreads_is_refused() -> None:
    colour = np.full((3, 4, 4), 3000, np.uint16)
    with pytest.raises(ValueError, match="separate planes"):
        pixels(tiff(colour))
    with pytest.raises(ValueError, match="signed 8-bit"):
        pixels(tiff(np.full((4, 4), -1, np.int8)))
    with pytest.raises(ValueError, match="only the upper 8 bits"):
        pixels(png(16, 2, np.full((2, 2, 3), 3000)), decoding_of([0, 4095]))


# ---- transparency and orientation ---------------------------------------------------------------


def transparent() -> dict[str, bytes]:
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.putpixel((1, 0), 0)
    palette_alpha = palette.copy()
    palette_alpha.putalpha(Image.fromarray(np.array([[0, 255]], np.uint8)))
    layered = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    layered.putpixel((1, 0), (0, 0, 0, 255))
    rows16 = np.array([[3000, 0]])
    return {
        "P, one colour": saved(palette, "PNG", transparency=1),
        "P, alphas": saved(palette, "PNG", transparency=b"\xff\x00"),
        "GIF": saved(palette, "GIF", transparency=1),
        "L": saved(Image.fromarray(np.array([[7, 0]], np.uint8)), "PNG", transparency=7),
        "1": saved(Image.fromarray(np.array([[True, False]])), "PNG", transparency=1),
        "RGB": saved(layered.convert("RGB"), "PNG", transparency=(10, 20, 30)),
        "16-bit grey": png(16, 0, rows16, tRNS=struct.pack(">H", 3000)),
        "RGBA": saved(layered, "PNG"),
        "LA": saved(layered.convert("LA"), "PNG"),
        "PA": saved(palette_alpha, "TIFF"),
        "WebP": saved(layered, "WEBP", lossless=True),
    }


@pytest.mark.parametrize("kind", transparent())
def test_transparent_pixels_show_white_and_others_their_colour(kind: str) -> None:
    found = pixels(transparent()[kind])[0]
    assert tuple(found[0]) == WHITE
    assert tuple(found[1]) == (0, 0, 0)


def test_sixteen_bit_colour_with_a_transparent_colour_shows_white() -> None:
    rows = np.array([[[3000, 3000, 3000], [0, 0, 0]]])
    found = pixels(png(16, 2, rows, tRNS=struct.pack(">HHH", 3000, 3000, 3000)))[0]
    assert [tuple(pixel) for pixel in found] == [WHITE, (0, 0, 0)]


def with_exif(data: bytes, *entries: tuple[int, int, int, bytes]) -> bytes:
    """Return a JPEG file with these tags (number, type, count, value)."""
    packed = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + packed + struct.pack("<I", 0)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


@pytest.mark.parametrize(
    "odd",
    [
        (0x011A, 2, 4, b"72/1"),  # a resolution as text
        (0x0103, 4, 1, b"\xff\xff\xff\xff"),  # a compression out of its range
        (0x8769, 2, 4, b"abc\0"),  # a text where there should be a directory
    ],
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_counts_alone(orientation: int, odd: tuple[int, int, int, bytes]) -> None:
    plain = saved(Image.fromarray(np.arange(96, dtype=np.uint8).reshape(8, 12)), "JPEG")
    lying = pixels(plain)
    turned = [
        lying, lying[:, ::-1], lying[::-1, ::-1], lying[::-1], lying.transpose(1, 0, 2),
        np.rot90(lying, -1), np.rot90(lying[::-1, ::-1].transpose(1, 0, 2), 0), np.rot90(lying),
    ][orientation - 1]  # fmt: skip
    value = struct.pack("<I", orientation)
    entries = sorted([odd, (0x0112, 3, 1, value)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert (pixels(with_exif(plain, *entries)) == turned).all()
        assert (pixels(with_exif(plain, *entries), Decoding(upright=False)) == lying).all()


@pytest.mark.parametrize(("kind", "value"), [(2, b"6\0\0\0"), (3, b"\x63\0\0\0"), (7, b"abcd")])
def test_an_orientation_that_is_none_is_ignored(kind: int, value: bytes) -> None:
    plain = saved(Image.fromarray(np.arange(96, dtype=np.uint8).reshape(8, 12)), "JPEG")
    assert (pixels(with_exif(plain, (0x0112, kind, 1, value))) == pixels(plain)).all()


# ---- the check of files ------------------------------------------------------------------------


def test_the_check_of_damaged_files_says_what_decoding_says() -> None:
    chance = random.Random(0)
    photo = Image.fromarray(np.kron(np.arange(144).reshape(12, 12), np.ones((8, 8))).astype("u1"))
    kinds = {"JPEG": {"progressive": True}, "PNG": {}, "GIF": {}, "TIFF": {}, "WEBP": {}, "BMP": {}}
    whole = [saved(photo.convert("RGB"), kind, **keys) for kind, keys in kinds.items()]
    whole.append(saved(photo.convert("CMYK"), "JPEG"))
    verdicts = {True: 0, False: 0}
    for _ in range(300):
        data = bytearray(chance.choice(whole))
        for _ in range(chance.choice([0, 1, 3, 10])):
            data[chance.randrange(min(len(data), chance.choice([64, 400, 10**6])))] ^= 0x55
        if chance.random() < 0.3:
            del data[chance.randrange(len(data)) :]
        outcomes = []
        for checking in (True, False):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    decode(bytes(data), Decoding(), checking=checking)
                    outcomes.append(True)
                except ValueError:
                    outcomes.append(False)
        assert outcomes[0] == outcomes[1]
        verdicts[outcomes[0]] += 1
    assert min(verdicts.values()) > 50


def test_a_script_in_an_images_place_is_not_started() -> None:
    with pytest.raises(ValueError, match="not an image"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", Decoding())


def make_set(
    root: Path, image: Callable[[int], Image.Image], kind: str = "png", **keys: object
) -> Path:
    for number in range(10):
        path = root / "ab"[number // 5] / f"{number}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image(number).save(path, **keys)
    return root


def grey(number: int) -> Image.Image:
    return Image.new("L", (4, 4), number)


def read(root: Path, **keys: object) -> Dataset:
    return image_folder(name=root.name, root=str(root), **keys)


def deep(factor: float = 1.0) -> Callable[[int], Image.Image]:
    return lambda number: Image.fromarray((np.roll(RAMP, number) * factor).astype(np.uint16))


def test_twelve_of_sixteen_bits_are_said_once_with_the_range_that_helps(tmp_path, caplog) -> None:
    root = make_set(tmp_path / "twelve", deep())
    read(root)
    read(root, split_seed=3)
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    (told,) = [text for text in warned if "16" in text or "8 bits" in text]
    assert "values from 0 to 4095, so that at most 17 of 256 grey levels are left" in told
    assert "set dataset.value_range=[0,4095]" in told
    caplog.clear()
    dataset = read(root, value_range=[0, 4095])
    assert "8 bits" not in caplog.text
    assert len(np.unique(np.asarray(dataset["train"].images[0]))) == 256
    assert dataset.fingerprint != read(root).fingerprint


def test_values_beyond_the_range_and_a_range_without_effect_are_said(tmp_path, caplog) -> None:
    read(make_set(tmp_path / "beyond", deep(16)), value_range=[0, 4095])
    assert "values outside of [0,4095] are clipped" in caplog.text
    read(make_set(tmp_path / "plain", grey), value_range=[0, 4095])
    assert "has no effect on `plain`" in caplog.text


def test_the_full_range_of_sixteen_bits_needs_no_word(tmp_path, caplog) -> None:
    read(make_set(tmp_path / "full", deep(16)))
    assert "8 bits" not in caplog.text


def test_files_of_several_pictures_give_the_first_and_are_said_once(tmp_path, caplog) -> None:
    def red_first(number: int) -> Image.Image:
        return Image.new("RGB", (4, 4), (255 - number, 0, 0))

    more = [Image.new("RGB", (4, 4), "blue")]
    keys = {"save_all": True, "append_images": more, "lossless": True}
    for kind in ("gif", "tiff", "png", "webp"):
        root = make_set(tmp_path / kind, red_first, kind, **keys)
        red, _, blue = read(root)["train"].images[0].getpixel((0, 0))
        assert red > 240
        assert blue < 15
        assert f"of 10 files of `{kind}` with several pictures" in caplog.text


def test_an_unreadable_file_is_looked_at_again(tmp_path, monkeypatch) -> None:
    root = make_set(tmp_path / "locked", grey)
    plain = files.read_bytes

    def refused(path: str, span: None) -> tuple[bytes, os.stat_result]:
        if path.endswith("3.png"):
            raise PermissionError(13, "Permission denied")
        return plain(path, span)

    monkeypatch.setattr(files, "read_bytes", refused)
    with pytest.raises(ValueError, match=r"1 of 10 do not: .*3\.png \(Permission denied\)"):
        read(root)
    monkeypatch.undo()
    assert len(read(root)["test"]) == 2


# ---- large images ------------------------------------------------------------------------------


def test_large_jpeg_is_read_at_a_reduced_size_and_others_are_refused(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(decoding, "MAX_PIXELS", 5000)
    image = Image.new("RGB", (160, 120), (200, 30, 30))
    shown, facts = decode(saved(image, "JPEG"), Decoding())
    assert (shown.size, facts) == ((80, 60), Facts(reduced=(160, 120)))
    assert decode(saved(image, "JPEG"), Decoding(), checking=True)[1].reduced == (160, 120)
    for kind in ("PNG", "TIFF", "BMP", "GIF", "WEBP"):
        with pytest.raises(ValueError, match=f"160x120 pixels, and {kind} is decoded whole"):
            decode(saved(image, kind), Decoding())


def test_a_bomb_is_refused_in_a_sentence(monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    with pytest.raises(ValueError, match="more than twice 89 million pixels; shrink it"):
        decode(saved(Image.new("L", (200, 100)), "PNG"), Decoding())


def test_bands_give_the_same_pixels(monkeypatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (37, 23, 4)).astype(np.uint8)
    data = [saved(Image.fromarray(noise), "PNG"), saved(Image.fromarray(RAMP), "PNG")]
    whole = [pixels(one) for one in data]
    monkeypatch.setattr(decoding, "_BAND", 100)
    for one, expected in zip(data, whole, strict=True):
        assert (pixels(one) == expected).all()


# ---- stored pixels -----------------------------------------------------------------------------


def test_stored_pixels_are_those_of_their_range(tmp_path) -> None:
    root = make_set(tmp_path / "stored", deep())
    for value_range in (None, [0, 4095], [0, 1023]):
        dataset = read(root, value_range=value_range)
        stored = decode_once(dataset, tmp_path / "pixels", "always", progress_bar=False)
        for key in ("train", "test"):
            for direct, kept in zip(dataset[key].images, stored[key].images, strict=True):
                assert direct.tobytes() == kept.tobytes()
    assert len(list((tmp_path / "pixels").glob("*/pixels"))) == 3


def test_a_file_without_enough_memory_is_named(tmp_path, monkeypatch) -> None:
    def short(*_: object, **__: object) -> None:
        raise MemoryError

    path = tmp_path / "large.png"
    path.write_bytes(saved(Image.new("L", (4, 4)), "PNG"))
    monkeypatch.setattr(decoding, "_decode", short)
    with pytest.raises(ValueError, match=r"large\.png` must fit into memory"):
        FileImages([str(path)])[0]
    assert files._look(str(path), Decoding()).passing
