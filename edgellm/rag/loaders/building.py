"""A page's text, put together block by block with the headings in it."""

from __future__ import annotations

import re

from edgellm.rag.clean import clean
from edgellm.rag.document import Heading, Page
from edgellm.rag.loaders.errors import LoaderError
from edgellm.rag.loaders.limits import MAX_TEXT

__all__ = ["MAX_TITLE", "PageBuilder", "one_line"]

MAX_TITLE = 200  # characters of a heading's title
_SPACE = re.compile(r"[ \t\n\r\f\v\u00a0]+")


class PageBuilder:
    """Blocks of text, an empty line between them; a line's end between two that are `close`."""

    def __init__(self) -> None:
        self.headings: list[Heading] = []
        self._parts: list[str] = []
        self._length = 0
        self._last_close = False

    def add(self, text: str, *, level: int | None = None, close: bool = False) -> None:
        """Add a block; with a level it is a heading. An empty one adds nothing."""
        text = clean(text).strip()
        if not text:
            return
        if self._parts:
            gap = "\n" if close and self._last_close else "\n\n"
            self._parts.append(gap)
            self._length += len(gap)
        self._last_close = close
        if level is not None:
            self.headings.append(Heading(self._length, level, one_line(text)[:MAX_TITLE]))
        self._parts.append(text)
        self._length += len(text)
        if self._length > MAX_TEXT:
            raise LoaderError(f"has over {MAX_TEXT // 1_000_000} million characters")

    def page(self, number: int | None) -> Page:
        """Give the page."""
        return Page(number, "".join(self._parts), tuple(self.headings))


def one_line(text: str) -> str:
    """Give a text with each run of white space as one space; a ZWNJ is none."""
    return _SPACE.sub(" ", text).strip()
