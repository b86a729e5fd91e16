"""Files to documents: one module for each format, found by the file's suffix.

A loader is a module with `load(path) -> Document`; LOADERS is the table of all. To add one, write
the module and its row, and give tests/conformance/test_loaders.py a file of the format.
"""

from __future__ import annotations

import importlib
import stat
from dataclasses import dataclass
from pathlib import Path

from edgellm.rag.document import Document, Page
from edgellm.rag.loaders.errors import LoaderError
from edgellm.rag.loaders.limits import MAX_BYTES
from edgellm.rag.loaders.process import load_apart

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
    Loader("html", (".html", ".htm", ".xhtml"), risky=True),
    Loader("pdf", (".pdf",), risky=True),
    Loader("docx", (".docx",), risky=True),
    Loader("epub", (".epub",), risky=True),
    Loader("table", (".csv", ".tsv", ".json", ".jsonl", ".ndjson")),
    Loader(
        "code",
        (
            ".c", ".cc", ".cpp", ".cs", ".css", ".dart", ".ex", ".exs", ".go", ".h", ".hpp", ".hs",
            ".java", ".jl", ".js", ".jsx", ".kt", ".lua", ".m", ".ml", ".php", ".pl", ".ps1", ".py",
            ".pyi", ".r", ".rb", ".rs", ".scala", ".scm", ".sh", ".sql", ".swift", ".toml", ".ts",
            ".tsx", ".yaml", ".yml", ".zig",
        ),
    ),
)  # fmt: skip
BY_SUFFIX = {suffix: loader for loader in LOADERS for suffix in loader.suffixes}
BY_NAME = {"readme": "text", "license": "text", "changelog": "text", "makefile": "code"}
REFUSED = {
    **dict.fromkeys(
        (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"),
        "is an archive, which is not opened: unpack it first",
    ),
    **dict.fromkeys((".doc", ".ppt", ".xls", ".odt", ".rtf", ".pptx", ".xlsx"),
                    "has a format that is not read: save it as DOCX, PDF or CSV"),
}  # fmt: skip


def loader_for(path: Path) -> Loader | None:
    """Give the loader of a file by its suffix, or None where its format is not known."""
    found = BY_SUFFIX.get(path.suffix.lower())
    if found is None and path.name.lower() in BY_NAME:
        name = BY_NAME[path.name.lower()]
        return next(loader for loader in LOADERS if loader.name == name)
    return found


def load(path: Path) -> Document:
    """Read a document.

    Raises LoaderError: the file is not read, and why. UsageError: a package is missing.
    """
    loader = loader_for(path)
    if loader is None:
        suffix = path.suffix.lower()
        reason = f"has a format that is not read ({suffix or 'no suffix'})"
        raise LoaderError(REFUSED.get(suffix, reason))
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # to open a pipe or a device may wait for ever
            raise LoaderError("is no file")
        if found.st_size > MAX_BYTES:
            raise LoaderError(f"is over {MAX_BYTES // 1_000_000} MB")
        if loader.risky:
            document = load_apart(loader.name, path)
        else:
            document = importlib.import_module(f"edgellm.rag.loaders.{loader.name}").load(path)
    except OSError as error:
        raise LoaderError(f"cannot be opened: {error.strerror or error}") from error
    if not any(page.text.strip() for page in document.pages):
        raise LoaderError("has no text")
    return document
