"""What tells networks apart that have the same weights and the same ``repr``."""

import functools
import importlib.util
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from ssl_transfer import models
from ssl_transfer.models import build, sources
from ssl_transfer.system import provenance

FACTS = {"size": 32, "resize": None}
FORWARD = """
import torch
from torch import nn
FACTOR = 2.0
def activate(values):
    return torch.relu(values)
class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.modes = {"b", "a", "c"}
    def forward(self, values):
        if "x" in {"x", "y", "z"}:
            return FACTOR * activate(self.layer(values))
def make():
    return Mine()
"""


def module_of(path: Path, text: str) -> types.ModuleType:
    """Import a file under one name, whatever it holds."""
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("mine", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mine"] = module
    sources._is_installed.cache_clear()
    spec.loader.exec_module(module)
    return module


def typed_in(text: str) -> dict[str, Any]:
    """Run code that has no file, as in a notebook."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(text, namespace)
    return namespace


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("FACTOR * activate", "activate"),  # `forward` itself
        ("torch.relu(values)", "torch.tanh(values)"),  # a function that it calls
        ("FACTOR = 2.0", "FACTOR = 3.0"),  # a constant that it uses
        ("return Mine()", "return Mine().eval()"),  # the maker
    ],
)
def test_edited_code_is_another_network(tmp_path: Path, old: str, new: str) -> None:
    found = []
    texts = (FORWARD, FORWARD.replace(old, new), "# a comment\n" + FORWARD)
    for number, text in enumerate(texts):
        # One folder each: Python reuses the bytecode of a file of equal size and modification
        # time, which it compares in whole seconds.
        (tmp_path / str(number)).mkdir()
        module = module_of(tmp_path / str(number) / "mine.py", text)
        found.append(sources.network(module.make(), module.make))
    assert found[0] != found[1]
    assert found[0] == found[2]
    typed = [typed_in(text) for text in (FORWARD, FORWARD.replace(old, new), FORWARD)]
    digests = [sources.network(space["make"](), space["make"]) for space in typed]
    assert digests[0] != digests[1]
    assert digests[0] == digests[2]


class Scaled(nn.Module):
    """Has all that ``state_dict`` and ``repr`` do not show."""

    def __init__(self, scale: Any = 1.0, buffer: float = 0.0) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.scale = scale
        self.register_buffer("offset", torch.full((2,), buffer), persistent=False)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.scale * self.layer(values) + self.offset


def hooked(add: float) -> Scaled:
    network = Scaled()
    network.register_forward_hook(lambda module, inputs, output: output + add)
    return network


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Scaled(1.0), Scaled(2.0)),
        (Scaled(torch.ones(2)), Scaled(torch.zeros(2))),
        (Scaled(np.ones(2)), Scaled(np.zeros(2))),
        (Scaled({"a": [1]}), Scaled({"a": [2]})),
        (Scaled(buffer=0.0), Scaled(buffer=1.0)),
        (hooked(0.0), hooked(1.0)),
        (Scaled(functools.partial(pow, 2)), Scaled(functools.partial(pow, 3))),
        (Scaled(types.SimpleNamespace(a=1)), Scaled(types.SimpleNamespace(a=2))),
    ],
)
def test_what_weights_and_repr_do_not_show_counts(one: nn.Module, other: nn.Module) -> None:
    assert repr(one) == repr(other)
    assert sources.network(one) != sources.network(other)
    other.load_state_dict(one.state_dict())
    assert sources.network(one) == sources.network(one) != sources.network(other)


def test_weights_do_not_enter_and_equal_networks_are_equal() -> None:
    nets = [torchvision.models.resnet18() for _ in range(2)]
    assert sources.network(nets[0]) == sources.network(nets[1])
    assert sources.network(nets[0]) != sources.network(torchvision.models.resnet34())
    relu = torchvision.models.resnet18()
    relu.relu = nn.ReLU6()
    assert sources.network(relu) != sources.network(nets[0])


@pytest.mark.slow
def test_every_process_finds_the_same(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FORWARD)
    code = (
        "import mine, torchvision; from ssl_transfer import models; "
        "from ssl_transfer.models import sources; "
        "node = {'_target_': 'ssl_transfer.models.small_resnet.small_resnet', 'width': 4, "
        "'preprocessing': {'size': 16, 'resize': None}};"
        "print(sources.network(mine.make(), mine.make), "
        "sources.network(torchvision.models.vit_b_16()), "
        "sources.network(models.build(node).backbone))"
    )
    path = f"{tmp_path}:{provenance.search_path()}"
    answers = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONPATH": path, "PYTHONHASHSEED": seed, "PATH": "/usr/bin"},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(answers) == 1
    assert len(set(answers.pop().split())) == 3


def test_an_encoder_knows_its_maker() -> None:
    encoder = build({"_target_": "torchvision.models.resnet18", "preprocessing": FACTS})
    assert encoder.maker is torchvision.models.resnet18
    assert models.wrap(torchvision.models.resnet18(), FACTS).maker is None


def test_files_of_users_code_are_found_with_what_they_import(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_layers.py").write_text("def layer():\n    return 1\n")
    (tmp_path / "own_model.py").write_text(
        "import torch\nfrom own_layers import layer\ndef make():\n    return layer()\n"
    )
    importlib.import_module("own_model")
    sources._is_installed.cache_clear()
    config = {"model": {"_target_": "own_model.make", "name": "own"}, "method": {"a": [1]}}
    found = sources.files_of(config)
    assert set(found) == {tmp_path / "own_model.py", tmp_path / "own_layers.py"}
    assert sources.files_of({"model": {"_target_": "torchvision.models.resnet18"}}) == []
    assert sources.files_of({"_target_": "ssl_transfer.models.small_resnet.small_resnet"}) == []
