"""``compose`` from Python, alone and where Hydra is initialised already."""

import contextlib
import shutil

import pytest
from hydra import initialize_config_dir

from ssl_transfer.config import CONF, compose, composition


@pytest.mark.parametrize("inside", [False, True], ids=["from Python", "inside Hydra"])
def test_an_edited_file_is_read_again(tmp_path, monkeypatch, inside):
    shutil.copytree(CONF, tmp_path / "conf")
    monkeypatch.setattr(composition, "CONF", tmp_path / "conf")
    composition._loader.cache_clear()
    with contextlib.ExitStack() as stack:
        if inside:
            folder = str(tmp_path / "conf")
            stack.enter_context(initialize_config_dir(folder, version_base="1.3"))
        assert compose(["protocol=knn"])["protocol"]["k"] == 200
        file = tmp_path / "conf" / "protocol" / "knn.yaml"
        file.write_text(file.read_text().replace("k: 200", "k: 100"))
        assert compose(["protocol=knn"])["protocol"]["k"] == 100
    composition._loader.cache_clear()
