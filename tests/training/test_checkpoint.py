"""A checkpoint is gone on from only where every byte and the training it belongs to are right."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from ssl_transfer.training import checkpoint
from ssl_transfer.training.checkpoint import Header

HEADER = Header("0123456789abcdef", "refit", 40, "data-1")
STATE = {"step": 3, "learner": {"weight": torch.arange(6.0)}, "scaler": {}, "observer": None}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    checkpoint.save(tmp_path / "checkpoint.pt", STATE, HEADER)
    return tmp_path / "checkpoint.pt"


def test_what_was_saved_comes_back(path: Path) -> None:
    saved = checkpoint.load(path, HEADER)
    assert saved is not None
    assert saved.keys() == STATE.keys()
    assert torch.equal(saved["learner"]["weight"], torch.arange(6.0))
    assert checkpoint.read_header(path) == HEADER
    assert [p.name for p in path.parent.iterdir()] == ["checkpoint.pt"]
    assert torch.load(path, weights_only=True)["step"] == 3  # what follows disturbs nobody


def test_no_flipped_byte_and_no_cut_is_accepted(path: Path) -> None:
    whole = path.read_bytes()
    accepted = []
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            accepted.append(checkpoint.read_header(path))
        except checkpoint.Unusable:
            continue
    for size in range(0, len(whole), 13):
        path.write_bytes(whole[:size])
        with pytest.raises(checkpoint.Unusable):
            checkpoint.read_header(path)
    assert accepted == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"run": "fedcba9876543210"}, "belongs to another run: 0123456789abcdef instead of fedc"),
        ({"steps": 41}, "belongs to a training of another length: 40 instead of 41"),
        ({"inputs": "data-2"}, "started from other data or other weights: data-1 instead of"),
    ],
)
def test_what_belongs_to_another_training_is_said_and_not_loaded(
    path: Path, caplog: pytest.LogCaptureFixture, change: dict[str, object], told: str
) -> None:
    header = dataclasses.replace(HEADER, **change)  # type: ignore[arg-type]
    assert checkpoint.load(path, header) is None
    assert told in caplog.text
    assert caplog.text.count("the training starts anew") == 1


def test_another_training_of_the_run_and_unknown_inputs_are_nothing_unusual(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert checkpoint.load(path, dataclasses.replace(HEADER, training="grid 1", steps=7)) is None
    assert checkpoint.load(path, dataclasses.replace(HEADER, inputs=None)) is not None
    assert checkpoint.load(path.with_name("missing.pt"), HEADER) is None
    assert caplog.text == ""


def test_a_newer_foreign_or_unreadable_file_is_said(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SCHEMA", 2)
    checkpoint.save(path, STATE, HEADER)
    monkeypatch.undo()
    assert checkpoint.load(path, HEADER) is None
    assert "it was written by a newer version" in caplog.text
    torch.save(STATE, path)
    assert checkpoint.load(path, HEADER) is None
    path.write_bytes(json.dumps({"step": 3}).encode())
    assert checkpoint.load(path, HEADER) is None
    assert caplog.text.count("was written by other code") == 2
    path.unlink()
    path.symlink_to(path.name)  # reading it fails, for root, too
    assert checkpoint.load(path, HEADER) is None
    path.unlink()
    path.mkdir()
    assert checkpoint.load(path, HEADER) is None
    assert caplog.text.count("the training starts anew") == 5
    checkpoint.save(path, STATE, HEADER)  # what is in the way is set aside
    assert checkpoint.load(path, HEADER) is not None
