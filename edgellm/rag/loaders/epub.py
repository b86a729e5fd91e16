"""EPUB: the parts of its spine in reading order, each through the reader of HTML."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from urllib.parse import unquote

from edgellm.rag.clean import clean
from edgellm.rag.document import Document
from edgellm.rag.loaders.archive import open_archive, read_part, xml_of
from edgellm.rag.loaders.building import MAX_TITLE, one_line
from edgellm.rag.loaders.encoding import decode
from edgellm.rag.loaders.errors import LoaderError
from edgellm.rag.loaders.html import page_of
from edgellm.rag.loaders.limits import MAX_PAGES, MAX_TEXT

__all__ = ["load"]

_PAGES = ("application/xhtml+xml", "text/html")
# An empty element in XHTML's short form hides the rest of the page from a parser of HTML.
_EMPTY = re.compile(
    r"<(title|script|style|textarea|iframe|a|div|span|p)(\s[^<>]*)?/>", re.IGNORECASE
)


def load(path: Path) -> Document:
    """Read an EPUB file (2 or 3); pages are numbered by their place in the reading order."""
    with open_archive(path, "EPUB") as archive:
        container = xml_of(read_part(archive, "META-INF/container.xml"))
        found = container.xpath("//*[local-name()='rootfile']/@full-path")
        if not found:
            raise LoaderError("is damaged: it names no package")
        package_path = str(found[0])
        package = xml_of(read_part(archive, package_path))
        folder = posixpath.dirname(package_path)
        parts = {
            item.get("id"): posixpath.normpath(
                posixpath.join(folder, unquote(item.get("href", "")))
            )
            for item in package.xpath("//*[local-name()='manifest']/*[local-name()='item']")
            if item.get("media-type") in _PAGES
        }
        order = package.xpath("//*[local-name()='spine']/*[local-name()='itemref']/@idref")
        names = [parts[identity] for identity in order if identity in parts]
        if len(names) > MAX_PAGES:
            raise LoaderError(f"has over {MAX_PAGES:,} parts")
        if "META-INF/encryption.xml" in archive.namelist():
            locked = read_part(archive, "META-INF/encryption.xml").decode(errors="replace")
            if any(name in unquote(locked) for name in names):
                raise LoaderError("is protected (DRM)")
        pages, length = [], 0
        for number, name in enumerate(names, start=1):
            markup = _EMPTY.sub(r"<\1\2></\1>", decode(read_part(archive, name), "utf-8"))
            page = page_of(markup, number)[1]
            length += len(page.text)
            if length > MAX_TEXT:
                raise LoaderError(f"has over {MAX_TEXT // 1_000_000} million characters")
            if page.text:
                pages.append(page)
        titles = package.xpath("//*[local-name()='metadata']/*[local-name()='title']/text()")
    title = one_line(clean(str(titles[0])))[:MAX_TITLE] if titles else ""
    return Document(title or path.name, "epub", tuple(pages))
