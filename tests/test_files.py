import errno

import pytest

from ssl_transfer.files import replace_atomically, write_atomically


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
