"""What is taken out of a document's text before anybody sees it: characters that show nothing.

A text that a person reads and a text that a model reads should be the same. Controls that reorder
what is shown, characters without width, tags (U+E0000) and control characters make them differ, and
so they go, whatever format they came in. ZWNJ stays where a word needs it, between letters of
scripts that join, and ZWJ there and in emoji.
"""

from __future__ import annotations

import re

__all__ = ["clean"]

_JOINING = (  # scripts in which ZWNJ and ZWJ change how letters look
    "\u0600-\u08ff\ufb50-\ufdff\ufe70-\ufefc"  # Arabic, Syriac, N'Ko, Mandaic
    "\u0900-\u0dff\u0e80-\u109f\u1780-\u18af"  # Indic, Lao to Myanmar, Khmer, Mongolian
)
_EMOJI = "\u200d\u2190-\u2bff\ufe0f\U0001f000-\U0001faff"

_NEWLINE = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_GONE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b"
    "\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufffb"
    "\ufffe\uffff\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
    # One of several joiners in a row; a joiner or non-joiner where nothing joins.
    "|[\u200c\u200d]+(?=[\u200c\u200d])"
    f"|(?<![{_JOINING}])\u200c|(?<![{_JOINING}{_EMOJI}])\u200d"
)
_SUSPECT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f-\U0010ffff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """Give a text without characters that show nothing, its lines ended by a newline alone.

    `clean(clean(text)) == clean(text)`.
    """
    if not _SUSPECT.search(text):
        return text
    text = _SURROGATE.sub("\ufffd", _NEWLINE.sub("\n", text))
    while (shorter := _GONE.sub("", text)) != text:
        text = shorter
    return text
