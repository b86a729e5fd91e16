"""What a document may cost. A file over a limit is refused with its reason, not cut."""

from __future__ import annotations

__all__ = [
    "MAX_BYTES",
    "MAX_DEPTH",
    "MAX_MARKUP",
    "MAX_MEMORY",
    "MAX_PAGES",
    "MAX_SECONDS",
    "MAX_TEXT",
    "MAX_UNPACKED",
]

MAX_BYTES = 500_000_000  # of a file in a format of its own (PDF, DOCX, EPUB)
MAX_MARKUP = 64_000_000  # bytes of a file that is read whole (text, HTML) or of one part of an EPUB
MAX_TEXT = 64_000_000  # characters of a document
MAX_PAGES = 20_000
MAX_UNPACKED = 256_000_000  # bytes that an archive (DOCX, EPUB) unpacks to, all parts together
MAX_DEPTH = 2_000  # of elements in elements, of values in values
MAX_SECONDS = 300.0  # in the process that reads risky formats
MAX_MEMORY = 2_000_000_000  # bytes of that process
