"""``compose`` from Python, alone and where Hydra is initialised already."""

import contextlib
import shutil

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

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


def test_a_file_is_parsed_once_for_all_compositions(tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text("defaults: [_self_, {axis: one}]\nseed: 0\n")
    (tmp_path / "axis").mkdir()
    for name in ("one", "two"):
        (tmp_path / "axis" / f"{name}.yaml").write_text(f"name: {name}\n")
    parsed = []
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        (source,) = {type(one) for one in loader.get_sources() if one.scheme() == "file"}
        load = source.load_config
        monkeypatch.setattr(
            source,
            "load_config",
            lambda self, config_path: parsed.append(config_path) or load(self, config_path),
        )
        for name in ("one", "two", "one"):
            assert compose([f"axis={name}"])["axis"]["name"] == name
        assert sorted(parsed) == ["axis/one", "axis/two", "config"]
        (tmp_path / "axis" / "two.yaml").write_text("name: changed\n")
        assert compose(["axis=two"])["axis"]["name"] == "changed"
        assert sorted(parsed) == ["axis/one", "axis/two", "axis/two", "config"]


def test_a_recipe_s_file_is_found_by_way_of_a_folder_that_does_not_exist():
    config = compose(["recipe=bn_tuning/paper", "dataset=dtd", "protocol=bn_tune"])
    assert config["protocol"]["preprocessing"]["mean"] == [0.5327, 0.4751, 0.4259]
