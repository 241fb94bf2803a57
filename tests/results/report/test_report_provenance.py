from pathlib import Path

from results.records.reading import Results, read
from results.report.provenance import provenance, sentences, to_table


def test_facts_are_counted_by_value(outputs: Path, write) -> None:
    for place, revision in enumerate(("a" * 40, "a" * 40, "b" * 40)):
        write(
            dataset="digits", seed=place, started=f"2026-01-0{place + 1}T00:00:00+00:00",
            code={"revision": revision, "dirty": place == 2}, versions={"torch": "2.6.0"},
            device="NVIDIA A100", processes=2, data={"fingerprint": "c" * 64},
        )  # fmt: skip
    source = provenance(read(outputs))
    assert source.runs == 3
    assert source.newest == "2026-01-03T00:00:00+00:00"
    assert source.facts["code"] == {"a" * 12: 2, f"{'b' * 12} with changes": 1}
    assert source.facts["device"] == {"2 × NVIDIA A100": 3}
    assert source.facts["data of digits"] == {"c" * 12: 3}
    assert ["torch", "2.6.0", "3"] in to_table(source).rows
    assert "The runs come from 2 revisions of the code." in sentences(source, [])


def test_records_without_facts_have_none(outputs: Path, write) -> None:
    write(code="damaged", versions=None)
    source = provenance(read(outputs))
    assert source.facts == {}
    assert sentences(source, ["Outputs: `x`."]) == ["Outputs: `x`.", "1 finished run with scores."]


def test_published_tables_have_no_provenance_of_runs() -> None:
    assert sentences(provenance(Results([])), []) == []
