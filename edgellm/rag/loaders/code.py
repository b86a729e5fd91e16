"""Source code: the file's text is what is shown; definitions are its headings."""

from __future__ import annotations

import re
from pathlib import Path

from edgellm.rag.clean import clean
from edgellm.rag.document import Document, Heading, Page
from edgellm.rag.loaders.encoding import decode
from edgellm.rag.loaders.text import read_bytes

__all__ = ["load"]

# A definition at the start of a line, in the languages that name their kind before the name.
_DEFINITION = re.compile(
    r"^(?:(?:export|default|pub(?:\([a-z]+\))?|public|private|protected|internal|abstract|final"
    r"|static|async|unsafe|data|sealed|open)[ ]){0,4}"
    r"(?:def|class|func|function|fn|struct|enum|trait|interface|impl|module|namespace|object|type)"
    r"[ ](?:\([^()\n]{0,80}\)[ ])?([A-Za-z_][\w.:<>]{0,100})",
    re.MULTILINE,
)


def load(path: Path) -> Document:
    """Read a file of source code; its title is the file's name."""
    text = clean(decode(read_bytes(path)))
    headings = tuple(Heading(found.start(), 1, found[1]) for found in _DEFINITION.finditer(text))
    return Document(path.name, "code", (Page(None, text, headings),))
