"""The commands of ``docs/own-data.md``, as the page prints them, on a folder of images."""

import json
from pathlib import Path

import numpy as np
import pytest
from pages import blocks, run_script
from PIL import Image

CLASSES = ("crow", "jay, young", "wren")


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """Write class folders of noise whose mean colour shows the class, and lists of them."""
    generator = np.random.default_rng(0)
    lists: dict[str, list[str]] = {"train": ["path,label"], "test": ["path,label"]}
    for number, name in enumerate(CLASSES):
        (tmp_path / "birds" / name).mkdir(parents=True)
        for image in range(12):
            pixels = generator.integers(0, 120, (40, 36, 3), dtype=np.uint8)
            pixels[..., number] += 100
            path = f"birds/{name}/{image}.jpg"
            Image.fromarray(pixels).save(tmp_path / path)
            lists["train" if image < 9 else "test"].append(f'"{path}",{name.partition(",")[0]}')
    for key, lines in lists.items():
        (tmp_path / f"{key}.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.mark.slow
def test_the_page_leads_from_a_folder_to_a_classifier(birds: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra [export]")
    pytest.importorskip("onnxscript", reason="needs the extra [export]")
    script = ""
    for language, text in blocks("docs/own-data.md"):
        if language == "sh":
            script += text
        elif language == "python":
            script += f"python - <<'END'\n{text}END\n"
    done = run_script(script, birds, tmp_path / "bin")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 runs: 2 finished, none failed" in done.stdout
    assert "['crow', 'crow', 'crow']" in done.stdout
    assert done.stdout.count("differs from the original by") == 2
    assert {"birds.pt2", "birds.onnx", "pictures"} <= {path.name for path in birds.iterdir()}
    tuned, scored = (
        json.loads(next(birds.glob(f"outputs/{protocol}/*/record.json")).read_text())["scores"]
        for protocol in ("finetune", "score_as_is")
    )
    assert scored == tuned
