"""Receipts: what is written is read again, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.errors import EdgellmError
from edgellm.quantization.receipt import (
    KLD,
    RECEIPT_FILE,
    Calibrated,
    Made,
    Quality,
    Receipt,
    SourceFacts,
    find_receipt,
    parse_receipt,
)

RECEIPT = Receipt(
    source=SourceFacts("مدل.gguf", 1000, "ab" * 32),
    request={"type": "Q4_K_M"},
    method="gptq",
    effort="balanced",
    seed=3,
    versions={"numpy": "2.0"},
    calibration=Calibrated({"a.txt": "cd" * 32}, 1024, 512, "ef" * 32),
    tensors={"blk.0.attn_q.weight": Made("Q4_K", "gptq", 0.01, 0.02), "x": Made("Q8_0", "rtn")},
    context=512,
    quality=(Quality("fa", "fa", "01" * 32, 255, 9.5, 9.0, dict.fromkeys(KLD, 0.1), 91.5),),
    data_sha256="23" * 32,
)


def test_there_and_back() -> None:
    assert parse_receipt(RECEIPT.to_json(), "x") == RECEIPT
    assert "مدل" in RECEIPT.to_json()
    assert "error" not in json.loads(RECEIPT.to_json())["tensors"]["x"]


def test_in_a_file_and_in_a_folder(tmp_path: Path) -> None:
    assert find_receipt(tmp_path / "x.gguf", {"edgellm.receipt": RECEIPT.to_json()}) == RECEIPT
    assert find_receipt(tmp_path / "x.gguf", {"general.name": "x"}) is None
    assert find_receipt(tmp_path, {}) is None
    (tmp_path / RECEIPT_FILE).write_text(RECEIPT.to_json(), "utf-8")
    assert find_receipt(tmp_path, {}) == RECEIPT
    (tmp_path / RECEIPT_FILE).write_bytes(b"\xff")
    with pytest.raises(EdgellmError, match="not UTF-8"):
        find_receipt(tmp_path, {})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        '{"version": 2}',
        "[" * 100_000,
        RECEIPT.to_json().replace('"mean":0.1', '"mean":"x"'),
        RECEIPT.to_json().replace('"tokens":255', '"tokens":null'),
        RECEIPT.to_json().replace('"type":"Q4_K",', '"kind":"Q4_K",'),
        RECEIPT.to_json().replace('"seed":3', '"seed":1e999'),
        RECEIPT.to_json().replace('"quality":[', '"quality":[3,'),
        RECEIPT.to_json().replace('"tensors":{', '"tensors":[{').replace("}},", "}}],", 1),
    ],
)
def test_what_is_no_receipt_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(EdgellmError, match=r"^x: its receipt cannot be read"):
        parse_receipt(text, "x")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(st.sampled_from(sorted(RECEIPT.as_dict())), JSON)
def test_any_value_anywhere_is_read_or_refused(key: str, value: object) -> None:
    text = json.dumps(RECEIPT.as_dict() | {key: value})
    try:
        found = parse_receipt(text, "x")
    except EdgellmError:
        return
    assert parse_receipt(found.to_json(), "x").to_json() == found.to_json()
