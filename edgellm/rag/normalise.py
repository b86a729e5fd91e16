"""Text as a search key: what two people type differently and mean alike becomes equal.

The key is never shown. Its rules, for text in any script:

- Unicode's compatibility composition (NFKC) and case folding, until neither changes anything;
- no bidirectional controls, no characters without width but ZWNJ, no tatweel, no vowel marks of
  Arabic script;
- letters that keyboards for Arabic and for Persian give different numbers are one: ي ى ئ are ی,
  ك is ک, ة ۀ are ه, أ إ ٱ are ا, ؤ is و;
- digits of Arabic and Persian are those of ASCII;
- letters of a run of ا and ل stand in one order, since what PDF programs extract swaps them.

A word with ZWNJ (half space) is searched by its parts and by the joined form, since people and
programs write a space, nothing or ZWNJ in the same place.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["MAX_TERM", "NORM_VERSION", "ZWNJ", "normalise", "query_terms", "search_terms"]

# A library keeps it, and indexes its texts anew where another version made its terms.
NORM_VERSION = 1

ZWNJ = "\u200c"
MAX_TERM = 64  # characters: longer ones are encoded data, and are cut

_INVISIBLE = (
    0x00AD, 0x061C, 0x180E, 0xFEFF, 0x0640, 0x0670,
    *range(0x064B, 0x0660), *range(0x06D6, 0x06DD), *range(0x06DF, 0x06E9), *range(0x06EA, 0x06EE),
    *range(0x08D3, 0x0900), 0x200B, 0x200D, 0x200E, 0x200F, *range(0x202A, 0x202F),
    *range(0x2060, 0x2070), *range(0xFE00, 0xFE10), *range(0xE0000, 0xE0200),
)  # fmt: skip
_LETTERS = {
    "ی": "يىئې", "ک": "كڪ", "ه": "ةۀەہۂھ", "ا": "أإٱ", "و": "ؤ",
}  # fmt: skip
_FOLD: dict[int, str | None] = {
    **dict.fromkeys(_INVISIBLE),
    **{ord(variant): letter for letter, all_ in _LETTERS.items() for variant in all_},
    **{zero + digit: str(digit) for zero in (0x0660, 0x06F0) for digit in range(10)},
}

_LAM_ALEF = re.compile("[اآل]{2,}")
# Letters and digits of any script; vowel signs of the scripts whose words are written with them.
_MARKS = (
    "\u0300-\u036f\u0900-\u0963\u0981-\u0dff\u0e31-\u0e3a\u0e47-\u0e4e\u0eb1-\u0ecd"
    "\u102b-\u103e\u17b4-\u17d3"
)
_PART = rf"[^\W_]+(?:[{_MARKS}]+[^\W_]*)*"
_WORD = re.compile(rf"{_PART}(?:{ZWNJ}+{_PART})*")


def normalise(text: str) -> str:
    """Give a text as a search key, with its punctuation, its spaces and its ZWNJ.

    `normalise(normalise(text)) == normalise(text)`.
    """
    while True:
        key = unicodedata.normalize("NFKC", text.casefold()).translate(_FOLD)
        # What has gone may have stood between characters that compose, or fold, now. The first
        # two tests save a second turn; some Greek letters fold to what composes to them again.
        stable = unicodedata.is_normalized("NFKC", key) and key.casefold() == key
        if stable or key == text:
            return _LAM_ALEF.sub(_sorted, key)
        text = key


def search_terms(text: str) -> str:
    """Give the terms of a text, joined by spaces: what full-text search indexes."""
    return " ".join(_terms(text))


def query_terms(text: str) -> list[str]:
    """Give the terms of a question, each once, in the order in which they come."""
    return list(dict.fromkeys(_terms(text)))


def _terms(text: str) -> list[str]:
    key = normalise(text)
    words: list[str] = _WORD.findall(key)
    if ZWNJ in key:
        terms = []
        for word in words:
            if ZWNJ in word:
                parts = [part for part in word.split(ZWNJ) if part]
                terms += [*parts, _LAM_ALEF.sub(_sorted, "".join(parts))]
            else:
                terms.append(word)
        words = terms
    if len(key) > MAX_TERM and any(len(word) > MAX_TERM for word in words):
        words = [word[:MAX_TERM] for word in words]
    return words


def _sorted(run: re.Match[str]) -> str:
    return "".join(sorted(run[0]))
