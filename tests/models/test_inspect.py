"""Inspection of the folders that runs leave; files are inspected in ``test_layouts.py``."""

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
    node = resolve(plain(compose(["model=small_resnet", "model.width=4"])))["model"]
    encoder = models.build(node)
    models.save_encoder(encoder, tmp_path, config=node, parents=["0a1b", "small_resnet-simclr"])
    save_head(Head(build_head("mlp", encoder.feature_dim, 3), "mlp", ("a", "b", "c")), tmp_path)
    assert inspect.main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert f"use           model=small_resnet model.weights.path={tmp_path}\n" in text
    assert "classifier    mlp, 3 classes (a, b, c)\n" in text
    assert "from          0a1b, small_resnet-simclr\n" in text


def test_a_head_alone_and_a_foreign_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inspect.main([str(tmp_path)]) == 1
    assert "has neither; name a file" in capsys.readouterr().err
    save_head(Head(nn.Linear(4, 2)), tmp_path)
    assert inspect.main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "classifier    linear, 2 classes\n" in text
    assert "encoder" not in text
