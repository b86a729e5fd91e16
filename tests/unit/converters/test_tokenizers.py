"""Scores and merges of SentencePiece BPE, the pre-tokenizer table, and what the layout may say."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

import tiny
from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import ConfigError, UnsupportedError
from edgellm_converters.tokenizers.huggingface import read_vocabulary
from edgellm_converters.tokenizers.metadata import vocabulary_from_metadata
from edgellm_converters.tokenizers.pretokenizers import PRE_TOKENIZERS, by_layout, by_name
from edgellm_converters.tokenizers.rebuild import end_ids, tokenizer_json
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
            found = by_layout(HERE, layout, ignore_merges=row.ignore_merges)
            assert (found.steps, found.ignore_merges) == (row.steps, row.ignore_merges)
        for name in (row.name, *row.aliases):
            assert by_name(HERE, name) is row
    with pytest.raises(UnsupportedError, match="superbpe"):
        by_name(HERE, "superbpe")


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
        json.dumps(good | {"decoder": {"type": "\ud800"}}),
        json.dumps(good)[:-1] + ', "normalizer": {"a": ' + "[" * 200 + "]" * 200 + "}}",
    ):
        odd = dataclasses.replace(vocabulary, layout=wrong)
        assert tokenizer_json(HERE, odd) == plain
    extra = dataclasses.replace(vocabulary, layout=json.dumps(good | {"truncation": {"x": 1}}))
    assert tokenizer_json(HERE, extra)["truncation"] is None


def test_all_tokens_that_end_an_answer_are_kept(tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path / "hf")
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    ends = {"eos_token_id": [2, 270, 271, 272, True, 10**9]}
    (folder / "generation_config.json").write_text(json.dumps(ends))
    notes: list[str] = []
    vocabulary = read_vocabulary(folder, {"eos_token_id": 5}, size, notes)
    assert vocabulary.special["eos"] == 2  # tokenizer_config.json names it
    assert (vocabulary.special["eot"], vocabulary.special["eom"]) == (270, 271)
    assert [note for note in notes if "end an answer" in note]
    assert end_ids(vocabulary) == [2, 270, 271]
    # What llama.cpp knows by its text needs no key.
    bpe = tiny.llama(
        tmp_path / "bpe", tokenizer=tiny.byte_level(tiny.SMOLLM), settings=tiny.SETTINGS_BPE
    )
    found = read_vocabulary(bpe, {"eos_token_id": [2, 0]}, size, [])
    assert not {"eot", "eom"} & found.special.keys()
    assert end_ids(found) == [2, 0]


def test_a_converted_folder_names_all_ends(tmp_path: Path) -> None:
    from edgellm_converters.pipeline import convert

    folder = tiny.llama(tmp_path / "hf")
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 270]}')
    convert(folder, tmp_path / "x.gguf")
    convert(tmp_path / "x.gguf", tmp_path / "back")
    found = json.loads((tmp_path / "back" / "generation_config.json").read_text())
    assert found["eos_token_id"] == [2, 270]
    settings = json.loads((tmp_path / "back" / "tokenizer_config.json").read_text())
    assert not [key for key in settings if key.startswith("eo") and key != "eos_token"]


def test_chat_templates_in_all_their_places(tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path / "hf")
    size = json.loads((folder / "config.json").read_text())["vocab_size"]

    def templates(settings: object) -> tuple[str | None, dict[str, str]]:
        (folder / "tokenizer_config.json").write_text(
            json.dumps(tiny.SETTINGS_SPM | {"chat_template": settings})
        )
        found = read_vocabulary(folder, {}, size, [])
        return found.chat_template, dict(found.templates)

    assert templates(None) == (None, {})
    assert templates("one") == ("one", {})
    named = [{"name": "default", "template": "one"}, {"name": "rag", "template": "two"}]
    assert templates(named) == ("one", {"rag": "two"})
    assert templates([{"name": "rag", "template": "two"}, 3]) == (None, {"rag": "two"})
    # transformers takes the files before the setting.
    (folder / "chat_template.jinja").write_text("file")
    assert templates("one") == ("file", {})
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    assert templates(named) == ("file", {"tool_use": "tools"})


def test_special_tokens_that_no_key_names_are_llama_cpp_s(tmp_path: Path) -> None:
    tokens = ["<unk>", "<s>", "</s>", "a"]
    keys = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 4,
        "tokenizer.ggml.token_type": [2, 3, 3, 1],
        "tokenizer.ggml.eos_token_id": 3,
    }
    vocabulary = vocabulary_from_metadata(Values(HERE, keys))
    assert vocabulary.special == {"unk": 0, "bos": 1, "eos": 3}
    assert vocabulary.add_bos
    processor = tokenizer_json(HERE, vocabulary)["post_processor"]
    assert processor["special_tokens"]["<s>"]["ids"] == [1]


def test_long_tokens_do_not_take_the_square_of_their_length() -> None:
    ids = {"a": 0, "a" * 100_000: 1}
    with pytest.raises(ConfigError, match="100000 characters"):
        merges_from_scores(HERE, ids, [0.0, 0.0])
