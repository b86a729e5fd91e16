"""What is done, and told, when a conversation is longer than the window of its model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, get_args

from edgellm.errors import UsageError

__all__ = [
    "POLICIES",
    "ContextChange",
    "ForgottenTurn",
    "Policy",
    "Where",
    "answer_reserve",
    "check_policy",
    "first_words",
]

# error: refuse. shift: drop the oldest turns. summarize: put a summary in their place.
Policy = Literal["error", "shift", "summarize"]
POLICIES: tuple[Policy, ...] = get_args(Policy)

Where = Literal["before", "within"]  # the answer

FIRST_WORDS = 40  # characters
MAX_RESERVE = 512  # tokens


@dataclass(frozen=True, slots=True)
class ForgottenTurn:
    """A question with its answer that the model no longer sees.

    Attributes:
        number: its place in the conversation, from 1.
        words: the first words of the question.
    """

    number: int
    words: str


@dataclass(frozen=True, slots=True)
class ContextChange:
    """Something was taken out of what the model sees; counts are those of rendered prompts.

    `used_tokens - dropped_tokens + summary_tokens == left_tokens`.

    Attributes:
        policy: what was done: "shift" where nothing stands for what was dropped.
        what: "turns", the "text" that is newest (or that is continued), whose beginning went, or
            the "summary" of what went before.
        where: "before" the answer, or "within" it, when the window was full.
        window: how many tokens the window holds.
        used_tokens: prompt, and what was written of the answer, before.
        dropped_tokens: what the model no longer sees, an earlier summary included.
        summary_tokens: what stands in its place, with what the template writes around it.
        left_tokens: prompt, and what was written of the answer, afterwards.
        turns: the turns that the model no longer sees.
        summary: what stands for what was dropped; None for nothing.
        failure: why there is no summary although one was to be made; None otherwise.
    """

    policy: Policy
    where: Where
    what: Literal["turns", "text", "summary"]
    window: int
    used_tokens: int
    dropped_tokens: int
    summary_tokens: int
    left_tokens: int
    turns: tuple[ForgottenTurn, ...] = ()
    summary: str | None = None
    failure: str | None = None

    def as_dict(self) -> dict[str, object]:
        """Give it as it stands in JSON."""
        return asdict(self)


def check_policy(name: str) -> Policy:
    """Give the policy of that name.

    Raises:
        UsageError: there is none.
    """
    for policy in POLICIES:
        if policy == name:
            return policy
    raise UsageError(f"no policy is called {name!r}", hint=f"known: {', '.join(POLICIES)}")


def first_words(text: str) -> str:
    """Give the beginning of a text on one line, cut between words."""
    line = " ".join(text.split())
    if len(line) <= FIRST_WORDS:
        return line
    head = line[: FIRST_WORDS - 1]
    return (head.rpartition(" ")[0] or head) + "…"


def answer_reserve(size: int, max_tokens: int) -> int:
    """Give how many tokens an answer is sure to have: a quarter of the window, 512 at most.

    A smaller `max_tokens` needs no more than that. A larger one reserves no more: an answer that
    grows beyond goes on behind a shorter prompt.
    """
    most = min(size // 4, MAX_RESERVE)
    return max(1, min(most, max_tokens) if max_tokens >= 0 else most)
