"""Ranks of encoders with their uncertainty."""

import doctest
import math
from pathlib import Path

import numpy as np
import pytest
from predicted_runs import write_predicted

from results.__main__ import main
from results.agreement import ranking_tables
from results.agreement.ranking_tables import shortened, to_csv_long, to_tables
from results.agreement.ranks import OVERALL, Ranking, ranks
from results.published.catalogue import read_published
from results.records.reading import read

DIFFICULTY = np.random.default_rng(0).random(300)


def write_encoders(write, shares: dict[str, float], **changes) -> None:
    """Write encoders that get the easiest images right, up to a share."""
    for encoder, share in shares.items():
        write_predicted(write, encoder, share > DIFFICULTY, **changes)


def shown(ranking: Ranking) -> dict[str, tuple[float, float | None, float | None, str]]:
    return {one.encoder[-1]: (one.rank, one.low, one.high, one.group) for one in ranking.ranks}


def test_encoders_are_ranked_with_intervals_and_letters(write, outputs: Path) -> None:
    write_encoders(write, {"1": 0.9, "2": 0.5, "3": 0.5, "4": 0.2})
    (ranking,) = ranks(read(outputs), "finetune")
    assert shown(ranking) == {
        "1": (1, 1, 1, "a"),
        "2": (2.5, 2, 3, "b"),
        "3": (2.5, 2, 3, "b"),
        "4": (4, 4, 4, "c"),
    }
    assert [one.encoder[-1] for one in ranking.ranks] == ["1", "2", "3", "4"]
    assert (ranking.dataset, ranking.note) == ("digits", "intervals are over images")


def test_common_images_tell_encoders_apart_that_other_images_do_not(write, outputs: Path) -> None:
    write_encoders(write, {"1": 0.80, "2": 0.75})
    assert shown(ranks(read(outputs), "finetune")[0])["1"] == (1, 1, 1, "a")
    write_predicted(write, "1", DIFFICULTY < 0.80, prefix="own", dataset="other")
    write_predicted(write, "2", DIFFICULTY[::-1] < 0.75, prefix="foreign", dataset="other")
    assert shown(ranks(read(outputs), "finetune")[1])["1"] == (1, 1, 2, "a")


def test_errors_rank_the_other_way_round(write, outputs: Path) -> None:
    for encoder, value in (("1", 0.4), ("2", 0.1)):
        for seed in range(3):
            write(
                encoder * 16,
                protocol="finetune",
                value=value + 0.001 * seed,
                higher_is_better=False,
                seed=seed,
                config={"method": {"epochs": int(encoder)}},
            )
    (ranking,) = ranks(read(outputs), "finetune")
    assert shown(ranking) == {"2": (1, 1, 1, "a"), "1": (2, 2, 2, "b")}
    assert ranking.note == "intervals are over seeds"


def test_the_overall_rank_is_the_mean_and_leaves_out_who_lacks_a_dataset(write, outputs) -> None:
    write_encoders(write, {"1": 0.9, "2": 0.6, "3": 0.3}, dataset="digits")
    write_encoders(write, {"1": 0.5, "2": 0.8}, dataset="textures", prefix="texture")
    write_encoders(write, {"1": 0.9, "2": 0.9}, dataset="waves", prefix="wave")
    *each, overall = ranks(read(outputs), "finetune")
    assert [one.dataset for one in each] == ["digits", "textures", "waves"]
    assert [len(one.left_out) for one in each] == [0, 1, 1]
    assert overall.dataset == OVERALL
    assert [name[-1] for name in overall.left_out] == ["3"]
    places = shown(overall)
    assert (places["1"][0], places["2"][0]) == (1.5, 1.5)
    assert places["1"][1:3] == pytest.approx((4 / 3, 5 / 3))


def test_adding_an_encoder_or_records_in_another_order_keeps_the_others(write, outputs) -> None:
    write_encoders(write, {"4": 0.2, "1": 0.9, "3": 0.5})
    before = shown(ranks(read(outputs), "finetune")[0])
    write_encoders(write, {"2": 0.05})
    write("5" * 16, protocol="finetune", error="out of memory")
    after = shown(ranks(read(outputs), "finetune")[0])
    assert after.pop("2") == (4, 4, 4, "d")
    assert after == before


def test_a_score_that_is_not_a_number_and_a_second_copy_change_nothing(write, outputs) -> None:
    write_encoders(write, {"1": 0.9, "3": 0.5})
    before = ranks(read(outputs), "finetune")
    copy = write_predicted(write, "1", DIFFICULTY < 0.9)
    first = next(path for path in (outputs / "finetune").iterdir() if path != copy)
    (copy / "record.json").write_text((first / "record.json").read_text())
    write("2" * 16, protocol="finetune", value=math.nan, config={"method": {"epochs": 2}})
    after = ranks(read(outputs), "finetune")
    assert [one.ranks for one in after] == [one.ranks for one in before]


def test_one_seed_without_predictions_gives_ranks_without_intervals(write, outputs) -> None:
    write_encoders(write, {"1": 0.9, "2": 0.5})
    write("3" * 16, protocol="finetune", value=0.7, config={"method": {"epochs": 3}})
    (ranking,) = ranks(read(outputs), "finetune")
    assert shown(ranking)["3"] == (2, None, None, "")
    assert "says nothing about the uncertainty of" in ranking.note
    assert ranking.note.endswith("epochs=3")


def test_published_scores_have_ranks_without_intervals(capsys) -> None:
    rankings = ranks(read_published(["transfer_2021_table1"]), "finetune")
    best = rankings[-1].ranks[0]
    assert (best.encoder, best.low) == ("deepcluster_v2", None)
    arguments = ["ranks", "--published", "transfer_2021_table1", "--protocol", "finetune"]
    assert main(arguments) == 0
    assert "uncertainty of any encoder" in " ".join(capsys.readouterr().out.split())


def test_tables_state_the_interval_the_letters_and_who_is_left_out(write, outputs) -> None:
    write_encoders(write, {"1": 0.9, "2": 0.5, "3": 0.5}, dataset="digits")
    write_encoders(write, {"1": 0.9, "2": 0.5}, dataset="textures", prefix="texture")
    rankings = ranks(read(outputs), "finetune")
    tables = to_tables(rankings)
    assert tables[0].title == "digits: ranks by finetune"
    assert [row[1:] for row in tables[0].rows] == [
        ["1", "1 to 1", "a"],
        ["2.5", "2 to 3", "b"],
        ["2.5", "2 to 3", "b"],
    ]
    assert tables[2].title == "Mean ranks over all datasets by finetune"
    assert tables[2].rows[0][1:] == ["1.0", "1.0 to 1.0", "a"]
    assert tables[2].notes[-1].startswith("left out, since a score is missing: ")
    assert to_csv_long(rankings).splitlines()[1].endswith(",1.0,1.0,1.0,a")


def test_the_command_prints_and_saves(write, outputs: Path, tmp_path: Path, capsys) -> None:
    write_encoders(write, {"1": 0.9, "2": 0.5})
    where = ["--outputs", str(outputs)]
    saved = ["--save", str(tmp_path / "saved"), "--format", "csv"]
    assert main(["ranks", *where, "--metric", "mean_per_class", *saved]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == "target,dataset,encoder,rank,low,high,group"
    assert (tmp_path / "saved" / "ranks.csv").read_text() == printed


def test_the_command_needs_one_protocol(write, outputs: Path, capsys) -> None:
    for protocol in ("knn", "finetune"):
        write("1" * 16, protocol=protocol)
    assert main(["ranks", "--outputs", str(outputs)]) == 2
    assert "`--protocol` must name one of `finetune`, `knn`" in capsys.readouterr().err


def test_runs_of_letters_are_shortened() -> None:
    assert shortened("abc") == "abc"
    assert shortened("abcdXYZ") == "a-d,X-Z"
    assert shortened("xyd(53)") == "xyd(53)"
    assert doctest.testmod(ranking_tables).failed == 0
