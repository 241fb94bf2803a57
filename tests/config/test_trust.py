"""What a file names is called only where it is a part of this project, torchvision or timm."""

import sys
from pathlib import Path

import pytest
import yaml

from ssl_transfer.config import CONF, compose, plain, trust

OPTIONS = [
    path
    for group in ("model", "method", "dataset", "protocol")
    for path in (CONF / group).glob("*.yaml")
]


def test_every_option_of_this_project_is_known() -> None:
    named = {
        target
        for path in OPTIONS
        for _, target in trust.targets(yaml.safe_load(path.read_text(encoding="utf-8")))
        if target != "???"
    }
    assert len(named) > 40
    assert {target for target in named if not trust.is_known(target)} == set()


@pytest.mark.parametrize(
    "target",
    ["torchvision.models.resnet18", "torchvision.models.resnet.ResNet",
     "torchvision.models.get_model", "timm.create_model",
     "timm.models.resnet.resnet18", "timm.models.VisionTransformer"],
)  # fmt: skip
def test_models_of_the_two_libraries_are_known(target: str) -> None:
    assert trust.is_known(target)


@pytest.mark.parametrize(
    "target",
    ["os.system", "builtins.eval", "subprocess.run", "torch.load", "torch.hub.load", "", ".",
     "timm", "timm.", ".timm.create_model", "timm..create_model", "timm.create_model\n",
     "timmx.create_model",
     # Re-exported from elsewhere.
     "torchvision.datasets.utils.os.system", "timm.models.torch.hub.load",
     "timm.models._helpers.torch.load", "torchvision.models._api.import_module",
     "torchvision.models.resnet.partial", "ssl_transfer.models.factory.locate",
     "ssl_transfer.datasets.decoded.Path", "ssl_transfer.runs.run.Path",
     # Functions of the packages themselves that write, download or unpickle.
     "torchvision.datasets.utils.download_url", "timm.models.load_state_dict",
     "timm.models.save_for_hf", "ssl_transfer.system.files.write_atomically",
     "ssl_transfer.system.downloads.fetch", "ssl_transfer.models.weights.find_weights",
     "ssl_transfer.models.inspect.main"],
)  # fmt: skip
def test_anything_else_needs_the_users_word(target: str) -> None:
    assert not trust.is_known(target)


def test_a_foreign_name_is_refused_before_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil_module.py").write_text("raise SystemExit('executed')")
    monkeypatch.syspath_prepend(tmp_path)
    config = plain(compose(["model=custom", "model._target_=evil_module.make"]))
    (said,) = trust.foreign_targets(config, "record.json")
    assert "`model._target_` in `record.json` is 'evil_module.make'; add --trust-targets" in said
    assert "evil_module" not in sys.modules


@pytest.mark.parametrize(
    ("where", "node"),
    [("dataset", {"a": [{"_target_": "os.system"}]}),
     ("method", {"start_from": {"model": {"_target_": "os.system"}}}),
     ("trainer", {"monitor": {"dataset": {"_target_": "os.system"}}}),
     ("model", {"_target_": ["os.system"]}), ("model", {"_target_": "${seed}"}),
     ("model", {"inner": "${oc.decode:'{_target_: os.system}'}"})],
)  # fmt: skip
def test_a_target_is_found_wherever_it_stands(where: str, node: dict[str, object]) -> None:
    config = plain(compose([]))
    assert trust.foreign_targets(config, "x") == []
    config[where] = {**config[where], **node}
    assert len(trust.foreign_targets(config, "x")) == 1


def test_nothing_is_downloaded_for_a_file() -> None:
    node = {"weights": {"download": True, "path": "a"}, "views": [{"download": True}], "seed": 0}
    assert trust.without_downloads(node) == {
        "weights": {"download": False, "path": "a"}, "views": [{"download": False}], "seed": 0,
    }  # fmt: skip
