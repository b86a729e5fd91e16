"""Texts without turns, which a model continues as they stand, in a window that moves on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from edgellm.backends.base import Tokenizer
from edgellm.errors import UsageError
from edgellm.generate.engine import FixedPrompt, Prompt
from edgellm.generate.overflow import ContextChange, Policy, Where, answer_reserve

__all__ = ["SlidingText", "check_turns", "text_prompt"]


def check_turns(policy: Policy, *, turns: bool) -> None:
    """Make sure that a policy is one for texts without turns, where there are none.

    Raises:
        UsageError: it is not.
    """
    if policy == "summarize" and not turns:
        raise UsageError(
            "a text without turns is continued as it stands and cannot be summarised",
            hint="--on-overflow shift drops its oldest tokens",
        )


def text_prompt(
    model: Tokenizer,
    tokens: Sequence[int],
    size: int,
    *,
    policy: Policy,
    max_tokens: int = -1,
    on_change: Callable[[ContextChange], None] | None = None,
) -> Prompt:
    """Give the prompt of a text that is continued as it stands.

    Raises:
        UsageError: it cannot be summarised.
    """
    check_turns(policy, turns=False)
    if policy == "error":
        return FixedPrompt(tokens)
    return SlidingText(
        tokens, size, start=model.start_token, max_tokens=max_tokens, on_change=on_change
    )


class SlidingText:
    """A text without turns, whose oldest tokens make room; see `edgellm.generate.engine.Prompt`.

    The start token stays. Half of the window is kept, so that half a window is written before
    something has to be evaluated again.
    """

    def __init__(
        self,
        tokens: Sequence[int],
        size: int,
        *,
        start: int | None,
        max_tokens: int = -1,
        on_change: Callable[[ContextChange], None] | None = None,
    ) -> None:
        self.changes: list[ContextChange] = []
        self._tokens = list(tokens)
        self._size = size
        self._head = self._tokens[:1] if start is not None and self._tokens[:1] == [start] else []
        self._reserve = answer_reserve(size, max_tokens)
        self._on_change = on_change

    def begin(self, cancel: threading.Event) -> Sequence[int]:  # noqa: ARG002
        """Give the text, or the end of it that leaves room for an answer."""
        limit = self._size - self._reserve
        return (
            self._cut(self._tokens, limit, "before") if len(self._tokens) > limit else self._tokens
        )

    def make_room(
        self,
        held: Sequence[int],
        written: int,  # noqa: ARG002
        cancel: threading.Event,  # noqa: ARG002
    ) -> Sequence[int] | None:
        """Give the end of the text and of what was written; None if the window is too small."""
        most = min(self._size // 2, self._size - 2)
        return self._cut(held, most, "within") if most > len(self._head) else None

    def _cut(self, tokens: Sequence[int], most: int, where: Where) -> Sequence[int]:
        used = len(tokens)
        # At least one token follows the start: a text of none has nothing to go on from.
        behind = max(1 - len(self._head), most - len(self._head))
        cut = [*self._head, *tokens[used - behind :]]
        change = ContextChange(
            policy="shift",
            where=where,
            what="text",
            window=self._size,
            used_tokens=used,
            dropped_tokens=used - len(cut),
            summary_tokens=0,
            left_tokens=len(cut),
        )
        self.changes.append(change)
        if self._on_change is not None:
            self._on_change(change)
        return cut
