"""Guesses at what a model writes next: from the text so far, and by a smaller model.

Speculative decoding (Leviathan et al. 2023, arXiv:2211.17192): a model evaluates several tokens in
one batch in less time than one by one, so that a guess that is right saves time. It never changes
what is written, because the model samples each token itself.

How much is drafted depends on the tokens alone, and not on the clock: what a batch is decides how
it is rounded, and the same seed gives the same text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from edgellm.backends.base import Context, Sampling
from edgellm.device.memory import DRAFT_MAX
from edgellm.errors import UsageError
from edgellm.generate.ngrams import Ngrams

__all__ = ["Drafts", "Pace", "Speculate", "check_speculate"]

Speculate = Literal["auto", "ngram", "off"]
FIRST = 2  # tokens of the first draft; none is shorter
# What a token in a batch costs, of one that is evaluated alone: measured 0.25 to 0.45 on
# processors (docs/measurements.md).
BATCHED = 1 / 3
COMMON, MOST_COMMON = 3, 32  # how many tokens have to agree with a place before
MOST_WAIT = 64


def check_speculate(value: str) -> Speculate:
    """Take the name of a way to speculate.

    Raises:
        UsageError: there is none of that name.
    """
    ways: tuple[Speculate, ...] = get_args(Speculate)
    for known in ways:
        if value == known:
            return known
    raise UsageError(
        f"there is no speculation {value!r}", hint=f"known: {', '.join(get_args(Speculate))}"
    )


class Pace:
    """How many tokens are worth a guess, by how the guesses before went.

    A guess that is right to its end doubles the length. One that cost more than it saved halves it
    and makes the next one rarer, so that a text without repetition is hardly slowed down.

    Attributes:
        length: tokens of the next guess.
        failures: guesses in a row that did not pay.
    """

    def __init__(self, most: int, cost: float = 0.0) -> None:
        self._most = most
        self._cost = BATCHED + cost
        self.length = min(FIRST, most)
        self.failures = 0

    def tell(self, drafted: int, accepted: int) -> None:
        """Learn how many tokens of a guess were right."""
        if accepted >= drafted * self._cost:
            self.failures = 0
            longer = 2 * self.length if accepted == drafted else accepted + 1
            self.length = min(self._most, max(FIRST, longer))
        else:
            self.failures += 1
            self.length = min(self._most, max(FIRST, self.length // 2))


class Drafts:
    """See `edgellm.backends.base.Drafter`.

    What follows the same tokens earlier in the text is the guess, and where there are none, what a
    smaller model writes.

    Args:
        most: the most tokens of a draft.
        model: a context of the smaller model, of the size of the larger one's.
        cost: what the smaller model takes for a token, of what the larger one does.
    """

    def __init__(
        self, most: int = DRAFT_MAX, model: Context | None = None, cost: float = 0.0
    ) -> None:
        self.drafted = self.accepted = 0
        self._ngrams = Ngrams()
        self._model = model
        self._repeating, self._guessing = Pace(most), Pace(most, cost)
        self._pace = self._repeating  # of the last draft
        self._last = self._right = self._wait = 0

    def begin(self, tokens: Sequence[int]) -> None:
        """Go on from other tokens than before."""
        self._settle()
        self._ngrams.clear()
        self._ngrams.extend(tokens)

    def accept(self) -> None:
        """Count the next token of the last draft as one that the model wrote."""
        self.accepted += 1
        self._right += 1

    def propose(self, held: Sequence[int], sampled: int, limit: int) -> Sequence[int]:
        """Give tokens that may follow."""
        self._settle()
        ngrams = self._ngrams
        if not ngrams.begins(held):  # tokens were put in place of what was sampled
            self.begin(held)
        ngrams.extend([*held[len(ngrams) :], sampled])
        draft: Sequence[int] = ()
        place, common = ngrams.find()
        if common >= min(COMMON << self._repeating.failures, MOST_COMMON):
            self._pace = self._repeating
            draft = ngrams.after(place, min(limit, self._pace.length))
        elif self._model is not None:
            draft = self._guess(self._model, held, sampled, limit)
        self._last = len(draft)
        self.drafted += len(draft)
        return draft

    def _settle(self) -> None:
        if self._last:
            self._pace.tell(self._last, self._right)
            if self._pace is self._guessing and self._pace.failures > 1:
                self._wait = min(MOST_WAIT, 1 << self._pace.failures)
        self._last = self._right = 0

    def _guess(
        self, model: Context, held: Sequence[int], sampled: int, limit: int
    ) -> Sequence[int]:
        if self._wait:
            self._wait -= 1
            return ()
        self._pace = self._guessing
        count = min(limit, self._pace.length, model.size - len(held) - 1)
        if count < 1:
            return ()
        model.prefill([*held, sampled], GREEDY, _never)
        found: list[int] = []
        while len(found) < count and model.next_piece() is not None:
            assert model.sampled is not None
            found.append(model.sampled)
        return found


GREEDY = Sampling(temperature=0)


def _never() -> bool:
    return False
