"""What a constraint leaves no choice about, as a guess at what a model writes next."""

from __future__ import annotations

from collections.abc import Sequence

from edgellm.backends.base import Constraint, Drafter

__all__ = ["Forced"]


class Forced:
    """See `edgellm.backends.base.Drafter`.

    Names of properties, and what stands between them, are evaluated in one batch. Where there is a
    choice, another drafter guesses.

    Args:
        constraint: what the tokens are sampled under.
        guesses: the other one.
    """

    def __init__(self, constraint: Constraint, guesses: Drafter) -> None:
        self._constraint = constraint
        self._guesses = guesses
        self._drafted = self._accepted = 0
        self._ours = False  # whether the last draft was what has to follow

    @property
    def drafted(self) -> int:
        """How many tokens it gave so far."""
        return self._drafted + self._guesses.drafted

    @property
    def accepted(self) -> int:
        """How many of them the model wrote."""
        return self._accepted + self._guesses.accepted

    def begin(self, tokens: Sequence[int]) -> None:
        """Go on from other tokens than before."""
        self._ours = False
        self._guesses.begin(tokens)

    def propose(self, held: Sequence[int], sampled: int, limit: int) -> Sequence[int]:
        """Give tokens that have to follow, or may."""
        found = self._constraint.forced(sampled)[:limit]
        self._ours = bool(found)
        if not found:
            return self._guesses.propose(held, sampled, limit)
        self._drafted += len(found)
        return found

    def accept(self) -> None:
        """Count the next token of the last draft as one that the model wrote."""
        if self._ours:
            self._accepted += 1
        else:
            self._guesses.accept()
