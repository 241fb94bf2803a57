import json
from pathlib import Path

import pytest

from results.commands.main import main


def sweep(outputs: Path) -> Path:
    """Write a sweep of everything below ``outputs``."""
    runs, folders = [], []
    for path in sorted(outputs.glob("*/*/record.json")):
        runs.append(json.loads(path.read_text())["run_id"])
        folders.append(str(path.parent.relative_to(outputs)))
    folder = outputs / "sweeps" / "2026-01-01_00-00-00_aaaaaa"
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text(json.dumps({"runs": runs, "folders": folders}))
    return folder


def lines_of(outputs: Path, capsys) -> list[str]:
    main(["summary", "--outputs", str(outputs)])
    return capsys.readouterr().out.splitlines()


def test_a_small_sweep_shows_its_table(zoo, outputs: Path, capsys) -> None:
    zoo(2)
    sweep(outputs)
    lines = lines_of(outputs, capsys)
    assert "finetune: top1 in %" in lines
    assert not any(line.startswith("best of") for line in lines)


def test_a_large_sweep_is_answered_in_ten_lines(zoo, outputs: Path, capsys) -> None:
    zoo(7)
    folder = sweep(outputs)
    lines = lines_of(outputs, capsys)
    assert len(lines) <= 11
    assert lines[0] == "correlation with finetune (spearman, 95 % interval):"
    assert " on 2 datasets, 7 encoders" in lines[1]
    assert any(line.startswith("loss of choosing the encoder, in points: ") for line in lines)
    best = "best of 7 by finetune (top1, mean of 2 datasets): small_resnet-simclr epochs=6 70, "
    assert any(line.startswith(best) for line in lines)
    assert lines[-3] == "42 runs: 42 finished, none failed"
    assert lines[-2] == f"saved: table, correlations, choices (.csv, .md) in {folder}"
    assert lines[-1].startswith(f"report: python -m results report --sweep {folder.name} ")
    names = {path.name for path in folder.iterdir()}
    assert names >= {f"{name}.{end}" for name in ("table", "correlations", "choices")
                     for end in ("csv", "md")}  # fmt: skip


def test_the_widest_coverage_comes_first(zoo, write, outputs: Path, capsys) -> None:
    zoo(7)
    for number in range(7):  # perfect, but on one dataset only
        write(f"{number}" * 16, protocol="knn", value=0.1 * number,
              config={"method": {"epochs": number}})  # fmt: skip
    sweep(outputs)
    proxies = [line.split()[0] for line in lines_of(outputs, capsys)[1:4]]
    assert proxies == ["bn_tune", "linear_probe", "knn"]


@pytest.mark.parametrize("times", [3, 25])
def test_failures_are_named_but_not_without_end(write, outputs: Path, capsys, times: int) -> None:
    write("a" * 16)
    for number in range(times):
        write(f"{number:016x}", dataset="cats", error=f"Class {number} is empty.")
    sweep(outputs)
    folder = next(outputs.glob("sweeps/*/sweep.json"))
    content = json.loads(folder.read_text())
    for path in sorted(outputs.glob("*/*/failure.json")):
        content["runs"].append(json.loads(path.read_text())["run_id"])
        content["folders"].append(str(path.parent.relative_to(outputs)))
    folder.write_text(json.dumps(content))
    lines = lines_of(outputs, capsys)
    named = sum("is empty." in line for line in lines)
    assert named == min(times, 10)
    assert ("… and 15 more reasons: python -m results failures" in lines) == (times == 25)
