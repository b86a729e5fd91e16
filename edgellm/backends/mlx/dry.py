"""DRY, the penalty on going on with a repetition, as llama.cpp computes it.

"Don't repeat yourself" (p-e-w, 2024): a token that stood behind an earlier occurrence of the text's
end loses multiplier * base^(length - allowed length) of its logit, where that length is how many
tokens the end and the earlier place have in common.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgellm.backends.base import Tokenizer
from edgellm.backends.sampling import Sampling

__all__ = ["Breakers", "Repetitions", "breaker_tokens", "common_ends"]

# A token that begins a breaker -> what follows it there; empty where the token holds all of it.
Breakers = Mapping[int, Sequence[tuple[int, ...]]]

MAX_TAIL = 20  # tokens of a breaker behind its first
LOG_MAX = 88.7228391  # of the largest float32


class Repetitions:
    """The penalty of one text.

    Args:
        sampling: its DRY fields.
        prompt: the tokens before the text.
        breakers: of `breaker_tokens`.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int], breakers: Breakers) -> None:
        self._sampling = sampling
        self._breakers = breakers
        self._recent = deque(prompt, maxlen=sampling.dry_last_n)

    def take(self, token: int) -> None:
        """Go on behind a token."""
        self._recent.append(token)

    def penalize(self, logits: npt.NDArray[np.float32]) -> None:
        """Lower the logits (vocabulary,) of tokens that would go on with a repetition."""
        sampling = self._sampling
        allowed = sampling.dry_allowed_length
        newest = list(reversed(self._recent))
        limit = self._limit(newest)
        if len(newest) <= allowed or limit < allowed:
            return
        longest: dict[int, int] = {}
        for back, length in enumerate(common_ends(newest)):
            if back and (length := min(length, limit)) >= allowed:
                token = newest[back - 1]
                longest[token] = max(longest.get(token, 0), length)
        base = np.float32(sampling.dry_base)
        most = int(LOG_MAX / math.log(base)) if base > np.float32(1.000001) else 0
        for token, length in longest.items():
            if () in self._breakers.get(token, ()):
                continue
            power = min(length - allowed, most) if most else length - allowed
            logits[token] -= np.float32(sampling.dry_multiplier * float(base) ** power)

    def _limit(self, newest: Sequence[int]) -> int:
        """Give how many of the newest tokens stand behind the last breaker."""
        for back, token in enumerate(newest):
            matching = [
                len(tail)
                for tail in self._breakers.get(token, ())
                if len(tail) <= back and all(newest[back - 1 - i] == t for i, t in enumerate(tail))
            ]
            if matching:
                return back - max(matching)
        return len(newest)


def common_ends(newest: Sequence[int]) -> list[int]:
    """Give for each number of tokens back how long the end of the text is there already.

    Args:
        newest: the text, its last token first.

    The Z-algorithm (Gusfield 1997): linear time.
    """
    count = len(newest)
    found = [count] + [0] * (count - 1) if count else []
    left = right = 0  # the match that reaches furthest is newest[left:right]
    for back in range(1, count):
        length = min(right - back, found[back - left]) if back < right else 0
        while back + length < count and newest[length] == newest[back + length]:
            length += 1
        found[back] = length
        if back + length > right:
            left, right = back, back + length
    return found


def breaker_tokens(tokenizer: Tokenizer, count: int, texts: Sequence[str]) -> Breakers:
    """Find the tokens, of so many, in which each text is, or begins.

    What a breaker has left behind the end of such a token is tokenized by itself.
    """
    words = [tokenizer.token_bytes(token) for token in range(count)]
    tail_of = functools.cache(functools.partial(_tokens, tokenizer, words))
    found: dict[int, list[tuple[int, ...]]] = {}
    for text in (text.encode() for text in texts):
        for token, word in enumerate(words):
            if text in word:
                found.setdefault(token, []).append(())
                continue
            for length in range(1, min(len(text) - 1, len(word)) + 1):
                if word.endswith(text[:length]):
                    tail = tail_of(text[length:])
                    if tail and tail not in found.setdefault(token, []):
                        found[token].append(tail)
    return found


def _tokens(tokenizer: Tokenizer, words: Sequence[bytes], rest: bytes) -> tuple[int, ...]:
    """Tokenize the end of a text, which may begin within a character; () if no tokens give that."""
    start = next((at for at, byte in enumerate(rest) if byte & 0xC0 != 0x80), len(rest))
    try:
        found = [words.index(rest[at : at + 1]) for at in range(start)]
    except ValueError:
        return ()
    return tuple([*found, *tokenizer.tokenize(rest[start:].decode(), special=False)][:MAX_TAIL])
