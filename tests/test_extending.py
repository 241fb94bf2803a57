"""The examples of own code, exactly as the pages print them, outside of the project."""

from pathlib import Path

import pytest
from pages import blocks, run_script


@pytest.mark.slow
def test_the_example_of_own_code_runs_as_the_page_prints_it(tmp_path: Path) -> None:
    project = tmp_path / "my_project"
    script = ""
    for language, text in blocks("docs/extending.md"):
        if language == "sh":
            script += text
            continue
        name = text.partition("\n")[0].removeprefix("# ")
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    done = run_script(script, project, tmp_path / "bin")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 runs: 4 finished, none failed" in done.stdout
    records = {p.parent.parent.name for p in project.glob("outputs/*/*/record.json")}
    assert records == {"class_means", "knn", "pretrain"}
    assert 0.1 < float(done.stdout.splitlines()[-1]) <= 1
    table = done.stdout.partition("class_means: top1 in %")[2].splitlines()
    (trained,) = (line for line in table[:6] if "align_uniform" in line)
    assert float(trained.split()[-1].lstrip("*")) > 50, "of three classes"


@pytest.mark.slow
def test_the_model_of_the_readme_runs_as_it_is_printed(tmp_path: Path) -> None:
    (_, module), (_, command) = blocks("README.md")
    assert module.startswith("# my_package.py\n")
    (tmp_path / "my_package.py").write_text(module)
    done = run_script(command, tmp_path, tmp_path / "bin")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "knn of mine on textures" in done.stdout
