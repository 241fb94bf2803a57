"""Saved heads: read as they were written, byte by byte the same, and refused when damaged."""

import json
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import save_file

from ssl_transfer.models.heads import HEAD_FILE, Head, HeadKind, build_head, load_head, save_head


@pytest.mark.parametrize("kind", get_args(HeadKind))
def test_a_head_is_read_as_it_was_written(tmp_path: Path, kind: HeadKind) -> None:
    head = Head(build_head(kind, 5, 3).eval(), kind, ("a", "ä", "c"), "classes")
    save_head(head, tmp_path)
    again = load_head(tmp_path, 5)
    assert again is not None
    assert (again.kind, again.classes, again.target, again.outputs) == (
        kind, ("a", "ä", "c"), "classes", 3
    )  # fmt: skip
    features = torch.rand(4, 5)
    assert torch.equal(again.layers(features), head.layers(features))
    first = (tmp_path / HEAD_FILE).read_bytes()
    for _ in range(5):  # no random order of the description
        save_head(head, tmp_path)
        assert (tmp_path / HEAD_FILE).read_bytes() == first


def test_no_file_is_no_head_and_older_files_have_no_names(tmp_path: Path) -> None:
    assert load_head(tmp_path, 5) is None
    save_file(build_head("linear", 5, 3).state_dict(), tmp_path / HEAD_FILE, {"head": "linear"})
    head = load_head(tmp_path, 5)
    assert head is not None
    assert (head.kind, head.classes, head.outputs) == ("linear", None, 3)


@pytest.mark.parametrize(
    "description",
    [None, "", "{", "[1]", json.dumps({"kind": "none"}),
     json.dumps({"kind": "linear", "classes": [1]}),
     json.dumps({"kind": "linear", "target": "x"}), json.dumps({"kind": "mlp"})],
)  # fmt: skip
def test_a_damaged_description_is_refused(tmp_path: Path, description: str | None) -> None:
    metadata = None if description is None else {"head": description}
    save_file(build_head("linear", 5, 3).state_dict(), tmp_path / HEAD_FILE, metadata)
    with pytest.raises(ValueError, match=r"head\.safetensors` must (say|hold)"):
        load_head(tmp_path, 5)


def test_a_head_of_another_encoder_is_refused(tmp_path: Path) -> None:
    save_head(Head(build_head("linear", 5, 3)), tmp_path)
    with pytest.raises(ValueError, match="kind linear on 6 features, but does not"):
        load_head(tmp_path, 6)
