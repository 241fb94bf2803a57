import pytest
from drawings import SVG, encoder_groups, outside, overlaps

from results.agreement.ranks import OVERALL, Rank, Ranking
from results.figures.drawing import NotDrawn
from results.figures.rank_chart import draw
from results.figures.theme import PAPER

ON_DTD = Ranking("dtd", [Rank("a", 1, 1, 2, "a"), Rank("b", 2, 1, 2, "a"), Rank("c", 3, 3, 3, "b")])


def test_each_encoder_is_a_dot_at_its_rank_with_its_interval_and_letters() -> None:
    groups = encoder_groups(draw([ON_DTD], "finetune", PAPER))
    assert [group.get("data-encoder") for group in groups] == ["a", "b", "c"]
    assert groups[2].get("aria-label") == "c: rank 3 [3, 3] b"
    circles = [group.find(f"{SVG}circle") for group in groups]
    across = [float(str(circle.get("cx"))) for circle in circles if circle is not None]
    assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.2)
    assert all(group.find(f"{SVG}path") is not None for group in groups)


def test_the_ranking_over_all_datasets_is_shown_with_the_ranks_on_each() -> None:
    places = {"b": 1.5, "a": 1.5, "c": 3.0}
    ranks = [Rank(encoder, place, None, None, "") for encoder, place in places.items()]
    overall = Ranking(OVERALL, ranks, note="ranks have no interval")
    drawing = draw([ON_DTD, overall], "finetune", PAPER)
    groups = encoder_groups(drawing)
    assert [group.get("data-encoder") for group in groups] == ["b", "a", "c"]
    assert len(groups[0].findall(f"{SVG}path")) == 1  # its rank on dtd; no interval
    assert "Ranks have no interval." in drawing.caption
    assert "intervals" not in drawing.caption


@pytest.mark.parametrize("number", [2, 50])
def test_no_texts_overlap_with_long_labels_and_many_letters(number: int) -> None:
    ranks = [
        Rank(f"small_resnet-simclr epochs=100 width=32 seed={n}", n + 1, 1, number, "abcdefghijk")
        for n in range(number)
    ]
    drawing = draw([Ranking("dtd", ranks)], "finetune", PAPER)
    assert overlaps(drawing) == []
    assert outside(drawing) == []


def test_ticks_stand_at_whole_ranks() -> None:
    texts = [text.text for text in draw([ON_DTD], "finetune", PAPER).texts]
    assert {"1", "2", "3"} <= set(texts)
    assert "1.5" not in texts


def test_one_encoder_has_no_ranks() -> None:
    with pytest.raises(NotDrawn, match="two encoders"):
        draw([Ranking("dtd", [Rank("a", 1, 1, 1, "a")])], "finetune", PAPER)
