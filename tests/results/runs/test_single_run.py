import json
from pathlib import Path

import pytest

from results.errors import ResultsError
from results.runs.folder import find_run


def test_a_run_is_found_by_its_id_its_start_and_its_folder(write, outputs: Path) -> None:
    write()
    folder = write(run_id="2" * 16)
    folder = folder.rename(folder.with_name(f"small_resnet_digits_{'2' * 8}"))
    for name in ("2", "2" * 8, "2" * 16, str(folder), str(folder / "record.json")):
        assert find_run(outputs, name).folder == folder, name
    assert find_run(outputs, f"linear_probe/{folder.name}").status == "finished"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("0", "`0` fits 2"),
        ("lost", "known runs: .*_00000001`, .*_00000002`"),
        ("0000000200000000", "no run in"),
        ("", "no run in"),
        ("./", "holds none of them"),
    ],
)
def test_a_name_of_no_run_or_of_two_is_answered_with_the_known_ones(
    write, outputs: Path, name: str, words: str
) -> None:
    for number in (1, 2):
        folder = write(run_id=f"{number:08}ffffffff")
        folder.rename(folder.with_name(f"small_resnet_digits_{number:08}"))
    with pytest.raises(ResultsError, match=words):
        find_run(outputs, name)


def test_a_run_that_has_left_no_record_is_unfinished(outputs: Path) -> None:
    folder = outputs / "finetune" / "small_resnet_digits_abcdef01"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text(json.dumps({"training": "refit", "step": 1}))
    run = find_run(outputs, "abc")
    assert (run.id, run.status, run.folder) == ("abcdef01", "unfinished", folder)
