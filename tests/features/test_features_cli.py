"""``python -m ssl_transfer.features``."""

import numpy as np
import pytest

from ssl_transfer.features import FeatureStore, partial_array
from ssl_transfer.features.__main__ import main

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def fill(folder):
    identity = {"weights": "abcdef012345", "dataset": "toy", "split": "test", "precision": "fp32"}
    store = FeatureStore(folder)
    store.get(identity, 4, lambda indices: iter([(indices, ROWS[indices])]))
    return store.path(identity)


def test_the_store_lists_its_arrays_and_unfinished_extractions(tmp_path, capsys):
    fill(tmp_path)
    partial = partial_array.PartialArray(tmp_path / f"{'0' * 32}.partial", {"dataset": "other"}, 4)
    partial.folder.mkdir()
    partial.fill(lambda indices: iter([(indices[:1], ROWS[:1])]))
    assert main(["list", "--folder", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "other/?" in lines[0]
    assert "[1 of 4 images, interrupted]" in lines[0]
    assert "4x3  toy/test, weights abcdef01, fp32  [stored]" in lines[1]
    assert lines[2].startswith("2 arrays")


def test_verify_names_the_damaged_arrays(tmp_path, capsys):
    path = fill(tmp_path)
    assert main(["verify", "--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "all 1 arrays are intact\n"
    content = bytearray(path.read_bytes())
    content[130] ^= 1
    path.write_bytes(content)
    assert main(["verify", "--folder", str(tmp_path)]) == 1
    assert f"`{path}` is damaged (its checksum does not fit)" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["list", "verify"])
def test_a_store_that_does_not_exist_is_one_sentence(tmp_path, capsys, command):
    assert main([command, "--folder", str(tmp_path / "none")]) == 1
    assert "must be the folder of a feature store, but does not exist" in capsys.readouterr().out
