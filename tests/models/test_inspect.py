"""Inspection of the folders that runs leave; files are inspected in ``test_layouts.py``."""

import json
import shlex
from pathlib import Path

import pytest
from torch import nn

from ssl_transfer import models
from ssl_transfer.config import compose, plain, resolve
from ssl_transfer.models import inspect
from ssl_transfer.models.heads import Head, build_head, save_head


def test_the_folder_of_a_run_tells_how_to_use_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ["model=small_resnet", "model.width=4", "model.preprocessing.size=16"]
    node = resolve(plain(compose(keys)))["model"]
    encoder = models.build(node)
    models.save_encoder(encoder, tmp_path, config=node, parents=["0a1b", "small_resnet-simclr"])
    save_head(Head(build_head("mlp", encoder.feature_dim, 3), "mlp", ("a", "b", "c")), tmp_path)
    assert inspect.main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    (line,) = (line for line in text.splitlines() if line.startswith("use "))
    used = shlex.split(line)[1:]
    assert used == [*keys, f"model.weights.path={tmp_path}"]
    loaded = models.build(resolve(plain(compose(used)))["model"])
    assert models.fingerprint(loaded) == models.fingerprint(encoder)
    assert loaded.preprocessing == encoder.preprocessing
    assert "classifier    mlp, 3 classes (a, b, c)\n" in text
    assert "from          0a1b, small_resnet-simclr\n" in text


def test_keys_of_an_option_with_a_computed_name_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ["model=timm", "model.arch=test_resnet"]
    config = plain(compose([*keys, "+model.preprocessing.mean=[0.5,0.25,0.5]"]))
    encoder = models.build(resolve(config)["model"])
    # A pre-training saves the node before its interpolations are resolved.
    models.save_encoder(encoder, tmp_path, config=config["model"], parents=[])
    assert inspect.main([str(tmp_path)]) == 0
    expected = " ".join([*keys, "+model.preprocessing.mean=[0.5,0.25,0.5]"])
    assert f"use           {expected} model.weights.path=" in capsys.readouterr().out


def test_a_record_alone_tells_what_the_run_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"protocol": "knn", "model": "m", "dataset": "birds", "seed": 3, "status": "finished"}
    (tmp_path / "record.json").write_text(json.dumps({**names, "encoder": {"label": "m-simclr"}}))
    assert inspect.main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "run           knn of m-simclr on birds, seed 3, finished\n" in text
    assert "encoder       none was left" in text


def test_a_head_alone_and_a_foreign_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inspect.main([str(tmp_path)]) == 1
    assert "has none of them; name a file" in capsys.readouterr().err
    save_head(Head(nn.Linear(4, 2)), tmp_path)
    assert inspect.main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "classifier    linear, 2 classes\n" in text
    assert "encoder" not in text
