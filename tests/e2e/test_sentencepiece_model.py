"""SentencePiece's own file says what tokenizer.json says of the same model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

import tiny_tokenizers as tiny
from e2e.test_unigram import SETTINGS, SPECIAL, plain
from edgellm_converters.errors import (
    ConfigError,
    ConvertersError,
    CorruptFileError,
    UnsupportedError,
)
from edgellm_converters.tokenizers.huggingface import read_vocabulary
from edgellm_converters.tokenizers.spmodel import read_model
from edgellm_converters.tokenizers.vocabulary import TokenType
from token_check import TEXTS, random_texts, ways

CLASSES = {"t5": "T5Tokenizer", "xlm-r": "XLMRobertaTokenizer"}
FILES = {"t5": "spiece.model", "xlm-r": "sentencepiece.bpe.model"}
PIECES = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("a", -1.0, 1)]


def write(folder: Path, name: str, data: bytes, **settings: Any) -> Path:
    folder.mkdir()
    (folder / name).write_bytes(data)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("kind", ["t5", "xlm-r"])
def test_unigram(kind: str, tmp_path: Path) -> None:
    tokenizer = tiny.unigram(kind)
    settings = SETTINGS[kind] | {"tokenizer_class": CLASSES[kind], "extra_ids": 2}
    folder = write(tmp_path / "hf", FILES[kind], tiny.unigram_model(kind), **settings)
    original = Tokenizer.from_str(json.dumps(tokenizer))
    with ways(folder, len(tokenizer["model"]["vocab"]), tmp_path) as found:
        found.compare(original, plain(TEXTS + random_texts(SPECIAL)))
        words = tokenizer["model"]["vocab"]
        assert found.vocabulary.tokens == [word for word, _ in words]
        assert found.vocabulary.types[-1] == TokenType.CONTROL


@pytest.mark.parametrize("prefix", [True, False])
def test_bpe_keeps_its_scores(prefix: bool, tmp_path: Path) -> None:
    tokenizer = tiny.sentencepiece(prefix=prefix)
    folder = write(tmp_path / "hf", "tokenizer.model", tiny.bpe_model(prefix=prefix))
    original = Tokenizer.from_str(json.dumps(tokenizer))
    size = len(tokenizer["model"]["vocab"])
    with ways(folder, size + 3, tmp_path) as found:  # three rows without a token
        found.compare(original, TEXTS + random_texts(("<s>", "</s>", "<unk>")))
        vocabulary = found.vocabulary
        assert vocabulary.scores[259:size] == [float(259 - n) for n in range(259, size)]
        assert vocabulary.types[:4] == [2, 3, 3, 6]
        assert vocabulary.special == {"bos": 1, "eos": 2, "unk": 0}
        assert (vocabulary.add_bos, vocabulary.add_eos) == (True, False)
        assert vocabulary.layout is None


def test_added_tokens_beside_the_model(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "hf",
        "tokenizer.model",
        tiny.bpe_model(),
        add_bos_token=False,
        eos_token="<|im_end|>",
        added_tokens_decoder={
            "2": {"content": "</s>", "special": True},
            "300": {"content": "<renamed>", "special": False},
            "400": {"content": "<|im_end|>", "special": True},
        },
    )
    (folder / "added_tokens.json").write_text('{"<tool>": 401, "<beyond>": 999}')
    notes: list[str] = []
    vocabulary = read_vocabulary(folder, {}, 402, notes)
    assert vocabulary.tokens[300] == "<renamed>"
    assert vocabulary.types[300] == TokenType.USER_DEFINED
    assert vocabulary.tokens[400:] == ["<|im_end|>", "<tool>"]
    assert vocabulary.types[400:] == [TokenType.CONTROL, TokenType.USER_DEFINED]
    assert vocabulary.special["eos"] == 400
    assert not vocabulary.add_bos
    assert [note for note in notes if "1 added tokens beyond" in note]


def test_what_bpe_leaves_out_is_noted(tmp_path: Path) -> None:
    data = tiny.bpe_model() + tiny.field(
        3, tiny.field(4, 1) + tiny.field(2, tiny.charsmap({"a": "b"}))
    )
    notes: list[str] = []
    read_vocabulary(write(tmp_path / "hf", "tokenizer.model", data), {}, 500, notes)
    assert [note for note in notes if "table of replacements is left out" in note]
    assert [note for note in notes if "spaces in a row" in note]


def test_every_field_is_read(tmp_path: Path) -> None:
    """The bytes of a small model, written down one by one."""
    data = bytes.fromhex(
        "0a0e 0a053c756e6b3e 1500000000 1802"  # "<unk>", 0.0, type 2
        "0a08 0a0161 15000080bf"  # "a", -1.0
        "0a0a 0a03e29681 15000000c0"  # U+2581, -2.0
        "1214 1802 980201 c00200 c802ffffffffffffffffff01"  # BPE, byte_fallback, unk 0, bos -1
        "1a04 1800 2000"  # no leading space, spaces as they are
        "2a00 7a0178"  # fields that are not needed
    )
    (tmp_path / "x.model").write_bytes(data)
    model = read_model(tmp_path / "x.model")
    assert model.pieces == ["<unk>", "a", "\u2581"]
    assert model.scores == [0.0, -1.0, -2.0]
    assert model.types == [2, 1, 1]
    assert (model.is_bpe, model.byte_fallback) == (True, True)
    assert (model.unknown, model.bos, model.eos, model.pad) == (0, -1, 2, -1)
    assert (model.add_dummy_prefix, model.remove_extra_whitespaces) == (False, False)


BAD: dict[str, tuple[bytes, type[ConvertersError], str]] = {
    "no pieces": (b"", CorruptFileError, "there are no pieces"),
    "text": (b"IQ== 0\nIg== 1\n", CorruptFileError, "no SentencePiece model"),
    "a number without an end": (b"\xff" * 20, CorruptFileError, "does not end"),
    "a piece that is cut": (b"\x0a\x10\x0a\x02ab", CorruptFileError, "a field of 16 bytes"),
    "a length of 2^63": (b"\x0a" + tiny.varint(1 << 63), CorruptFileError, "bytes, but 0 are left"),
    "a piece that is a number": (tiny.field(1, 5), CorruptFileError, "wire type 0"),
    "an empty piece": (tiny.model_file([("", 0.0, 1)]), CorruptFileError, "piece 0 is empty"),
    "a piece that is not UTF-8": (
        tiny.field(1, tiny.field(1, b"\xff")),
        CorruptFileError,
        "piece 0 is not UTF-8",
    ),
    "a score that is no number": (
        tiny.model_file([("a", float("nan"), 1)]),
        CorruptFileError,
        "score of piece 0 is nan",
    ),
    "a type that is not known": (tiny.model_file([("a", 0.0, 9)]), CorruptFileError, "type 9"),
    "an id beyond the pieces": (tiny.model_file(PIECES, f40=7), CorruptFileError, "unk_id is 7"),
    "no unknown piece": (tiny.model_file(PIECES, f40=-1), CorruptFileError, "no unknown piece"),
    "a model of words": (
        tiny.model_file(PIECES) + tiny.field(2, tiny.field(3, 3)),
        UnsupportedError,
        "of type 3",
    ),
    "spaces after words": (tiny.model_file(PIECES, f24=1), UnsupportedError, "after words"),
    "a table that leads outside": (
        tiny.model_file(PIECES, table=b"\4\0\0\0\0\0\4\0\0"),
        CorruptFileError,
        "precompiled_charsmap leads from node 0",
    ),
    "BPE without bytes": (tiny.model_file(PIECES, bpe=True), UnsupportedError, "<0x00>"),
    "a piece twice": (tiny.model_file([*PIECES, PIECES[3]]), ConfigError, "both 'a'"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_model_gives_one_sentence(case: str, tmp_path: Path) -> None:
    data, error, words = BAD[case]
    folder = write(tmp_path / "hf", "tokenizer.model", data)
    with pytest.raises(error) as caught:
        read_vocabulary(folder, {}, 300, [])
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(folder / "tokenizer.model"))


def test_a_model_that_is_cut_anywhere_is_refused_or_shorter(tmp_path: Path) -> None:
    whole = tiny.unigram_model("t5")
    path = tmp_path / "x.model"
    refused = 0
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        try:
            assert len(read_model(path).pieces) > 0
        except ConvertersError:
            refused += 1
    assert refused > len(whole) / 37 / 2


def test_a_t5_without_an_end_is_refused(tmp_path: Path) -> None:
    data = tiny.model_file(PIECES, f42=-1).replace(b"</s>", b"<?s>")
    folder = write(tmp_path / "hf", "spiece.model", data)
    with pytest.raises(ConfigError, match="adds '</s>', no token"):
        read_vocabulary(folder, {}, 300, [])


def test_a_class_that_is_not_known_is_refused(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "hf", "spiece.model", tiny.unigram_model("t5"), tokenizer_class="AlbertTokenizer"
    )
    with pytest.raises(UnsupportedError, match="AlbertTokenizer"):
        read_vocabulary(folder, {}, 300, [])
