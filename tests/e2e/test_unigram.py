"""Unigram there and back, judged by the `tokenizers` library and by llama.cpp."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, normalizers

import tiny_tokenizers
from edgellm_converters.errors import ConfigError, ConvertersError, UnsupportedError
from edgellm_converters.tokenizers.huggingface import read_vocabulary
from edgellm_converters.tokenizers.vocabulary import TokenType
from token_check import TEXTS, random_texts, ways, write_folder

SPECIAL = ("<s>", "</s>", "<unk>", "<pad>", "<mask>", "<extra_id_0>", "ﷲ", "½", "Ａ")
SETTINGS = {"t5": tiny_tokenizers.SETTINGS_T5, "xlm-r": tiny_tokenizers.SETTINGS_XLMR}
SPACE = tiny_tokenizers.SPACE


def plain(texts: list[str], letters: Iterable[str] = tiny_tokenizers.REPLACED) -> list[str]:
    """Leave out what the note on marks speaks of: marks or joiners after a letter of the table."""
    marked = re.compile("[" + "".join(letters) + "][\u0300-\u036f\u064b-\u0655\u200c\u200d]")
    return [text for text in texts if not marked.search(text)]


def write(folder: Path, tokenizer: dict[str, Any], kind: str = "t5") -> tuple[Path, int]:
    write_folder(folder, tokenizer, SETTINGS[kind])
    return folder, len(tokenizer["model"]["vocab"])


def set_normalizer(tokenizer: dict[str, Any], *steps: Any) -> None:
    """Set the normalizer to the table and what transformers sets after it today."""
    table = base64.b64decode(tokenizer["normalizer"]["precompiled_charsmap"])
    built = Tokenizer.from_str(
        '{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", '
        '"vocab": {}, "merges": []}}'
    )
    built.normalizer = normalizers.Sequence([normalizers.Precompiled(table), *steps])
    tokenizer["normalizer"] = json.loads(built.to_str())["normalizer"]


@pytest.mark.parametrize("kind", ["t5", "xlm-r"])
@pytest.mark.parametrize("form", ["words", "sequence", "first"])
def test_texts_give_the_same_tokens_everywhere(kind: str, form: str, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizers.unigram(kind)
    if form != "words":
        set_normalizer(
            tokenizer, normalizers.Strip(left=False), normalizers.Replace(Regex(" {2,}"), SPACE)
        )
        tokenizer["pre_tokenizer"] = tokenizer["decoder"]
    special: tuple[str, ...] = SPECIAL
    if form == "first":
        tokenizer["pre_tokenizer"] = tokenizer["decoder"] | {"prepend_scheme": "first"}
        special = ("ﷲ", "½", "Ａ")  # the note on `first` speaks of special tokens inside a text
    folder, size = write(tmp_path / "hf", tokenizer, kind)
    original = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = TEXTS + random_texts(special)
    with ways(folder, size + 3, tmp_path) as found:  # three rows without a token
        found.compare(original, plain(texts))
        vocabulary = found.vocabulary
        assert vocabulary.remove_extra_whitespaces
        assert vocabulary.charsmap == tiny_tokenizers.charsmap(tiny_tokenizers.REPLACED)
        assert (vocabulary.add_bos, vocabulary.add_eos) == (kind == "xlm-r", True)
        assert vocabulary.add_sep is (kind == "xlm-r" if "sep" in vocabulary.special else None)
        assert any("first" in form and "start of a text" in note for note in found.notes) is (
            form == "first"
        )


def test_a_letter_with_marks_differs_only_as_the_note_says(tmp_path: Path) -> None:
    folder, size = write(tmp_path / "hf", tiny_tokenizers.unigram())
    original = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with ways(folder, size, tmp_path) as found:
        assert [note for note in found.notes if "marks or joiners" in note]
        text = "½\u0300"  # the library drops the mark with the replacement of the letter
        assert original.encode(text).ids == found.rebuilt.encode(text).ids
        assert found.model.tokenize(text) != original.encode(text).ids


@pytest.mark.parametrize("scheme", ["never", "always"])
def test_without_merging_spaces_stay(scheme: str, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizers.unigram()
    tokenizer["normalizer"] = None
    tokenizer["pre_tokenizer"] = tokenizer["decoder"] | {"prepend_scheme": scheme}
    folder, size = write(tmp_path / "hf", tokenizer)
    original = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = [t for t in TEXTS + random_texts(()) if scheme == "never" or not t.startswith(" ")]
    with ways(folder, size, tmp_path) as found:
        assert not found.vocabulary.remove_extra_whitespaces
        assert found.vocabulary.add_space_prefix is (scheme == "always")
        found.compare(original, texts)


def test_spaces_replaced_by_the_normalizer_alone(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizers.unigram()
    tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    tokenizer["pre_tokenizer"] = None
    folder, size = write(tmp_path / "hf", tokenizer)
    original = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with ways(folder, size, tmp_path) as found:
        found.compare(original, TEXTS + random_texts(()))


def test_added_tokens_of_other_scripts_do_not_tear_texts_apart(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizers.unigram("xlm-r")
    size = len(tokenizer["model"]["vocab"])
    for offset, name in enumerate(("سیمرغ", "<new>")):
        tokenizer["added_tokens"].append(tiny_tokenizers.added(size + offset, name, special=False))
    folder, _ = write(tmp_path / "hf", tokenizer, "xlm-r")
    original = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with ways(folder, size + 2, tmp_path) as found:
        assert [found.vocabulary.types[size + n] for n in (0, 1)] == [
            TokenType.CONTROL,
            TokenType.USER_DEFINED,
        ]
        assert [note for note in found.notes if "tear apart" in note]
        texts = [*TEXTS, "داستان سیمرغ و سلام <new> x", *random_texts(("سیمرغ", "<new>"))]
        found.compare(original, plain(texts))


BAD: dict[str, tuple[dict[str, Any], type[ConvertersError], str]] = {
    "no unknown piece": ({"model": {"unk_id": None}}, ConfigError, "unk_id is None"),
    "an unknown piece beyond the list": (
        {"model": {"unk_id": 9999}},
        ConfigError,
        "9999, no piece",
    ),
    "no pieces": ({"model": {"vocab": []}}, ConfigError, "no list with pieces"),
    "a piece without a score": ({"model": {"vocab": [["a"]]}}, ConfigError, "piece 0 is ['a']"),
    "a score that is no number": (
        {"model": {"vocab": [["a", float("nan")]]}},
        ConfigError,
        "no text with a score",
    ),
    "a piece twice": (
        {"model": {"vocab": [["a", 0.0], ["a", 0.0]], "unk_id": 0}},
        ConfigError,
        "0 and 1 are both 'a'",
    ),
    "a table that is no base64": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "?"}},
        ConfigError,
        "no base64",
    ),
    "a table that leads outside": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAAAEAEAA"}},
        ConfigError,
        "out of its 1 nodes",
    ),
    "lower case": ({"normalizer": {"type": "Lowercase"}}, UnsupportedError, "no Unigram form"),
    "words without a sign": (
        {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "WhitespaceSplit"},
                    {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "never"},
                ],
            }
        },
        UnsupportedError,
        "no Unigram form",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_llama_cpp_cannot_be_told_is_an_error(case: str, tmp_path: Path) -> None:
    changes, error, words = BAD[case]
    tokenizer = tiny_tokenizers.unigram()
    tokenizer["added_tokens"] = []
    for key, value in changes.items():
        tokenizer[key] = tokenizer["model"] | value if key == "model" else value
    folder, _ = write(tmp_path / "hf", tokenizer)
    with pytest.raises(error) as caught:
        read_vocabulary(folder, {}, 1000, [])
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(folder / "tokenizer.json"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"byte_fallback": True}, "become bytes"),
        ({"vocab": [["a\u2581b", -1.0]]}, "go on past a space"),
    ],
)
def test_what_differs_is_noted(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizers.unigram()
    if "vocab" in change:
        change = {"vocab": tokenizer["model"]["vocab"] + change["vocab"]}
    tokenizer["model"] |= change
    folder, size = write(tmp_path / "hf", tokenizer)
    notes: list[str] = []
    read_vocabulary(folder, {}, size, notes)
    assert [note for note in notes if words in note]
