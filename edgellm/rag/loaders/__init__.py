"""Files to documents: one module for each format, found by the file's suffix.

A loader is a module with `load(path) -> Document`; LOADERS is the table of all.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

from edgellm.rag.document import Document, Page
from edgellm.rag.loaders.errors import LoaderError

__all__ = ["LOADERS", "Document", "Loader", "LoaderError", "Page", "load", "loader_for"]


@dataclass(frozen=True)
class Loader:
    """A row of the table: the module, its suffixes, and whether a process of its own reads it."""

    name: str
    suffixes: tuple[str, ...]
    risky: bool = False


LOADERS = (
    Loader("text", (".txt", ".text", ".log", ".rst", ".adoc", ".org", ".tex", ".srt", ".vtt")),
    Loader("markdown", (".md", ".markdown", ".mdown", ".mkd")),
)
BY_SUFFIX = {suffix: loader for loader in LOADERS for suffix in loader.suffixes}


def loader_for(path: Path) -> Loader | None:
    """Give the loader of a file by its suffix, or None where its format is not known."""
    return BY_SUFFIX.get(path.suffix.lower())


def load(path: Path) -> Document:
    """Read a document.

    Raises LoaderError: the file is not read, and why. UsageError: a package is missing.
    """
    loader = loader_for(path)
    if loader is None:
        raise LoaderError(f"has a format that is not read ({path.suffix or 'no suffix'})")
    try:
        module = importlib.import_module(f"edgellm.rag.loaders.{loader.name}")
        document: Document = module.load(path)
    except OSError as error:
        raise LoaderError(f"cannot be opened: {error.strerror or error}") from error
    if not any(page.text.strip() for page in document.pages):
        raise LoaderError("has no text")
    return document
