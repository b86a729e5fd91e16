"""Whether what was found is like an answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgellm.rag.gate import (
    FOREIGN,
    Evidence,
    Gate,
    calibrate,
    evidence,
    rarity_of,
    read_gate,
    write_gate,
)


def weight(term: str) -> float:
    return 0.1 if term in ("the", "of", "is", "how") else 1.0


def test_evidence_is_the_share_of_rare_words_in_the_best_chunk() -> None:
    chunks = [("The lighthouse of Anzali", 0.3), ("the height of it is", 0.6)]
    found = evidence("How high is the lighthouse of Anzali?", chunks, weight)
    # lighthouse, anzali, the, of stand in the first: 2.2 of 3.4
    assert found == Evidence(pytest.approx(2.2 / 3.4), 0.6)
    assert evidence("?", chunks, weight).coverage == 0
    assert evidence("high", [], weight) == Evidence(0.0, None)


def test_endings_do_not_count() -> None:
    assert evidence("lighthouses", [("a lighthouse", None)], weight).coverage == 1
    assert evidence("کتابخانه‌های", [("کتابخانه", None)], weight).coverage > 0
    assert evidence("cars", [("cart", None)], weight).coverage == 0


def test_rarity_is_that_of_bm25() -> None:
    assert rarity_of(10, 0) == pytest.approx(3.0910424533583156)  # ln(1 + 10.5 / 0.5)
    assert rarity_of(10, 10) < rarity_of(10, 5) < rarity_of(10, 1)


def test_a_gate_keeps_nine_in_ten_foreign_questions_out() -> None:
    scores = {question: 0.2 + 0.01 * number for number, question in enumerate(FOREIGN)}
    gate = calibrate(lambda question: Evidence(scores[question], scores[question]))
    passed = [question for question in FOREIGN if gate.opens(Evidence(scores[question], None))]
    assert len(passed) == len(FOREIGN) - int(0.9 * len(FOREIGN)) - 1
    assert calibrate(lambda _question: Evidence(1.0, None)) == Gate(0.75, None)
    assert calibrate(lambda _question: Evidence(0.0, 0.0)) == Gate(0.15, 0.2)


def test_either_side_opens_it() -> None:
    gate = Gate(0.5, 0.4)
    assert gate.opens(Evidence(0.6, 0.1))
    assert gate.opens(Evidence(0.1, 0.5))
    assert not gate.opens(Evidence(0.5, 0.4))
    assert not Gate(0.5, None).opens(Evidence(0.5, 0.9))


def test_it_is_kept_for_one_state_of_a_library(tmp_path: Path) -> None:
    library = tmp_path / "a.db"
    assert read_gate(library, "1") is None
    write_gate(library, "1", Gate(0.5, None))
    assert read_gate(library, "1") == Gate(0.5, None)
    assert read_gate(library, "2") is None
    assert [path.name for path in tmp_path.iterdir()] == ["a.db.gate"]
    for text in ("", "[]", "{", '{"state": "1", "coverage": "x", "cosine": null}', "\0" * 10):
        (tmp_path / "a.db.gate").write_text(text)
        assert read_gate(library, "1") is None
    write_gate(tmp_path / "none" / "a.db", "1", Gate(0.5, None))  # no folder: not kept
