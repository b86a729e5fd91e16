"""Libraries filled with vectors that are made up, and their exact answers by numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgellm.rag.chunk import Chunk
from edgellm.rag.store import EmbedderFacts, Library, Source

__all__ = ["FACTS", "SIZE", "document", "exact", "unit_vectors"]

SIZE = 70  # no multiple of 8 or 64
FACTS = EmbedderFacts("made-up", "0" * 64, "made-up", SIZE)


def unit_vectors(count: int, seed: int, *, shift: float = 0.0) -> np.ndarray:
    """Vectors of length 1 as they are stored: float16 (count, SIZE); `shift` makes them alike."""
    vectors = np.random.default_rng(seed).normal(size=(count, SIZE)) + shift
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("<f2")


def document(
    library: Library, path: str, texts: list[str], vectors: np.ndarray | None = None
) -> None:
    """Put a document of so many chunks."""
    places = np.cumsum([0, *map(len, texts)]).tolist()
    pieces = [
        Chunk(number, None, places[number], places[number + 1], "", text)
        for number, text in enumerate(texts)
    ]
    blobs = [None] * len(texts) if vectors is None else [vector.tobytes() for vector in vectors]
    source = Source(0, path, path.encode(), 1, 1, Path(path).suffix[1:] or "text", "ok", None)
    library.put_document(source, pieces, blobs)


def exact(vectors: np.ndarray, query: np.ndarray, count: int) -> list[int]:
    """The rows of the largest products, best first."""
    return np.argsort(-(vectors.astype(np.float32) @ query), kind="stable")[:count].tolist()
