"""The checks for a GPU, as far as a CPU can run them."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "gpu_check.py"
CPU = torch.device("cpu")


@pytest.fixture
def gpu_check(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return importlib.import_module("gpu_check")


@pytest.fixture
def settings(gpu_check):
    return importlib.import_module("gpu_checks.common").Settings(CPU, small=True)


@pytest.fixture
def trainings(gpu_check):
    return importlib.import_module("gpu_checks.trainings")


@pytest.fixture
def frozen(gpu_check):
    return importlib.import_module("gpu_checks.frozen")


def test_a_check_fails_above_its_limit_and_where_its_value_is_not_a_number(trainings):
    Row = trainings.Row
    assert Row("one", 0.1, "", 0.1).passed
    assert not Row("one", 0.11, "", 0.1).passed
    assert not Row("one", float("nan"), "", 0.1).passed
    assert "FAILED" in str(Row("one", 0.11, "", 0.1))


def test_an_error_within_a_check_is_a_failed_row_and_the_other_checks_go_on(
    gpu_check, trainings, settings, capsys
):
    def broken(settings):
        yield trainings.Row("before", 0.0, "", 0.0)
        raise RuntimeError("no kernel image is available")

    def sound(settings):
        yield trainings.Row("after", 0.0, "", 0.0)

    rows = gpu_check.run_checks((broken, sound), settings, 60.0)
    assert [row.passed for row in rows] == [True, False, True, True]
    assert "no kernel image" in capsys.readouterr().out


def test_a_wrong_gradient_is_seen(trainings, settings, monkeypatch):
    monkeypatch.setattr(trainings, "METHODS", ("simclr",))
    monkeypatch.setattr(trainings, "LIMITS", {"fp64": 1e-8})
    (right,) = trainings.check_methods(settings)
    assert right.passed
    true_gradient, calls = trainings.gradient_of, []

    def second_one_is_off(*arguments, **options):
        calls.append(arguments)
        return true_gradient(*arguments, **options) * (1.01 if len(calls) == 2 else 1.0)

    monkeypatch.setattr(trainings, "gradient_of", second_one_is_off)
    (wrong,) = trainings.check_methods(settings)
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
    frozen, settings, monkeypatch, there, passes
):
    sides = iter([({"logme": 0.5, "rankme": 20.0}, None), (there, None)])
    monkeypatch.setattr(frozen, "MEASURED", {"transferability": ([], 1e-2)})
    monkeypatch.setattr(frozen, "evaluated", lambda *arguments: next(sides))
    (row,) = frozen.check_measures(settings)
    assert row.passed == passes


def test_kernel_ridge_regression_is_compared(frozen, settings):
    (row,) = frozen.check_kernel_ridge(settings)
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
        "transferability", "few_shot", "kernel ridge", "batch statistics", "fp64",
    ):  # fmt: skip
        assert part in names
