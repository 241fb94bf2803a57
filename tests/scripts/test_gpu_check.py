"""The checks for a GPU, as far as a CPU can run them."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "gpu_check.py"


@pytest.fixture(scope="module")
def gpu_check():
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gpu_check"]


def test_a_check_fails_above_its_limit_and_where_its_value_is_not_a_number(gpu_check):
    assert gpu_check.Row("one", 0.1, "", 0.1).passed
    assert not gpu_check.Row("one", 0.11, "", 0.1).passed
    assert not gpu_check.Row("one", float("nan"), "", 0.1).passed
    assert "FAILED" in str(gpu_check.Row("one", 0.11, "", 0.1))


def test_an_error_within_a_check_is_a_failed_row_and_the_other_checks_go_on(
    gpu_check, monkeypatch, capsys
):
    def broken(settings):
        yield gpu_check.Row("before", 0.0, "", 0.0)
        raise RuntimeError("no kernel image is available")

    def sound(settings):
        yield gpu_check.Row("after", 0.0, "", 0.0)

    monkeypatch.setattr(gpu_check, "CHECKS", (broken, sound))
    rows = gpu_check.run_checks(gpu_check.Settings(torch.device("cpu"), small=True), 60.0)
    assert [row.passed for row in rows] == [True, False, True, True]
    assert "no kernel image" in capsys.readouterr().out


def test_a_wrong_gradient_is_seen(gpu_check, monkeypatch):
    monkeypatch.setattr(gpu_check, "METHODS", ("simclr",))
    monkeypatch.setattr(gpu_check, "LIMITS", {"fp32": 2e-3})
    settings = gpu_check.Settings(torch.device("cpu"), small=True)
    (right,) = gpu_check.check_methods(settings)
    assert right.passed
    true_gradient, calls = gpu_check.gradient_of, []

    def second_one_is_off(*arguments, **options):
        calls.append(arguments)
        return true_gradient(*arguments, **options) * (1.01 if len(calls) == 2 else 1.0)

    monkeypatch.setattr(gpu_check, "gradient_of", second_one_is_off)
    (wrong,) = gpu_check.check_methods(settings)
    assert not wrong.passed
    assert wrong.value == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("there", "passes"),
    [
        ({"logme": 0.5, "rankme": 20.0}, True),
        ({"logme": 0.5, "rankme": 20.1}, True),  # relative to values above 1
        ({"logme": 0.55, "rankme": 20.0}, False),
        ({"logme": 0.5}, False),
    ],
)
def test_a_score_that_differs_or_is_missing_on_the_device_is_seen(
    gpu_check, monkeypatch, there, passes
):
    sides = iter([({"logme": 0.5, "rankme": 20.0}, None), (there, None)])
    monkeypatch.setattr(gpu_check, "MEASURED", {"transferability": ([], 1e-2)})
    monkeypatch.setattr(gpu_check, "evaluated", lambda *arguments: next(sides))
    (row,) = gpu_check.check_measures(gpu_check.Settings(torch.device("cpu"), small=True))
    assert row.passed == passes


def test_kernel_ridge_regression_is_compared(gpu_check):
    (row,) = gpu_check.check_kernel_ridge(gpu_check.Settings(torch.device("cpu"), small=True))
    assert row.passed
    assert row.value < 1e-12


def test_missing_packages_are_named_with_the_command_that_collects_them(
    gpu_check, monkeypatch, tmp_path
):
    gpu_check.provide_packages(tmp_path, str(tmp_path))  # nothing is missing here
    monkeypatch.setitem(gpu_check.PACKAGES, "a_module_that_is_not_there", "some-package")
    with pytest.raises(SystemExit, match=r"some-package must be importable.*--collect-wheels"):
        gpu_check.provide_packages(tmp_path, str(tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(1200)  # it took more than four minutes where other work went on
def test_all_checks_pass_on_the_cpu_and_leave_a_report(tmp_path):
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--small", "--budget", "1000"]
    out = tmp_path / "report.json"
    done = subprocess.run(
        [*command, "--out", str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(out.read_text())
    assert all(row["passed"] for row in report["rows"])
    names = " ".join(row["name"] for row in report["rows"])
    for part in (
        "w_mse, fp16", "distill", "vision transformer, bf16", "channels_last=auto", "gloo",
        "killed and resumed", "knn", "model.features=last4", "concatenated", "attentive_probe",
        "transferability", "few_shot", "kernel ridge", "peak memory", "pipeline",
    ):  # fmt: skip
        assert part in names
