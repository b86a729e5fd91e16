"""PDF through PDFium: each page's text in reading order, with the outline as headings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from edgellm.rag.clean import clean
from edgellm.rag.document import Document, Heading, Page
from edgellm.rag.loaders.building import MAX_TITLE, one_line
from edgellm.rag.loaders.errors import LoaderError
from edgellm.rag.loaders.limits import MAX_PAGES, MAX_TEXT
from edgellm.rag.optional import package

__all__ = ["load"]

MAX_OUTLINE = 10_000  # entries
_HYPHEN = re.compile("[\x02\ufffe](?:\r?\n)?")  # PDFium's mark of a word broken at a line's end
_PASSWORD = 4  # FPDF_ERR_PASSWORD
_IMAGE = 3  # FPDF_PAGEOBJ_IMAGE


def load(path: Path) -> Document:
    """Read a PDF file; its title is that of its metadata, or the file's name."""
    library = package("pypdfium2", "pypdfium2")
    try:
        document = library.PdfDocument(path)
    except library.PdfiumError as error:
        if getattr(error, "err_code", None) == _PASSWORD or "password" in str(error).lower():
            raise LoaderError("is protected by a password") from error
        raise LoaderError("is no PDF file that can be read: it is damaged or cut") from error
    count = len(document)
    if count > MAX_PAGES:
        raise LoaderError(f"has {count:,} pages; files of up to {MAX_PAGES:,} are read")
    outline = _outline(document)
    pages, length, scanned = [], 0, 0
    path_above: list[tuple[int, str]] = []
    for index in range(count):
        text, pictures = _page(document, index, library)
        length += len(text)
        if length > MAX_TEXT:
            raise LoaderError(f"has over {MAX_TEXT // 1_000_000} million characters")
        scanned += pictures
        headings = [Heading(0, level, title) for level, title in path_above]
        for level, title in outline.get(index, ()):
            at = max(0, text.find(title))
            headings.append(Heading(at, level, title))
            path_above = [*(above for above in path_above if above[0] < level), (level, title)]
        headings.sort(key=lambda heading: heading.start)
        pages.append(Page(index + 1, text, tuple(headings)))
    if not any(page.text.strip() for page in pages):
        if scanned:
            raise LoaderError(
                f"is a scan: {scanned:,} of its {count:,} pages are pictures without text",
                hint="a program for OCR (such as ocrmypdf) adds the text",
            )
        raise LoaderError("has no text")
    title = one_line(clean(document.get_metadata_dict().get("Title", "")))[:MAX_TITLE]
    return Document(title or path.name, "pdf", tuple(pages))


def _page(document: Any, index: int, library: Any) -> tuple[str, bool]:
    """Give a page's text, and whether it is pictures without text. A broken page has no text."""
    try:
        page = document[index]
        try:
            textpage = page.get_textpage()
            try:
                text = clean(_HYPHEN.sub("", textpage.get_text_range())).strip()
            finally:
                textpage.close()
            pictures = not text and any(True for _ in page.get_objects([_IMAGE], max_depth=2))
        finally:
            page.close()
    except library.PdfiumError:
        return "", False
    return text, pictures


def _outline(document: Any) -> dict[int, list[tuple[int, str]]]:
    """Give the entries of the outline by page: (level from 1, title)."""
    found: dict[int, list[tuple[int, str]]] = {}
    for number, entry in enumerate(document.get_toc(max_depth=6)):
        if number >= MAX_OUTLINE:
            break
        target = entry.get_dest()
        index = target.get_index() if target is not None else None
        title = one_line(clean(entry.get_title()))[:MAX_TITLE]
        if index is not None and title:
            found.setdefault(index, []).append((entry.level + 1, title))
    return found
