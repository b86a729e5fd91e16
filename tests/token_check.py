"""A tokenizer three times: by the `tokenizers` library, by llama.cpp, and rebuilt from GGUF."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from edgellm_converters.architectures.values import Values
from edgellm_converters.checkpoints.gguf import GGUFCheckpoint
from edgellm_converters.tokenizers.huggingface import read_vocabulary
from edgellm_converters.tokenizers.layout import KEY
from edgellm_converters.tokenizers.metadata import vocabulary_from_metadata, vocabulary_keys
from edgellm_converters.tokenizers.rebuild import tokenizer_config, tokenizer_json
from edgellm_converters.tokenizers.vocabulary import Vocabulary
from llama_model import LlamaModel, opened
from vocab_file import write_vocabulary

TEXTS = [
    "",
    " ",
    "the cat sat on the mat",
    "Hello, World! It's 12:30 -- don't they've I'LL",
    "  two spaces,    four\n\nlines\t1234 3.14 ",
    "سلام دنیا؛ می\u200cخواهم ۱۲۳ کتاب پیک بخوانم.",
    "كِتَابٌ آب أحمد ۲۰۲۴ ـــ «نقل قول»",
    "mixed فارسی and English در یک متن ok?",
    "emoji 😀👩\u200d👩\u200d👧 中文 e\u0301 É \u00a0 end ",
    "def f(x):\n    return x ** 2  # code\n\n\n\treturn",
]


def random_texts(special: Iterable[str] = (), count: int = 60) -> list[str]:
    """Texts of pieces that tokenizers stumble over, special tokens among them."""
    rng = random.Random(5)
    pieces = [*" \n\tabcthe'-=.,!0129éÉ\u0300\u200c\u200bی،😀中", "  ", "    ", "the", "'s", "'LL"]
    pieces += ["\r\n", "۱۲", "hand", "ing", "سلام", "Spain", "12345", "?!", " (", "_x", *special]
    return ["".join(rng.choices(pieces, k=80)) for _ in range(count)]


def write_folder(folder: Path, tokenizer: dict[str, Any], settings: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def metadata_of(gguf: Path) -> Values:
    with GGUFCheckpoint(gguf) as checkpoint:
        metadata = checkpoint.header.metadata
        return Values(gguf, {key: metadata[key] for key in metadata})


@dataclass(frozen=True, slots=True)
class Ways:
    """The ways in which a text becomes tokens.

    `rebuilt` is made of the GGUF file as it is, `bare` of one that has no layout of ours.
    """

    vocabulary: Vocabulary
    notes: list[str]
    rebuilt: Tokenizer
    bare: Tokenizer
    model: LlamaModel

    def compare(self, original: Tokenizer, texts: Iterable[str]) -> tuple[int, int]:
        """Assert that all say what the original says; give the numbers of texts and of tokens."""
        texts_done = tokens = 0
        for text in texts:
            ids = original.encode(text).ids
            assert self.rebuilt.encode(text).ids == ids, text[:200]
            assert self.bare.encode(text).ids == ids, text[:200]
            assert self.rebuilt.decode(ids) == original.decode(ids)
            assert self.model.tokenize(text) == ids, text[:200]
            texts_done, tokens = texts_done + 1, tokens + len(ids)
        return texts_done, tokens


@contextmanager
def ways(
    folder: Path, size: int, scratch: Path, config: dict[str, Any] | None = None
) -> Iterator[Ways]:
    """Convert the tokenizer of a folder to GGUF and back; `size` is the number of ids."""
    notes: list[str] = []
    vocabulary = read_vocabulary(folder, config or {}, size, notes)
    gguf = write_vocabulary(scratch / "vocabulary.gguf", vocabulary_keys(vocabulary))
    values = metadata_of(gguf)
    bare = Values(gguf, {key: values.raw(key) for key in values if key != KEY})
    assert KEY not in bare
    tokenizers = []
    for metadata in (values, bare):
        found = vocabulary_from_metadata(metadata)
        tokenizers.append(Tokenizer.from_str(json.dumps(tokenizer_json(gguf, found))))
        assert tokenizer_config(found, 8)["model_max_length"] == 8
    with opened(gguf, vocab_only=True) as model:
        yield Ways(vocabulary, notes, tokenizers[0], tokenizers[1], model)
