"""Passages and questions to vectors, where the embedder knows the script that they are written in.

An embedder gives vectors of any text, but those of a script that it was not trained on say nothing:
all-MiniLM-L6-v2 finds 1 % of what it should on Persian. Its tokenizer tells: a script that it was
made for has tokens of several letters, another one is spelt letter by letter (or byte by byte).
Such a text gets no vector, and is found by its words.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgellm.rag.embedders import prompts_of
from edgellm.rag.store import EmbedderFacts

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["CHUNK_TOKENS", "PassageEmbedder", "TextEmbedder", "fingerprint"]

CHUNK_TOKENS = 220  # of a chunk's text: with a heading and a prompt it stays below 256
OVERLAP_TOKENS = 24
SAMPLE = 1000  # characters that tell what a text is written in
# Letters a token. English, German and Persian have 2.5 to 5 in a vocabulary that holds them, and
# 1.0 to 1.2 in one that does not.
MIN_LETTERS = 1.75
# Scripts whose words have one or two letters: a token each is right, and several are bytes.
_SHORT_WORDS = re.compile("[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")
MAX_TOKENS_A_SIGN = 1.5
_LETTER = re.compile(r"[^\W\d_]")
_WORDS = re.compile(r"[^\W\d_]+")


class TextEmbedder(Protocol):
    """What `edgellm.api.embed.LoadedEmbedder` is."""

    path: Path
    name: str
    dimension: int
    max_tokens: int
    pooling: str

    def tokenize(self, text: str) -> list[int]:
        """Give the tokens of a text, those around it included."""
        ...

    def embed(
        self,
        texts: Sequence[str],
        *,
        prefix: str = "",
        truncate: bool = False,
        cancelled: Callable[[], bool] = ...,
    ) -> npt.NDArray[np.float32]:
        """Give the vectors of texts, of length 1."""
        ...


class PassageEmbedder:
    """An embedding model as a library uses it.

    Args:
        model: the loaded model.
        reference: by what name or path it is found again.
        cancelled: asked while texts are evaluated.

    Attributes:
        facts: which embedder it is.
    """

    def __init__(
        self,
        model: TextEmbedder,
        reference: str,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._model = model
        self._cancelled = cancelled
        self._prompts = prompts_of(reference, model.name, model.path.stem)
        self._ends = len(model.tokenize("a")) - 1
        self.facts = EmbedderFacts(
            name=model.path.stem,
            embed_id=fingerprint(model.path, self._prompts.passage, model.pooling),
            model=reference,
            dimension=model.dimension,
        )

    def knows(self, text: str) -> bool:
        """Tell whether the model was trained on the script that most of a text is written in."""
        words = " ".join(_WORDS.findall(text[:SAMPLE]))
        letters = len(words.replace(" ", ""))
        if not letters:
            return True
        tokens = max(len(self._model.tokenize(words)) - self._ends, 1)
        if 3 * len(_SHORT_WORDS.findall(words)) > letters:
            return tokens / letters <= MAX_TOKENS_A_SIGN
        return letters / tokens >= MIN_LETTERS

    def count_tokens(self, text: str) -> int:
        """Give the size of a text by which it is cut."""
        return len(self._model.tokenize(text)) - self._ends

    def embed_passages(self, passages: Sequence[str]) -> list[bytes]:
        """Give the vectors of passages as little-endian float16; what is too long is cut."""
        import numpy as np

        vectors = self._model.embed(
            passages, prefix=self._prompts.passage, truncate=True, cancelled=self._cancelled
        )
        return [vector.astype(np.dtype("<f2")).tobytes() for vector in vectors]

    def embed_query(self, query: str) -> npt.NDArray[np.float32]:
        """Give the vector of a question."""
        vectors = self._model.embed(
            [query], prefix=self._prompts.query, truncate=True, cancelled=self._cancelled
        )
        first: npt.NDArray[np.float32] = vectors[0]
        return first


def fingerprint(path: Path, *facts: str) -> str:
    """Give a digest of a model file and of how it is used.

    Of a large file pieces are read, spread over all of it: two trainings of a model differ in all
    of their weights, and reading everything would take seconds at each start.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(repr((size, *facts)).encode())
    with path.open("rb", buffering=0) as file:
        for part in range(64):
            file.seek(part * size // 64, os.SEEK_SET)
            digest.update(file.read(16384))
    return digest.hexdigest()
