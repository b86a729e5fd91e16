"""Real vocabularies, with the token ids that their own tokenizers gave.

They travel in llama-cpp-python's source distribution (vendor/llama.cpp/models): GGUF files without
weights, texts (.inp) and ids (.out).
"""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

import pytest
from tokenizers import Tokenizer

import tiny_tokenizers
from edgellm_converters.tokenizers.metadata import vocabulary_from_metadata
from edgellm_converters.tokenizers.pretokenizers import by_name
from edgellm_converters.tokenizers.rebuild import tokenizer_json
from llama_model import opened
from llama_sources import source_or_skip
from token_check import TEXTS, metadata_of, random_texts, ways, write_folder

pytestmark = pytest.mark.oracle
MODELS = source_or_skip() / "models"
# Files without a pre-tokenizer's name (aquila, gpt-neox) and of Gemma 4's tokenizer are not here.
NAMES = (
    *("bert-bge", "command-r", "deepseek-coder", "deepseek-llm", "falcon", "gpt-2", "llama-bpe"),
    *("llama-spm", "mpt", "phi-3", "qwen2", "qwen35", "refact", "starcoder"),
)
BETWEEN = "\n__ggml_vocab_test__\n"


def rebuilt(name: str) -> tuple[Path, dict[str, object]]:
    path = MODELS / f"ggml-vocab-{name}.gguf"
    return path, tokenizer_json(path, vocabulary_from_metadata(metadata_of(path)))


def vectors(name: str) -> list[tuple[str, list[int]]]:
    texts = (MODELS / f"ggml-vocab-{name}.gguf.inp").read_text(encoding="utf-8").split(BETWEEN)
    ids = (MODELS / f"ggml-vocab-{name}.gguf.out").read_text().splitlines()
    assert len(texts) - 1 == len(ids) > 40  # the last text is empty
    return [(text, [int(n) for n in line.split()]) for text, line in zip(texts, ids, strict=False)]


def assert_alike(path: Path, library: Tokenizer, texts: list[str]) -> None:
    with opened(path, vocab_only=True) as model:
        for text in texts:
            ids = library.encode(text, add_special_tokens=False).ids
            assert model.tokenize(text, special=False) == ids, text[:200]


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_those_of_the_vocabulary_s_own_tokenizer(name: str) -> None:
    _, tokenizer = rebuilt(name)
    library = Tokenizer.from_str(json.dumps(tokenizer))
    for text, ids in vectors(name):
        assert library.encode(text, add_special_tokens=False).ids == ids, text


@pytest.mark.parametrize("name", [*NAMES, "baichuan"])
def test_texts_give_the_tokens_of_llama_cpp(name: str, real_texts: list[str]) -> None:
    path, tokenizer = rebuilt(name)
    library = Tokenizer.from_str(json.dumps(tokenizer))
    texts = TEXTS + random_texts() + real_texts
    if tokenizer["normalizer"] == {"type": "NFC"}:  # which llama.cpp leaves out, as a note says
        texts = [unicodedata.normalize("NFC", text) for text in texts]
    if name == "bert-bge":  # its note speaks of marks and of Hangul
        apart = re.compile("[\u0900-\u0dff\uac00-\ud7a3]")
        texts = [text for text in texts if not apart.search(text)]
    assert_alike(path, library, texts)


@pytest.mark.parametrize("name", ["falcon", "deepseek-llm"])
def test_forms_that_a_vocabulary_was_learned_with(name: str, real_texts: list[str]) -> None:
    path, tokenizer = rebuilt(name)
    (steps,) = by_name(path, name).learned
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": list(steps)}
    library = Tokenizer.from_str(json.dumps(tokenizer))
    for text, ids in vectors(name):
        assert library.encode(text, add_special_tokens=False).ids == ids, text
    assert_alike(path, library, TEXTS + random_texts() + real_texts)


def test_xlm_roberta_there_and_back(real_texts: list[str], tmp_path: Path) -> None:
    """250,000 Unigram pieces and SentencePiece's table for NFKC."""
    path, tokenizer = rebuilt("nomic-bert-moe")
    vocabulary = vocabulary_from_metadata(metadata_of(path))
    folder = write_folder(tmp_path / "hf", tokenizer, tiny_tokenizers.SETTINGS_XLMR)
    original = Tokenizer.from_file(str(folder / "tokenizer.json"))
    # Its note speaks of marks after a letter that the table replaces.
    texts = [text for text in real_texts if not any(map(unicodedata.combining, text))]
    assert len(texts) > 0.6 * len(real_texts)
    with opened(path, vocab_only=True) as model:
        wanted = [model.tokenize(text) for text in texts]
    assert [original.encode(text).ids for text in texts] == wanted
    with ways(folder, len(vocabulary.tokens), tmp_path) as found:
        assert found.compare(original, texts)[1] == sum(map(len, wanted))
        assert found.vocabulary.types == vocabulary.types
        assert found.vocabulary.scores == vocabulary.scores
        assert found.vocabulary.charsmap == vocabulary.charsmap
