"""Scores and merges of SentencePiece BPE, the pre-tokenizer table, and what the layout may say."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

import tiny
from edgellm_converters.errors import ConfigError, UnsupportedError
from edgellm_converters.tokenizers.huggingface import read_vocabulary
from edgellm_converters.tokenizers.pretokenizers import PRE_TOKENIZERS, by_layout, by_name
from edgellm_converters.tokenizers.rebuild import tokenizer_json
from edgellm_converters.tokenizers.sentencepiece import merges_from_scores, scores_from_merges
from edgellm_converters.tokenizers.vocabulary import TokenType, check_unique

HERE = Path("tokenizer.json")


def test_scores_say_what_merges_say() -> None:
    ids = {"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4, "abc": 5}
    merges = [("b", "c"), ("a", "b"), ("a", "bc"), ("ab", "c")]
    scores = scores_from_merges(HERE, ids, merges, 6)
    assert scores == [-3.0, -4.0, -5.0, -1.0, 0.0, -2.0]
    assert merges_from_scores(HERE, ids, scores) == merges


def test_merges_that_scores_cannot_say_are_refused() -> None:
    ids = {"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4, "abc": 5}
    with pytest.raises(UnsupportedError, match=r"missing for 1 pairs .*'ab' \+ 'c'"):
        scores_from_merges(HERE, ids, [("b", "c"), ("a", "b"), ("a", "bc")], 6)
    apart = [("a", "bc"), ("b", "c"), ("a", "b"), ("ab", "c")]
    with pytest.raises(UnsupportedError, match="'abc'"):
        scores_from_merges(HERE, ids, apart, 6)
    with pytest.raises(ConfigError, match="nan"):
        merges_from_scores(HERE, ids, [0.0, 0.0, 0.0, float("nan"), 0.0, 0.0])


def test_pre_tokenizer_rows_are_found_by_either_name() -> None:
    names = [name for row in PRE_TOKENIZERS for name in (row.name, *row.aliases)]
    assert len(set(names)) == len(names)
    for row in PRE_TOKENIZERS:
        nested = {"type": "Sequence", "pretokenizers": [row.layout()]}
        for layout in (row.layout(), nested):
            assert by_layout(HERE, layout, ignore_merges=row.ignore_merges) is row
        for name in (row.name, *row.aliases):
            assert by_name(HERE, name) is row
    with pytest.raises(UnsupportedError, match="superbpe"):
        by_name(HERE, "superbpe")


@pytest.mark.parametrize("row", PRE_TOKENIZERS, ids=lambda row: row.name)
def test_every_pre_tokenizer_splits_as_llama_cpp_does(row: object, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    from edgellm_converters.pipeline import convert
    from llama_model import opened

    assert isinstance(row, type(PRE_TOKENIZERS[0]))
    steps = [dict(step) for step in row.steps]
    tokenizer = tiny.byte_level(steps, special=4)
    tokenizer["model"]["ignore_merges"] = row.ignore_merges
    folder = tiny.llama(tmp_path / "hf", tokenizer=tokenizer, settings=tiny.SETTINGS_BPE)
    convert(folder, tmp_path / "x.gguf")
    ours = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = [
        "the cat's hat, I'LL say: 1234567 of 12.5%!",
        "a  b   c\n\n\n d\t\te \r\n  \n",
        "می\u200cخواهم ۱۲۳۴ کتاب؛ e\u0301te\u0301 中文 ١٢٣",
        "x<|im_start|>user\nhi<|im_end|> <extra>the",
        "😀👩\u200d👩 \u00a0\u3000 _under_score__ --- ''''",
    ]
    with opened(tmp_path / "x.gguf", vocab_only=True) as model:
        for text in texts:
            assert model.tokenize(text) == ours.encode(text).ids


def test_token_types_and_fillers(tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path / "hf")
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    vocabulary = read_vocabulary(folder, {}, size, [])
    kinds = vocabulary.types
    assert kinds[:4] == [
        TokenType.UNKNOWN,
        TokenType.CONTROL,
        TokenType.CONTROL,
        TokenType.BYTE,
    ]
    assert vocabulary.tokens[-1] == f"[PAD{size - 1}]"
    assert kinds[-1] == TokenType.UNUSED
    words = tokenizer_json(HERE, vocabulary)["model"]["vocab"]
    assert len(words) == size - 3  # fillers are no tokens of the folder
    with pytest.raises(ConfigError, match="tokens 0 and 1"):
        check_unique(HERE, ["a", "a"])


def test_a_layout_that_does_not_fit_is_passed_over(tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path / "hf")
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    vocabulary = read_vocabulary(folder, {}, size, [])
    plain = tokenizer_json(HERE, dataclasses.replace(vocabulary, layout=None))
    good = json.loads(vocabulary.layout or "")
    token = good["added_tokens"][0]
    for wrong in (
        "no JSON",
        "[]",
        "[" * 200_000,
        json.dumps(good | {"added_tokens": [token | {"id": 10**9}]}),
        json.dumps(good | {"added_tokens": [token | {"content": "other"}]}),
        json.dumps(good | {"added_tokens": [token | {"special": "yes"}]}),
        json.dumps(good | {"decoder": "x"}),
        json.dumps(good | {"model": 3}),
    ):
        odd = dataclasses.replace(vocabulary, layout=wrong)
        assert tokenizer_json(HERE, odd) == plain
    extra = dataclasses.replace(vocabulary, layout=json.dumps(good | {"truncation": {"x": 1}}))
    assert tokenizer_json(HERE, extra)["truncation"] is None
