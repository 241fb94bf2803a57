from pathlib import Path

import pytest
import torch

from ssl_transfer.system import devices

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh():
    devices._processor.cache_clear()
    yield
    devices._processor.cache_clear()


def test_a_processor_has_the_name_that_linux_states(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(
        "processor\t: 0\nmodel name\t: Intel(R)  Xeon(R) CPU @ 2.20GHz\nmodel name : x\n"
    )
    monkeypatch.setattr(devices, "_CPUINFO", path)
    assert devices.device_name(CPU) == "Intel(R) Xeon(R) CPU @ 2.20GHz"


def test_elsewhere_it_has_that_of_python_or_none(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(devices, "_CPUINFO", tmp_path / "none")
    for name, expected in (("arm", "arm"), ("", None)):
        devices._processor.cache_clear()
        monkeypatch.setattr(devices.platform, "processor", lambda name=name: name)
        assert devices.device_name(CPU) == expected


def test_a_card_has_the_name_of_its_driver(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card {device.index}")
    assert devices.device_name(torch.device("cuda", 1)) == "card 1"
    assert devices.device_name(torch.device("meta")) is None
