"""Plain text and source code: the file's text is what is shown."""

from __future__ import annotations

from pathlib import Path

from edgellm.rag.clean import clean
from edgellm.rag.document import Document, Page
from edgellm.rag.loaders.encoding import decode
from edgellm.rag.loaders.errors import LoaderError
from edgellm.rag.loaders.limits import MAX_MARKUP

__all__ = ["load", "read_bytes"]


def load(path: Path) -> Document:
    """Read a text file; its title is the file's name."""
    text = clean(decode(read_bytes(path)))
    return Document(path.name, "text", (Page(None, text),))


def read_bytes(path: Path, limit: int = MAX_MARKUP) -> bytes:
    """Read a file that must not be longer than `limit` bytes.

    Raises LoaderError: it is longer.
    """
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise LoaderError(f"is over {limit // 1_000_000} MB, more than is read of such a file")
    return data
