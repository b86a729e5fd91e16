"""The archives that DOCX and EPUB are: looked at before anything is unpacked, and in memory."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from edgellm.rag.loaders.errors import LoaderError
from edgellm.rag.loaders.limits import MAX_MARKUP, MAX_UNPACKED
from edgellm.rag.optional import package

__all__ = ["open_archive", "read_part", "xml_of"]

MAX_PARTS = 20_000


def open_archive(path: Path, kind: str) -> zipfile.ZipFile:
    """Open an archive whose parts, unpacked, stay within the limits.

    zipfile gives no more of a part than the size in its header, so that sizes bound what comes.

    Raises LoaderError: it is none, damaged, or too large.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise LoaderError(f"is no {kind} file that can be read: it is damaged or cut") from error
    parts = archive.infolist()
    if len(parts) > MAX_PARTS or sum(part.file_size for part in parts) > MAX_UNPACKED:
        archive.close()
        raise LoaderError(f"unpacks to over {MAX_UNPACKED // 1_000_000} MB")
    return archive


def read_part(archive: zipfile.ZipFile, name: str) -> bytes:
    """Unpack a part.

    Raises LoaderError: it is missing, damaged, encrypted or too large.
    """
    try:
        part = archive.getinfo(name)
        if part.file_size > MAX_MARKUP:
            raise LoaderError(f"holds a part of over {MAX_MARKUP // 1_000_000} MB")
        return archive.read(part)
    except KeyError as error:
        raise LoaderError(f"is damaged: it has no part {name[:100]!r}") from error
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, ValueError) as error:
        raise LoaderError(f"is damaged: its part {name[:100]!r} cannot be unpacked") from error


def xml_of(data: bytes) -> Any:
    """Parse XML without entities, document types or network; gives lxml's root element.

    Raises LoaderError: it is no XML.
    """
    etree = package("lxml.etree", "lxml")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        return etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise LoaderError("is damaged: a part of it is no XML") from error
