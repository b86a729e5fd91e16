"""Markdown: the file's text is what is shown; its headings are found, and fences are not."""

from __future__ import annotations

import re
from pathlib import Path

from edgellm.rag.clean import clean
from edgellm.rag.document import Document, Heading, Page
from edgellm.rag.loaders.encoding import decode
from edgellm.rag.loaders.text import read_bytes

__all__ = ["load"]

# CommonMark 0.31.2, sections 4.2 (ATX headings), 4.3 (setext headings), 4.5 (fenced code blocks).
_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*")
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
MAX_TITLE = 200  # characters


def load(path: Path) -> Document:
    """Read a Markdown file; its title is the first heading of level 1, or the file's name.

    Comments of HTML are left out: nobody who reads the page sees them.
    """
    text = _COMMENT.sub("", clean(decode(read_bytes(path))))
    headings = tuple(_headings(text))
    title = next((heading.title for heading in headings if heading.level == 1), path.name)
    return Document(title, "markdown", (Page(None, text, headings),))


def _headings(text: str) -> list[Heading]:
    found: list[Heading] = []
    fence = ""
    start, above, above_start = 0, "", 0
    for line in text.split("\n"):
        paragraph = "" if fence else line
        if len(line) <= 4 * MAX_TITLE:
            mark = _FENCE.fullmatch(line)
            if fence:
                if mark and mark[1].startswith(fence) and not mark[2].strip():
                    fence = ""
            elif mark:
                fence, paragraph = mark[1], ""
            elif (heading := _HEADING.fullmatch(line)) and heading[2]:
                found.append(Heading(start, len(heading[1]), heading[2].strip()[:MAX_TITLE]))
                paragraph = ""
            elif above.strip() and (under := _UNDERLINE.fullmatch(line)):
                level = 1 if under[1][0] == "=" else 2
                found.append(Heading(above_start, level, above.strip()[:MAX_TITLE]))
        above, above_start = paragraph, start
        start += len(line) + 1
    return found
