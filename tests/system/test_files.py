import errno
import json
import re
from pathlib import Path

import pytest

from ssl_transfer.system import files
from ssl_transfer.system.files import replace_atomically, write_atomically


def test_a_failed_write_leaves_the_older_file_and_nothing_else(tmp_path):
    path = tmp_path / "record.json"
    write_atomically(path, b"old")

    def fail(file):
        file.write(b"half of the n")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="space left") as caught:
        replace_atomically(path, fail)
    assert "record.json" in str(caught.value)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_a_full_disk_is_reported_when_it_is_met():
    # /dev/full is Linux's own full disk.
    with pytest.raises(OSError, match="No space left"), open("/dev/full", "wb", 0) as file:  # noqa: PTH123
        file.write(b"x")


def test_a_user_without_a_home_gets_a_folder_for_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files.own_folder("XDG_CACHE_HOME", ".cache") == tmp_path
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.own_folder("XDG_CACHE_HOME", ".cache") == tmp_path / ".cache"

    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    mine = files.own_folder("XDG_CACHE_HOME", ".cache")
    assert mine == files.own_folder("XDG_CACHE_HOME", ".cache")
    assert mine.stat().st_mode & 0o777 == 0o700


WHOLE = {"schema": 1, "scores": [0.5, 1e-9], "names": {"a": None, "ü": [True, "x"]}}


def test_json_comes_back_and_every_flipped_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    files.write_json(path, WHOLE)
    assert files.read_json(path, schema=1, sealed=True) == WHOLE
    assert files.read_json(tmp_path / "missing.json") is None
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True, indent=7))
    assert files.read_json(path, sealed=True) == WHOLE  # another layout is no damage
    files.write_json(path, WHOLE)
    whole = path.read_bytes()
    changed = 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            changed += files.read_json(path, sealed=True) != WHOLE
        except files.Unreadable:
            continue
    assert changed == 0


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "it is empty"),
        (b"{", "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"[1]", "it is not a JSON object"),
        (b"null", "it is not a JSON object"),
        (b'{"schema": 2}', "has schema 2, but this version reads up to 1; update"),
        (b'{"schema": "1"}', "its schema is '1'"),
        (b'{"schema": true}', "its schema is True"),
        (b'{"checksum": "0"}', "its checksum is wrong"),
    ],
)
def test_what_is_no_file_of_ours_is_said(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(files.Unreadable, match=re.escape(told)):
        files.read_json(path, schema=1)


def test_what_is_in_the_way_is_set_aside_and_not_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "record.json"
    path.mkdir()
    (path / "mine").touch()
    with pytest.raises(files.Unreadable, match="Is a directory"):
        files.read_json(path)
    files.write_json(path, WHOLE)
    assert files.read_json(path) == WHOLE
    (aside,) = tmp_path.glob("record.json.unreadable-*")
    assert (aside / "mine").exists()
    assert "was moved out of the way" in caplog.text
    path.unlink()
    path.symlink_to(path.name)
    with pytest.raises(files.Unreadable):
        files.read_json(path)
    files.write_json(path, WHOLE)
    assert files.read_json(path) == WHOLE
