"""Where the end of a text occurred before in it, and how it went on there.

Prompt lookup (Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding): answers that edit,
summarise or cite repeat passages of their prompt, so that what followed there is a good guess.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Ngrams"]

SIZE = 3  # tokens that are looked up
MOST_PLACES = 8  # where they occurred that are looked at, the latest first
MOST_COMMON = 32  # tokens over which two places are compared


class Ngrams:
    """All places of a growing text at which the same three tokens end."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._latest: dict[tuple[int, ...], int] = {}
        self._before: list[int] = []  # the place before with the same tokens; -1 for none

    def __len__(self) -> int:
        return len(self._tokens)

    def begins(self, tokens: Sequence[int]) -> bool:
        """Tell whether these tokens may be this text and more, by the last one of this text."""
        place = len(self._tokens) - 1
        return place < 0 or (place < len(tokens) and tokens[place] == self._tokens[place])

    def clear(self) -> None:
        """Begin another text."""
        self._tokens, self._before = [], []
        self._latest = {}

    def extend(self, tokens: Sequence[int]) -> None:
        """Go on with more tokens."""
        ours, latest, before = self._tokens, self._latest, self._before
        for token in tokens:
            ours.append(token)
            place = len(ours) - 1
            key = tuple(ours[-SIZE:])
            before.append(latest.get(key, -1))
            latest[key] = place

    def find(self) -> tuple[int, int]:
        """Give the place whose tokens agree with the end of the text the longest, and how many do.

        The latest one of several; (-1, 0) if there is none.
        """
        if not self._tokens:
            return -1, 0
        best, longest = -1, 0
        place = self._before[-1]
        for _ in range(MOST_PLACES):
            if place < 0:
                break
            common = self._common(place)
            if common > longest:
                best, longest = place, common
            if longest == MOST_COMMON:
                break
            place = self._before[place]
        return best, longest

    def after(self, place: int, count: int) -> list[int]:
        """Give what followed a place: `count` tokens; where the text ends, its last part again."""
        found = self._tokens[place + 1 : place + 1 + count]
        period = len(self._tokens) - 1 - place
        while len(found) < count:
            found.append(found[-period])
        return found

    def _common(self, place: int) -> int:
        tokens, end = self._tokens, len(self._tokens) - 1
        most = min(MOST_COMMON, place + 1)
        count = 0
        while count < most and tokens[place - count] == tokens[end - count]:
            count += 1
        return count
