"""WordPiece there and back, judged by the `tokenizers` library and by llama.cpp."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

import tiny_tokenizers
from edgellm_converters.errors import ConfigError, ConvertersError, UnsupportedError
from edgellm_converters.tokenizers.huggingface import read_vocabulary
from token_check import TEXTS, random_texts, ways, write_folder

SPECIAL = ("[CLS]", "[SEP]", "[MASK]", "[UNK]", "[PAD]", "[unused0]")


def write(folder: Path, **changes: Any) -> tuple[Path, int]:
    tokenizer = tiny_tokenizers.wordpiece(**changes)
    write_folder(folder, tokenizer, tiny_tokenizers.SETTINGS_BERT)
    return folder, len(tokenizer["model"]["vocab"])


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("strip_accents", [True, False, None])
def test_texts_give_the_same_tokens_everywhere(
    lowercase: bool, strip_accents: bool | None, tmp_path: Path
) -> None:
    folder, size = write(tmp_path / "hf", lowercase=lowercase, strip_accents=strip_accents)
    original = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with ways(folder, size + 3, tmp_path) as found:  # three rows without a token
        found.compare(original, TEXTS + random_texts(SPECIAL))
        assert found.vocabulary.strip_accents is (
            lowercase if strip_accents is None else strip_accents
        )
        roles = {"bos": 2, "cls": 2, "eos": 3, "sep": 3, "mask": 4, "pad": 0, "unk": 1}
        assert found.vocabulary.special == roles


def test_vocab_txt_says_what_tokenizer_json_says(tmp_path: Path) -> None:
    folder, size = write(tmp_path / "hf")
    whole = read_vocabulary(folder, {}, size, [])
    words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    original = Tokenizer.from_file(str(folder / "tokenizer.json"))
    (folder / "tokenizer.json").unlink()
    with ways(folder, size, tmp_path) as found:
        assert found.vocabulary.tokens == whole.tokens
        assert found.vocabulary.types == whole.types
        assert found.vocabulary.special == whole.special
        found.compare(original, TEXTS + random_texts(SPECIAL))


def test_vocab_txt_knows_the_settings_beside_it(tmp_path: Path) -> None:
    folder, size = write(tmp_path / "hf", lowercase=False)
    original = Tokenizer.from_file(str(folder / "tokenizer.json"))
    words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\r\n".join(words))
    settings = tiny_tokenizers.SETTINGS_BERT | {
        "do_lower_case": False,
        "added_tokens_decoder": {"5": {"content": "[unused0]", "special": False}},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with ways(folder, size, tmp_path) as found:
        assert found.vocabulary.types[5] == 4
        assert found.compare(original, TEXTS)[0] == len(TEXTS)


BAD: dict[str, tuple[dict[str, Any], type[ConvertersError], str]] = {
    "another prefix": (
        {"model": {"continuing_subword_prefix": "@@"}},
        UnsupportedError,
        "continuing_subword_prefix is '@@'",
    ),
    "no unknown token": ({"model": {"unk_token": "<unk>"}}, ConfigError, "'<unk>', no token"),
    "another normalizer": (
        {"normalizer": {"type": "Lowercase"}},
        UnsupportedError,
        "BertNormalizer",
    ),
    "a flag of a wrong kind": (
        {"normalizer": {"type": "BertNormalizer", "lowercase": "yes"}},
        ConfigError,
        "no boolean",
    ),
    "another pre-tokenizer": (
        {"pre_tokenizer": {"type": "Whitespace"}},
        UnsupportedError,
        "BertPreTokenizer",
    ),
    "no ends": ({"post_processor": None}, UnsupportedError, "before and after a text"),
    "an end that is no token": (
        {"post_processor": {"type": "BertProcessing", "cls": ["<s>", 0], "sep": ["[SEP]", 3]}},
        ConfigError,
        "adds ['<s>', 0], no token",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_llama_cpp_cannot_be_told_is_an_error(case: str, tmp_path: Path) -> None:
    changes, error, words = BAD[case]
    tokenizer = tiny_tokenizers.wordpiece()
    for key, value in changes.items():
        tokenizer[key] = tokenizer["model"] | value if key == "model" else value
    folder = write_folder(tmp_path / "hf", tokenizer, tiny_tokenizers.SETTINGS_BERT)
    with pytest.raises(error) as caught:
        read_vocabulary(folder, {}, len(tokenizer["model"]["vocab"]), [])
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(folder / "tokenizer.json"))


@pytest.mark.parametrize(
    ("token", "error", "words"),
    [("##\u2581", UnsupportedError, "start of every word"), ("##\u2581the", ConfigError, "both")],
)
def test_a_token_that_collides_with_the_sign_for_words(
    token: str, error: type[ConvertersError], words: str, tmp_path: Path
) -> None:
    tokenizer = tiny_tokenizers.wordpiece()
    size = len(tokenizer["model"]["vocab"])
    tokenizer["model"]["vocab"][token] = size
    folder = write_folder(tmp_path / "hf", tokenizer, tiny_tokenizers.SETTINGS_BERT)
    with pytest.raises(error, match=words):
        read_vocabulary(folder, {}, size + 1, [])


@pytest.mark.parametrize(
    ("normalizer", "words"),
    [
        ({"handle_chinese_chars": False}, "CJK characters"),
        ({"clean_text": False}, "control characters"),
        ({"strip_accents": True}, "spacing marks"),
    ],
)
def test_what_differs_is_noted(normalizer: dict[str, Any], words: str, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizers.wordpiece(lowercase=False)
    tokenizer["normalizer"] |= normalizer
    folder = write_folder(tmp_path / "hf", tokenizer, tiny_tokenizers.SETTINGS_BERT)
    notes: list[str] = []
    read_vocabulary(folder, {}, len(tokenizer["model"]["vocab"]), notes)
    assert [note for note in notes if words in note]
    assert len(notes) == 2  # and that of long words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[PAD]\n[UNK]\n[CLS]\n[SEP]\n", "mask token '[MASK]' is not in the file"),
        ("[PAD]\n[PAD]\n", "both '[PAD]'"),
    ],
)
def test_a_bad_vocab_txt_is_an_error(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_vocabulary(tmp_path, {}, 10, [])
    assert words in str(caught.value)


def test_a_vocab_txt_of_another_class_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertJapaneseTokenizer"}')
    with pytest.raises(UnsupportedError, match="BertJapaneseTokenizer"):
        read_vocabulary(tmp_path, {}, 10, [])


def test_a_real_vocabulary_on_real_texts(
    all_minilm: Path, real_texts: list[str], tmp_path: Path
) -> None:
    # Those that the note on accents speaks of are left out.
    apart = re.compile("[\u0900-\u0dff\uac00-\ud7a3]")
    texts = [text for text in real_texts if not apart.search(text)]
    assert len(texts) > 0.8 * len(real_texts)
    original = Tokenizer.from_file(str(all_minilm / "tokenizer.json"))
    original.no_padding()
    original.no_truncation()
    with ways(all_minilm, 30522, tmp_path) as found:
        _, tokens = found.compare(original, texts)
    assert tokens > 50_000
