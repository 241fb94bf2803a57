from pathlib import Path

import pytest

from ssl_transfer.datasets.nearest import contents, existing_folder, nearest


def test_a_mistyped_path_is_answered_with_what_lies_nearest(tmp_path) -> None:
    (tmp_path / "data" / "birds").mkdir(parents=True)
    (tmp_path / "data" / "cars").mkdir()
    assert nearest(tmp_path / "data" / "brids") == (
        f" (the nearest folder `{tmp_path / 'data'}` has `birds`)"
    )
    assert nearest(tmp_path / "data" / "xyz" / "deep") == (
        f" (the nearest folder `{tmp_path / 'data'}` has `birds`, `cars`)"
    )
    assert nearest(tmp_path / "data" / "cars" / "x") == (
        f" (the nearest folder `{tmp_path / 'data' / 'cars'}` is empty)"
    )
    with pytest.raises(ValueError, match=r"`dataset.root` must be .*Birds` does not.*`birds`"):
        existing_folder("dataset.root", tmp_path / "data" / "Birds", "a folder")


@pytest.mark.parametrize(("path", "told"), [("", "is empty"), (__file__, "is a file")])
def test_what_is_no_folder_is_refused(path: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        existing_folder("dataset.root", path, "a folder")


def test_the_home_folder_is_known(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert existing_folder("dataset.root", "~", "a folder") == Path(tmp_path)


def test_what_lies_in_a_folder_is_said(tmp_path) -> None:
    assert contents(tmp_path) == " (it is empty)"
    for name in ("1.png", "2.png", ".hidden"):
        (tmp_path / name).touch()
    assert contents(tmp_path) == " (it holds `1.png`, `2.png`)"
    (tmp_path / "birds.tar.gz").touch()
    assert contents(tmp_path) == " (`birds.tar.gz` must be unpacked first)"
