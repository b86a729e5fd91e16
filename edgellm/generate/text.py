"""From token bytes to text: whole characters, and stop strings that no caller ever sees."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

__all__ = ["StopFilter", "Utf8Stream", "open_length"]


class Utf8Stream:
    """Joins the bytes of tokens to whole characters.

    A token may hold a part of a character: the bytes wait until the character is whole. Bytes that
    can never become one give U+FFFD. What is unfinished when the text ends is dropped, because it
    is the beginning of something that was not written.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, piece: bytes) -> str:
        """Take the bytes of a token; give the characters that are whole now."""
        return self._decoder.decode(piece)


class StopFilter:
    """Ends a stream of text at the first stop string, however the text is cut into chunks.

    The stop string that is complete first wins, and of those the longest. Text that may turn out to
    be the beginning of a stop string is held back until that is known.

    Attributes:
        hit: the stop string that was found; None as long as there is none.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.hit: str | None = None

    def push(self, text: str) -> str:
        """Take a chunk; give what can be shown. After a hit nothing more comes out."""
        if self.hit is not None:
            return ""
        text = self._held + text
        found: tuple[int, int] | None = None  # (end, start): the earliest end, then the longest
        for stop in self._stops:
            start = text.find(stop)
            if start >= 0 and (found is None or (start + len(stop), start) < found):
                found = (start + len(stop), start)
        if found is not None:
            end, start = found
            self.hit = text[start:end]
            self._held = ""
            return text[:start]
        keep = open_length(text, self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """Give what was held back: the text is over, and it was no stop string."""
        held, self._held = self._held, ""
        return held


def open_length(text: str, signs: Sequence[str]) -> int:
    """Give the length of the longest end of a text that begins one of some signs."""
    longest = max((len(sign) - 1 for sign in signs), default=0)
    for length in range(min(longest, len(text)), 0, -1):
        end = text[-length:]
        if any(sign.startswith(end) for sign in signs):
            return length
    return 0
