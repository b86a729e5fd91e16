"""Prompts that always leave room for an answer: by a policy, and never without a report."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from edgellm.backends.base import Context, Model
from edgellm.errors import ContextOverflowError
from edgellm.generate.overflow import (
    ContextChange,
    ForgottenTurn,
    Policy,
    Where,
    answer_reserve,
    first_words,
)
from edgellm.generate.summary import Summarizer, longest_end
from edgellm.generate.view import Render, View

__all__ = ["ChatPrompt"]

FULL = (
    "a larger --ctx has more room, and --on-overflow shift or summarize goes on with less; in a "
    "chat, /clear starts a new conversation"
)
TOO_LONG = "shorten it, or give a larger context with --ctx"


class ChatPrompt:
    """A conversation on its way to the model; see `edgellm.generate.engine.Prompt`.

    Attributes:
        view: what the model sees.
        changes: what was taken out of it.
        on_change: is called with each change as it happens, when `view` has changed.

    While something is summarised, `on_progress` is told how much of how much is done. A model that
    thinks is not to think then: `summary_render` gives the tokens of such prompts.

    Raises:
        ContextOverflowError: no answer fits, and nothing may be left out.
        TemplateError: the template refuses the messages.
    """

    def __init__(
        self,
        model: Model,
        context: Context,
        render: Render,
        view: View,
        *,
        policy: Policy,
        max_tokens: int = -1,
        on_change: Callable[[ContextChange], None] | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        summary_render: Render | None = None,
    ) -> None:
        self.view = view
        self.changes: list[ContextChange] = []
        self.on_change = on_change
        self._render = render
        self._policy = policy
        self._size = context.size
        self._reserve = answer_reserve(context.size, max_tokens)
        self._summarizer = Summarizer(
            model, context, summary_render or render, max(1, context.size // 8), on_progress
        )
        self._whole = self._render(view)
        if policy == "error" and len(self._whole) >= self._size:
            raise ContextOverflowError(
                f"the prompt has {len(self._whole)} tokens and the context holds {self._size}, so "
                "that no answer fits",
                hint=FULL,
            )

    def begin(self, cancel: threading.Event) -> Sequence[int]:
        """Give the prompt; the oldest turns leave it, then the beginning of the newest text.

        Raises:
            ContextOverflowError: no answer fits under this policy.
            CancelledError: `cancel` is set.
        """
        tokens = self._whole
        if self._policy == "error":
            return tokens
        limit = self._size - self._reserve
        if len(tokens) > limit:
            limit = max(limit, self._least_limit())
        if len(tokens) > limit:
            self._leave_out("before", [], limit, cancel)
            tokens = self._render(self.view)
        if len(tokens) > limit:
            self._shorten_newest(limit, cancel)
            tokens = self._render(self.view)
        return tokens

    def make_room(
        self, held: Sequence[int], written: int, cancel: threading.Event
    ) -> Sequence[int] | None:
        """Give a prompt of fewer turns with the answer's tokens behind it; None if none is less.

        Raises:
            CancelledError: `cancel` is set.
        """
        if self._policy == "error":
            return None
        # Nearly all of the window may be the newest question and its answer: a little is enough.
        limit = self._size - max(2, min(self._reserve, self._size // 16))
        answer = held[len(held) - written :]
        if not self._leave_out("within", answer, limit, cancel):
            return None
        return [*self._render(self.view), *answer]

    def _leave_out(
        self, where: Where, written: Sequence[int], limit: int, cancel: threading.Event
    ) -> bool:
        """Leave the oldest turns out, so that what is left has at most `limit` tokens if it can.

        False if nothing was left out, or, within an answer, if that would not be enough.
        """
        view = self.view
        older = len(view.turns) - 1
        if not older and view.summary is None:
            return False
        before = len(self._render(view)) + len(written)
        # Room for some turns to come, so that not each of them changes the prompt's beginning.
        target = limit - self._size // 4

        def bare(count: int) -> int:
            return len(self._render(view.without(count))) + len(written)

        if where == "within" and bare(older) > limit:
            return False
        failure = None
        if self._policy == "summarize" and older:
            around = self._around(view)
            count = _fewest(bare, older, target - around, limit - around)
            summary = ""
            if bare(count) + around <= limit:
                summary = self._summarizer.recap(view, count, cancel)
                failure = None if summary else "the model gave no summary"
            else:
                failure = "no summary fits the window"
            shorter = view.without(count, summary)
            if summary and len(self._render(shorter)) + len(written) <= limit:
                self._changed(where, view, shorter, before, bare(count), written, count)
                return True
            failure = failure or "the summary is too long"

        def kept(count: int) -> int:
            return len(self._render(view.without(count, view.summary))) + len(written)

        if older:
            count = _fewest(kept, older, target, limit)
            shorter = view.without(count, view.summary)
            left = len(self._render(shorter)) + len(written)
            self._changed(where, view, shorter, before, left, written, count, failure)
            view, before = shorter, left
        if before > limit and view.summary is not None:
            shorter = view.without(0)
            left = len(self._render(shorter)) + len(written)
            self._changed(where, view, shorter, before, left, written, 0)
        return True

    def _around(self, view: View) -> int:
        """Give the most tokens that a summary adds to a prompt, with what stands around it."""
        empty = view.without(0, summary="")
        around = len(self._render(empty)) - len(self._render(view.without(0)))
        # Of the words that begin it, and of two tokens where it meets the template.
        return around + self._summarizer.limit + 16

    def _changed(
        self,
        where: Where,
        view: View,
        shorter: View,
        before: int,
        bare: int,
        written: Sequence[int],
        count: int,
        failure: str | None = None,
    ) -> None:
        left = len(self._render(shorter)) + len(written)
        turns = tuple(
            ForgottenTurn(view.forgotten + index + 1, first_words(turn[0].content))
            for index, turn in enumerate(view.turns[:count])
        )
        folded = left != bare
        self._report(
            ContextChange(
                policy="summarize" if folded else "shift",
                where=where,
                what="turns" if turns else "summary",
                window=self._size,
                used_tokens=before,
                dropped_tokens=before - bare,
                summary_tokens=left - bare,
                left_tokens=left,
                turns=turns,
                summary=shorter.summary if folded else None,
                failure=failure,
            ),
            shorter,
        )

    def _least_limit(self) -> int:
        """Give the tokens that a prompt may have in any case, beside the answer.

        What has to stay leaves something: half of that is for the newest text, before it is cut
        to give an answer its share.

        Raises:
            ContextOverflowError: what has to stay fills the window.
        """
        view, keep = self.view, self.view.keep
        text = view.newest
        least = text[:keep] + text[keep:][-1:]
        count = len(self._render(view.without(len(view.turns) - 1).with_newest(least)))
        if count >= self._size:
            what = "system prompt and question" if keep else "the system prompt"
            raise ContextOverflowError(
                f"{what} alone have {count} tokens and the context holds {self._size}, so that no "
                "answer fits",
                hint=TOO_LONG,
            )
        return count + (self._size - count) // 2

    def _shorten_newest(self, limit: int, cancel: threading.Event) -> None:
        """Take away from the newest text what does not fit.

        Raises:
            CancelledError: `cancel` is set.
        """
        view, keep = self.view, self.view.keep
        text = view.newest
        before = len(self._render(view))
        summary, failure, bare = "", None, 0
        if self._policy == "summarize":
            head, body, tail = (text[:keep], text[keep:], "") if keep else self._taken_apart(text)
            bare = len(self._render(view.with_newest(head + tail)))
            room = min(limit - bare, self._size // 2)
            if room > 0:
                summary = self._summarizer.digest(body, room, (head + tail).strip(), cancel)
            changed = view.with_newest(head + summary + tail)
            if not summary or len(self._render(changed)) > limit:
                summary, failure = "", "the model gave no summary"
        if not summary:
            fixed = text[:keep]

            def fits(end: str) -> bool:
                return len(self._render(view.with_newest(fixed + end))) <= limit

            changed = view.with_newest(fixed + longest_end(text[keep:], self._size, fits))
        left = len(self._render(changed))
        standing = left - bare if summary else 0
        self._report(
            ContextChange(
                policy="summarize" if summary else "shift",
                where="before",
                what="text",
                window=self._size,
                used_tokens=before,
                dropped_tokens=before - left + standing,
                summary_tokens=standing,
                left_tokens=left,
                summary=summary or None,
                failure=failure,
            ),
            changed,
        )

    def _taken_apart(self, text: str) -> tuple[str, str, str]:
        """Take a first and a last line from a text, where they are short.

        What a person wants with a text stands before or behind it.
        """
        first, line, rest = text.partition("\n")
        head = first + line if rest.strip() and self._summarizer.is_short(first) else ""
        body = text[len(head) :].rstrip()
        before, line, last = body.rpartition("\n")
        tail = line + last if before.strip() and self._summarizer.is_short(last) else ""
        return head, body[: len(body) - len(tail)], tail

    def _report(self, change: ContextChange, view: View) -> None:
        self.view = view
        self.changes.append(change)
        if self.on_change is not None:
            self.on_change(change)


def _fewest(count_of: Callable[[int], int], most: int, target: int, limit: int) -> int:
    """Give how few of the oldest turns have to go, 1 to `most`, to come down to `target` tokens.

    One older turn stays where at least `limit` is kept by that.
    """
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        if count_of(middle) <= target:
            high = middle
        else:
            low = middle + 1
    if low == most > 1 and count_of(most - 1) <= limit:
        return most - 1
    # A template may write more for fewer turns.
    return next((count for count in range(low, most) if count_of(count) <= limit), most)
