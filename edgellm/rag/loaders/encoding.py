"""Bytes to text: what encoding a file has, where nothing says so."""

from __future__ import annotations

import codecs
import re

from edgellm.rag.loaders.errors import LoaderError

__all__ = ["decode"]

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # starts with UTF-16's, so it comes first
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SAMPLE = 65_536
# Letters by the block that their text is written in; a text in the right encoding stays in one.
_ARABIC_WORD = re.compile("[\u0621-\u064a\u0679-\u06d3]{2,}")
_BROKEN_WORD = re.compile("[\u0621-\u064a\u0679-\u06d3][A-Za-z\x80-\u00ff]|[A-Za-z][\u0621-\u06d3]")
_CONTROLS = bytes((*range(9), *range(14, 27), *range(28, 32)))


def decode(data: bytes, declared: str | None = None) -> str:
    """Decode the bytes of a text file.

    A byte order mark decides, then UTF-8 if the bytes are that, UTF-16 without a mark by its zero
    bytes, `declared` (what an HTML file says of itself), and last Windows-1256 (Persian, Arabic) or
    Windows-1252 (western Europe), whichever gives words of letters of one script.

    Raises LoaderError: the bytes are no text.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, errors="replace")
    wide = _utf16(data[:_SAMPLE])
    if wide is not None:
        return data.decode(wide, errors="replace")
    sample = data[:_SAMPLE]
    if b"\0" in sample or len(sample) - len(sample.translate(None, _CONTROLS)) > len(sample) // 50:
        raise LoaderError("is no text: it holds bytes that no text has")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        # One broken character in a long text (cut, or pasted) does not make it another encoding.
        text = data.decode("utf-8", errors="replace")
        if error.start > 0 and text.count("\ufffd") * 100 < sum(byte > 127 for byte in data):
            return text
    if declared is not None:
        try:
            return data.decode(declared)
        except (LookupError, UnicodeError):
            pass  # what a file says of itself may be wrong
    persian = data.decode("cp1256", errors="replace")
    beginning = persian[:_SAMPLE]
    letters = sum(map(len, _ARABIC_WORD.findall(beginning)))
    if letters > 4 * len(_BROKEN_WORD.findall(beginning)):
        return persian
    return data.decode("cp1252", errors="replace")


def _utf16(sample: bytes) -> str | None:
    """Tell UTF-16 without a mark by where its zero bytes (or Arabic's 06) stand."""
    pairs = len(sample) // 2
    if pairs < 2:
        return None
    for encoding, high, low in (("utf-16-le", 1, 0), ("utf-16-be", 0, 1)):
        tops, bottoms = sample[high : 2 * pairs : 2], sample[low : 2 * pairs : 2]
        blocks = tops.count(0) + tops.count(6)
        if blocks > 0.7 * pairs and tops.count(0) > 0 and bottoms.count(0) < 0.05 * pairs:
            return encoding
    return None
