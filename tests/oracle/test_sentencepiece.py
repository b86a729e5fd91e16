"""Model files that SentencePiece trains, read by us, give in llama.cpp the ids of SentencePiece."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

import tiny_tokenizers
from token_check import TEXTS, random_texts, ways

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("default")]
sentencepiece = pytest.importorskip("sentencepiece")


def train(kind: str, texts: list[str], **settings: object) -> bytes:
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in texts for line in text.split("\n") if line.strip()),
        model_writer=out,
        model_type=kind,
        vocab_size=1200,
        character_coverage=1.0,
        num_threads=1,
        minloglevel=2,
        **settings,
    )
    return out.getvalue()


def pieces_of(data: bytes) -> tuple[object, int]:
    processor = sentencepiece.SentencePieceProcessor(model_proto=data)
    return processor, processor.get_piece_size()


@pytest.fixture(scope="module")
def texts(real_texts: list[str]) -> list[str]:
    return [text[:700] for text in real_texts]


@pytest.mark.parametrize("rule", ["nmt_nfkc", "nmt_nfkc_cf", "identity"])
def test_unigram(rule: str, texts: list[str], tmp_path: Path) -> None:
    data = train(
        "unigram", texts, normalization_rule_name=rule, pad_id=0, eos_id=1, unk_id=2, bos_id=-1
    )
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "spiece.model").write_bytes(data)
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0}
    (tmp_path / "hf" / "tokenizer_config.json").write_text(json.dumps(settings))
    processor, size = pieces_of(data)
    assert size > 1000
    count = 0
    with ways(tmp_path / "hf", size, tmp_path) as found:
        for text in TEXTS + random_texts() + texts:
            ids = [*processor.encode(text), 1]
            assert found.model.tokenize(text) == ids, text
            count += len(ids)
    assert count > 10_000


@pytest.mark.parametrize("prefix", [True, False])
def test_bpe(prefix: bool, texts: list[str], tmp_path: Path) -> None:
    data = train(
        "bpe",
        texts,
        normalization_rule_name="identity",
        byte_fallback=True,
        add_dummy_prefix=prefix,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        user_defined_symbols=["<tool>"],
    )
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "tokenizer.model").write_bytes(data)
    processor, size = pieces_of(data)
    count = 0
    with ways(tmp_path / "hf", size, tmp_path) as found:
        for text in TEXTS + random_texts() + texts:
            ids = [1, *processor.encode(text)] if text else [1]
            assert found.model.tokenize(text, parse=False) == ids, text
            # What the folder that is made of the GGUF file says.
            assert found.bare.encode(text).ids == ids, text
            count += len(ids)
    assert count > 10_000
    assert tiny_tokenizers.SPACE in found.vocabulary.tokens
