import argparse
import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ssl_transfer.models.reading import read_state

WEIGHT = torch.arange(6.0).reshape(2, 3)


class Attack:
    """What unpickling calls."""

    def __init__(self, folder: Path) -> None:
        self.command = f"touch {folder}/executed"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def _refusal(path: Path, sha256: str | None = None) -> str:
    with pytest.raises(ValueError, match=path.name) as caught:
        read_state(path, sha256)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        {"a.weight": WEIGHT},
        {"state_dict": {"a.weight": WEIGHT}, "epoch": 3, "optimizer": {"state": {0: WEIGHT}}},
        {"model": {"a.weight": WEIGHT}, "opt": argparse.Namespace(lr=0.1, name="moco")},
        {"resnet": {"a.weight": WEIGHT}, "head": {"fc.weight": WEIGHT}},
        {"model": {"state_dict": {"a.weight": torch.nn.Parameter(WEIGHT)}}},
        {"a": {"weight": WEIGHT}, "best": np.float64(71.1), "seeds": np.arange(3)},
    ],
)
def test_the_tensors_are_found_in_what_surrounds_them(
    tmp_path: Path, content: dict[str, Any], legacy: bool
) -> None:
    path = tmp_path / "x.pth.tar"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    state = read_state(path)
    assert list(state) == ["a.weight"]
    assert torch.equal(state["a.weight"], WEIGHT)


def test_numpy_numbers_are_read_under_their_old_name_too(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    content = {"a.weight": WEIGHT, "best": np.float64(71.1)}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multi", b"numpy.core.multi"))
    assert list(read_state(path)) == ["a.weight"]


def test_safetensors_are_known_by_content(tmp_path: Path) -> None:
    save_file({"a.weight": WEIGHT}, tmp_path / "weights.bin")
    assert torch.equal(read_state(tmp_path / "weights.bin")["a.weight"], WEIGHT)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_that_would_execute_code_is_refused_unexecuted(
    tmp_path: Path, legacy: bool
) -> None:
    path = tmp_path / "evil.pth"
    content = {"a.weight": WEIGHT, "x": Attack(tmp_path)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    assert "would execute code when loaded (posix.system)" in _refusal(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_a_plain_pickle_that_would_execute_code_is_refused_unexecuted(
    tmp_path: Path, protocol: int
) -> None:
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(Attack(tmp_path), protocol=protocol))
    sentence = _refusal(path)
    # Protocols 0 and 1 have no mark; what has none is no checkpoint.
    assert ("posix.system" in sentence) == (protocol >= 2)
    assert not (tmp_path / "executed").exists()


def test_a_pickled_module_and_a_program_are_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    assert "torch.nn.modules.linear.Linear" in _refusal(tmp_path / "module.pth")
    # Which category torch chooses depends on its version.
    with pytest.warns(Warning, match=r"`torch\.jit\.script` is"):
        torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pt")
    assert "a TorchScript program" in _refusal(tmp_path / "script.pt")


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_a_truncated_file_is_refused(tmp_path: Path, kind: str, share: float) -> None:
    path = tmp_path / f"x.{kind}"
    tensors = {"a.weight": torch.zeros(100, 10)}
    if kind == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "truncated or damaged" in _refusal(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    assert "does not" in _refusal(path)
    path.touch()
    assert "is empty" in _refusal(path)
    path.write_text("<!DOCTYPE html><title>404</title>")
    assert "starts with b'<!DOCTYPE html><'" in _refusal(path)
    torch.save([1, 2], path)
    assert "holds none (found: list)" in _refusal(path)
    torch.save({"epoch": 3, "state_dict": {"lr": 0.1}}, path)
    assert "holds none (found: ['epoch', 'state_dict'])" in _refusal(path)


def test_the_checksum_is_compared_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"a": WEIGHT}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for given in (digest, digest.upper(), digest[:8]):
        assert list(read_state(path, given)) == ["a"]
    assert f"must be {'0' * 64}, but is {digest}" in _refusal(path, "0" * 64)
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        read_state(path, "abc")
