"""Documents cut into chunks that an embedder can read, each with its place.

A chunk is a span of one page's text, so that a citation opens where it says. Sections (what stands
under a heading) are not mixed unless several fit a chunk whole; longer ones are cut by
semantic-text-splitter at the largest boundary that fits: paragraph, sentence, word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgellm.errors import UsageError
from edgellm.rag.document import Document, Heading, Page
from edgellm.rag.optional import package

__all__ = ["MAX_WINDOW", "Chunk", "chunks"]

# Characters that the splitter sees at once: its time grows with the square of a text that has no
# boundary (1 million letters without a space took 21 s, and 0.4 s in windows of this size).
MAX_WINDOW = 16_000


@dataclass(frozen=True)
class Chunk:
    """A span of a document: `text == pages[...].text[char_start:char_end]`.

    `ord` counts the document's chunks from 0; `page` is the page's number, or None where the format
    has no pages; `heading` holds the titles above its start, joined by " > ".
    """

    ord: int
    page: int | None
    char_start: int
    char_end: int
    heading: str
    text: str


def chunks(
    document: Document, count_tokens: Callable[[str], int], *, size: int, overlap: int = 0
) -> Iterator[Chunk]:
    """Cut a document into chunks of at most `size` tokens, as `count_tokens` counts them.

    Neighbours inside a section share up to `overlap` tokens. Only a single character may count more
    than `size`. White space around a chunk is not part of it, and a chunk is never empty.

    Raises UsageError: sizes that contradict each other, or the package is missing.
    """
    if size < 1 or not 0 <= overlap < size:
        raise UsageError(f"chunks of {size} tokens cannot share {overlap}")
    library = package("semantic_text_splitter", "semantic-text-splitter")
    splitter = library.TextSplitter.from_callback(count_tokens, size, overlap=overlap)
    number = 0
    for page in document.pages:
        for start, end in _groups(page, count_tokens, size):
            for first, found in splitter.chunk_indices(page.text[start:end]):
                text = found.strip()
                if not text:
                    continue
                at = start + first + found.index(text)
                heading = " > ".join(_path(page.headings, at))
                yield Chunk(number, page.number, at, at + len(text), heading, text)
                number += 1


def _groups(page: Page, count_tokens: Callable[[str], int], size: int) -> Iterator[tuple[int, int]]:
    """Give spans to cut: neighbouring sections that fit a chunk together are one span."""
    begin, tokens = 0, 0
    for start, end in _sections(page):
        # Tokens are counted only where the characters could fit: a token is seldom over 16.
        count = count_tokens(page.text[start:end]) if end - start <= 16 * size else size + 1
        if tokens and tokens + count > size:
            yield begin, start
            begin, tokens = start, 0
        tokens += count
    if begin < len(page.text):
        yield begin, len(page.text)


def _sections(page: Page) -> Iterator[tuple[int, int]]:
    starts = sorted({0, *(heading.start for heading in page.headings)})
    for start, end in zip(starts, [*starts[1:], len(page.text)], strict=True):
        yield from _windows(page.text, start, end)


def _windows(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Give parts of a long section, ended at a paragraph, a line or a word where there is one."""
    while end - start > MAX_WINDOW:
        half = start + MAX_WINDOW // 2
        stop = start + MAX_WINDOW
        cuts = (text.rfind(mark, half, stop) for mark in ("\n\n", "\n", " "))
        cut = next((at + 1 for at in cuts if at >= 0), stop)
        yield start, cut
        start = cut
    if start < end:
        yield start, end


def _path(headings: tuple[Heading, ...], at: int) -> list[str]:
    """Give the titles of the headings above a place, the outermost first."""
    path: list[Heading] = []
    for heading in headings:
        if heading.start > at:
            break
        while path and path[-1].level >= heading.level:
            path.pop()
        path.append(heading)
    return [heading.title for heading in path]
