"""DOCX: paragraphs and tables in the order of the text; what Word hides is left out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from edgellm.rag.clean import clean
from edgellm.rag.document import Document
from edgellm.rag.loaders.archive import open_archive
from edgellm.rag.loaders.building import MAX_TITLE, PageBuilder, one_line
from edgellm.rag.loaders.errors import LoaderError
from edgellm.rag.optional import package

__all__ = ["load"]

# ECMA-376 part 1, 17.3 (paragraphs, runs) and 17.13.5 (what tracked changes deleted).
_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_BREAKS = {_W + "tab": "\t", _W + "br": "\n", _W + "cr": "\n", _W + "noBreakHyphen": "-"}
_OFF = ("0", "false", "off")
_GONE = (_W + "del", _W + "moveFrom")
_HEADING = re.compile(r"heading ([1-9])", re.IGNORECASE)


def load(path: Path) -> Document:
    """Read a DOCX file; its title is that of its properties, or the file's name."""
    library = package("docx", "python-docx")
    open_archive(path, "DOCX").close()
    try:
        document = library.Document(str(path))
        built = PageBuilder()
        _blocks(document, built)
        title = one_line(clean(document.core_properties.title or ""))[:MAX_TITLE]
    except (LoaderError, MemoryError):
        raise
    except Exception as error:  # python-docx raises what lxml, zipfile and its own code raise
        raise LoaderError(
            "is no DOCX file that can be read: it is damaged, or too large"
        ) from error
    return Document(title or path.name, "docx", (built.page(None),))


def _blocks(document: Any, built: PageBuilder) -> None:
    for block in document.iter_inner_content():
        if hasattr(block, "rows"):
            _table(block, built)
            continue
        name = (block.style.name if block.style is not None else None) or ""
        heading = _HEADING.fullmatch(name)
        level = int(heading[1]) if heading else 1 if name == "Title" else None
        item = name.startswith("List")
        text = _text(block._p)
        built.add(f"- {text}" if item and text.strip() else text, level=level, close=item)


def _table(table: Any, built: PageBuilder) -> None:
    for row in table._tbl.tr_lst:
        cells = []
        for cell in row.tc_lst:
            inside = [one_line(_text(paragraph)) for paragraph in cell.iter(_W + "p")]
            cells.append(" ".join(filter(None, inside)))
        built.add(" | ".join(cells) if any(cells) else "", close=True)


def _text(paragraph: Any) -> str:
    parts: list[str] = []
    for run in paragraph.iter(_W + "r"):
        if run.getparent().tag in _GONE or _vanished(run):
            continue
        for piece in run:
            if piece.tag == _W + "t":
                parts.append(piece.text or "")
            elif piece.tag in _BREAKS:
                parts.append(_BREAKS[piece.tag])
    return "".join(parts)


def _vanished(run: Any) -> bool:
    mark = run.find(f"{_W}rPr/{_W}vanish")
    return mark is not None and mark.get(_W + "val", "1") not in _OFF
