import os

import pytest
from folders import fill, noise
from PIL import Image, features

from ssl_transfer.datasets.folder import image_folder, unlabelled_folder
from ssl_transfer.datasets.walk import EXTENSIONS, LeftOut, images_below


def test_formats_that_pillow_decodes_are_read(tmp_path) -> None:
    formats = {
        "jfif": "JPEG",
        "jpe": "JPEG",
        "tga": "TGA",
        "pcx": "PCX",
        "qoi": "QOI",
        "PBM": "PPM",
    }
    if features.check("avif"):
        formats["avif"] = "AVIF"
    if features.check("jpg_2000"):
        formats["jp2"] = "JPEG2000"
    for extension, form in formats.items():
        noise(extension).save(tmp_path / f"x.{extension}", form)
    written = sorted(path.name for path in tmp_path.iterdir())
    dataset = unlabelled_folder(root=str(tmp_path), name="mine")
    assert list(dataset["train"].names) == written
    assert {image.size for image in dataset["train"].images} == {(5, 4)}


def test_every_extension_is_known_to_pillow() -> None:
    Image.init()
    assert set(EXTENSIONS) <= {
        extension for extension, form in Image.registered_extensions().items() if form in Image.OPEN
    }


def test_what_is_not_read_is_told_in_one_sentence(tmp_path, caplog) -> None:
    fill(tmp_path, 3)
    for name in ("a.heic", "b.heic", "notes.txt", "nothing"):
        (tmp_path / "ant" / name).write_text("")
    (tmp_path / "ant" / "broken.png").symlink_to("gone.png")
    (tmp_path / "ant" / "again.png").symlink_to("1.png")
    (tmp_path / "bee" / "circle").symlink_to(tmp_path / "bee")
    os.mkfifo(tmp_path / "bee" / "pipe.png")
    noise("thumbnail").save(tmp_path / "bee" / ".hidden.png")
    (tmp_path / "bee" / "@eaDir" / "0.png").mkdir(parents=True)
    noise("thumbnail").save(tmp_path / "bee" / "@eaDir" / "0.png" / "SYNOPHOTO_THUMB_M.jpg")
    noise("loose").save(tmp_path / "loose.png")
    dataset = image_folder(root=str(tmp_path), name="mine")
    assert sum(len(split) for split in dataset.splits.values()) == 6
    (line,) = [record for record in caplog.records if "not read" in record.message]
    assert line.levelname == "WARNING"
    for part in (
        "`.heic` files: 2 (`ant/a.heic`, `ant/b.heic`)", "`.txt` files: 1",
        "files without an extension: 1 (`ant/nothing`)", "links that lead nowhere: 1",
        "further names of the same file: 1 (`ant/again.png`)",
        "links to a folder that is read already: 1 (`bee/circle`)", "things that are no files: 1",
        "folders of the operating system: 1 (`bee/@eaDir`)",
        "folders with images beside the class folders: 1",
    ):  # fmt: skip
        assert part in line.message


def test_notes_beside_images_are_no_warning(tmp_path, caplog) -> None:
    fill(tmp_path)
    (tmp_path / "ant" / "readme.txt").write_text("")
    image_folder(root=str(tmp_path), name="mine")
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_folder_that_cannot_be_opened_is_told(tmp_path, monkeypatch) -> None:
    fill(tmp_path, 1)
    scandir = os.scandir

    def closed(path):  # the superuser may open every folder
        if str(path).endswith("bee"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    left_out = LeftOut(tmp_path)
    assert images_below(tmp_path, left_out) == [str(tmp_path / "ant" / "0.png")]
    assert str(left_out) == "folders that cannot be opened: Permission denied: 1 (`bee`)"
    with pytest.raises(ValueError, match=r"bee` must be .* can be opened, but cannot \(Permission"):
        image_folder(root=str(tmp_path), name="mine")


def test_of_several_names_of_a_file_the_first_counts(tmp_path) -> None:
    noise("x").save(tmp_path / "m.png")
    (tmp_path / "z.png").symlink_to("m.png")
    os.link(tmp_path / "m.png", tmp_path / "a.png")
    left_out = LeftOut(tmp_path)
    assert images_below(tmp_path, left_out, links_once=True) == [str(tmp_path / "a.png")]
    assert left_out.names["further names of the same file"] == ["m.png", "z.png"]
    assert len(images_below(tmp_path, LeftOut(tmp_path))) == 3
