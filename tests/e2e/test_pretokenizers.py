"""Every row of the table of pre-tokenizers splits as llama.cpp does under each of its names.

The vocabulary is learned on the test's own texts without any splitting: its merges go across words,
digits, signs and spaces, so that a border in another place gives other tokens.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from edgellm_converters.checkpoints.gguf_values import StoredType, ValueType
from edgellm_converters.errors import UnsupportedError
from edgellm_converters.tokenizers.pretokenizers import PRE_TOKENIZERS, PreTokenizer, by_layout
from llama_model import opened
from token_check import TEXTS, random_texts
from vocab_file import write_vocabulary

ROWS = {row.name: row for row in PRE_TOKENIZERS}
TEXT, FLAG = StoredType(ValueType.STRING), StoredType(ValueType.BOOL)
TEXTS_OF, INTS_OF = (StoredType(ValueType.ARRAY, k) for k in (ValueType.STRING, ValueType.INT32))
MORE = [
    "Numbers 1 12 123 1234 12345 123456 ۱ ۱۲ ۱۲۳ ۱۲۳۴ ²³¼ Ⅷ x2y33z444 1,234.56 0x1F",
    "CamelCase camelCaseWord XMLHttpRequest iPhone IOError don't DON'T we'LL I'm it'S O'Reilly's",
    "signs !!! ... --- *** a+b=c <tag/> {x: [1,2]} #hash @name $5 50% ~/path/to/file\\n `code`",
    "سلام!دنیا؟ (می\u200cخواهم) «کتاب»، ۱۳۹۹/۰۲/۰۳ و ۵۰٪؛ پیشرفت‌های تازه... ok؟",
    "CJK 中文字符 ひらがな カタカナ 한국어 混合abc中文123、。「引用」",
    "line\nline\r\nline\n\n\nline\t\ttab \n  indented\n\tx  y   z    end   \n",
]


@cache
def learn(texts: tuple[str, ...]) -> str:
    """Learn byte-level merges on whole texts, by the library's own trainer: a tokenizer.json."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=6000,
        min_frequency=1,
        max_token_length=32,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.to_str()


def splits_alike(row: PreTokenizer, name: str, texts: tuple[str, ...], folder: Path) -> int:
    """Assert that llama.cpp under a name and the library with each layout agree; count tokens."""
    learned: dict[str, Any] = json.loads(learn(texts))
    model = learned["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    keys = {
        "tokenizer.ggml.model": (TEXT, "gpt2"),
        "tokenizer.ggml.pre": (TEXT, name),
        "tokenizer.ggml.tokens": (TEXTS_OF, tokens),
        "tokenizer.ggml.token_type": (INTS_OF, [1] * len(tokens)),
        "tokenizer.ggml.merges": (TEXTS_OF, [" ".join(pair) for pair in model["merges"]]),
        "tokenizer.ggml.add_bos_token": (FLAG, False),
    }
    with opened(write_vocabulary(folder / "x.gguf", keys), vocab_only=True) as opened_model:
        wanted = [opened_model.tokenize(text, special=False, parse=False) for text in texts]
    model["ignore_merges"] = row.ignore_merges
    for steps in (row.steps, *row.forms, *inverted(row)):
        learned["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": list(steps)}
        library = Tokenizer.from_str(json.dumps(learned))
        for text, ids in zip(texts, wanted, strict=True):
            assert library.encode(text).ids == ids, text[:200]
    return sum(map(len, wanted))


def inverted(row: PreTokenizer) -> list[tuple[dict[str, object], ...]]:
    """The form of a tokenizer made from tiktoken's: what does not match is removed."""
    first, *rest = row.steps
    pattern = first.get("pattern")
    if not isinstance(pattern, dict) or not pattern["Regex"].endswith(r"|\s+"):
        return []
    other = (first | {"behavior": "Removed", "invert": True}, *rest)
    layout = {"type": "Sequence", "pretokenizers": list(other)}
    assert by_layout(Path("x"), layout, ignore_merges=row.ignore_merges).steps == row.steps
    return [other]


def fitting(row: PreTokenizer, texts: Sequence[str]) -> tuple[str, ...]:
    """Take out what the row's note speaks of: marks, and letters with case beyond ASCII."""

    def differs(letter: str) -> bool:
        kind = unicodedata.category(letter)
        return kind[0] == "M" or (not letter.isascii() and kind in ("Lu", "Ll", "Lt"))

    if not row.note:
        return tuple(texts)
    return tuple("".join(c for c in text if not differs(c)) for text in texts)


@pytest.mark.parametrize(
    ("row", "name"),
    [
        pytest.param(row, name, id=name)
        for row in PRE_TOKENIZERS
        for name in (row.name, *row.aliases)
    ],
)
def test_every_name_splits_as_llama_cpp_does(row: PreTokenizer, name: str, tmp_path: Path) -> None:
    texts = fitting(row, TEXTS + MORE + random_texts())
    assert splits_alike(row, name, texts, tmp_path) > 2000


@pytest.mark.parametrize("name", ROWS)
def test_real_texts_are_split_as_llama_cpp_does(
    name: str, real_texts: list[str], tmp_path: Path
) -> None:
    texts = fitting(ROWS[name], [text[:600] for text in real_texts])
    assert splits_alike(ROWS[name], name, texts, tmp_path) > 5000


def test_each_form_finds_its_row() -> None:
    for row in PRE_TOKENIZERS:
        for steps in (row.steps, *row.forms, *row.learned):
            layout = {"type": "Sequence", "pretokenizers": list(steps)}
            found = by_layout(Path("x"), layout, ignore_merges=row.ignore_merges)
            assert found.steps == row.steps
            assert found.ignore_merges == row.ignore_merges


def test_an_inverted_split_that_leaves_something_out_is_unknown() -> None:
    split = {
        "type": "Split",
        "pattern": {"Regex": r"\p{N}"},
        "behavior": "Removed",
        "invert": True,
    }
    with pytest.raises(UnsupportedError, match="not known here"):
        by_layout(Path("x"), split)
