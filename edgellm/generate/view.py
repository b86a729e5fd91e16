"""What a model sees of a conversation: the system prompt, a summary, and the newest turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from edgellm.backends.base import Tokenizer
from edgellm.generate.prompt import chat_tokens
from edgellm.generate.reasoning import Reasoning
from edgellm.generate.template import ChatTemplate, Message

__all__ = [
    "ENGLISH",
    "PERSIAN",
    "Render",
    "SummaryTexts",
    "Turn",
    "View",
    "is_persian",
    "renderer",
    "summary_texts",
]

# A question with what follows it: its answer, or nothing where that is to be written.
Turn = tuple[Message, ...]


class SummaryTexts(NamedTuple):
    """How a summary is asked for, in one language.

    Attributes:
        request: what asks for it, behind the turns.
        opening: the first words of the answer. A small model that is to begin by itself greets the
            person instead (seen with SmolLM2-135M).
        question: the question that it stands as the answer to, afterwards.
    """

    request: str
    opening: str
    question: str


ENGLISH = SummaryTexts(
    "Summarise our conversation so far in a few short sentences. Keep names, numbers and facts.",
    "So far, you told me that",
    "What have we talked about so far?",
)
PERSIAN = SummaryTexts(
    "گفتگوی ما را تا اینجا در چند جملهٔ کوتاه خلاصه کن. نام‌ها، عددها و نکته‌های مهم را نگه دار.",
    "تا اینجا شما گفتید که",
    "تا اینجا چه گفتیم؟",
)


@dataclass(frozen=True, slots=True)
class View:
    """What of a conversation is rendered.

    A summary stands as a turn of its own before the others: a question, and the summary as the
    model's answer. So it works with every template, one without a system role or one that
    insists on turns, and the model reads its own words as its own.

    Attributes:
        system: the system prompt; empty for the template's own.
        turns: the turns that the model sees, the newest last.
        summary: what stands for those before them; None for nothing.
        forgotten: how many turns it no longer sees.
        keep: so many characters of the newest text are never cut off.
    """

    system: tuple[Message, ...]
    turns: tuple[Turn, ...]
    summary: str | None = None
    forgotten: int = 0
    keep: int = 0

    @classmethod
    def of(cls, messages: Sequence[Message], *, keep: int = 0) -> View:
        """Take messages apart: system prompts that lead them, then a turn from each question on."""
        first = 0
        while first < len(messages) and messages[first].role == "system":
            first += 1
        turns: list[list[Message]] = []
        for message in messages[first:]:
            if message.role == "user" or not turns:
                turns.append([])
            turns[-1].append(message)
        return cls(tuple(messages[:first]), tuple(tuple(turn) for turn in turns), keep=keep)

    @property
    def messages(self) -> list[Message]:
        """All of it, as the template gets it."""
        rest = [message for turn in self.turns for message in turn]
        if self.summary is None:
            return [*self.system, *rest]
        question = summary_texts(self.summary).question
        recap = [Message("user", question), Message("assistant", self.summary)]
        return [*self.system, *recap, *rest]

    @property
    def newest(self) -> str:
        """The newest text."""
        return self.turns[-1][-1].content

    def without(self, count: int, summary: str | None = None) -> View:
        """Leave the oldest turns out, and put a summary in the place of all that is forgotten."""
        forgotten = self.forgotten + count
        return replace(self, turns=self.turns[count:], summary=summary, forgotten=forgotten)

    def with_newest(self, text: str) -> View:
        """Put another text in the place of the newest."""
        turn = self.turns[-1]
        changed = (*turn[:-1], replace(turn[-1], content=text))
        return replace(self, turns=(*self.turns[:-1], changed))


# Gives the tokens of a view.
Render = Callable[[View], list[int]]


def renderer(
    model: Tokenizer,
    template: ChatTemplate,
    spoken: Mapping[str, Sequence[int]] | None = None,
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    guarded: Sequence[str] = (),
    reasoning: Reasoning | None = None,
) -> Render:
    """Give what renders views, with the tokens that answers were generated as by their texts.

    For `tools`, `guarded` and `reasoning` see `edgellm.generate.prompt.chat_tokens`.

    It raises TemplateError where the template refuses a view.
    """
    known = {} if spoken is None else spoken

    def render(view: View) -> list[int]:
        messages = view.messages
        tokens = {
            index: known[message.content]
            for index, message in enumerate(messages)
            if message.role == "assistant" and message.content in known
        }
        return chat_tokens(
            model,
            template,
            messages,
            tokens,
            tools=tools,
            guarded=guarded,
            reasoning=reasoning,
        )

    return render


def summary_texts(text: str) -> SummaryTexts:
    """Give how a summary is asked for in the language of a text."""
    return PERSIAN if is_persian(text) else ENGLISH


def is_persian(text: str) -> bool:
    """Tell whether a text is Persian: mostly Arabic script, with letters that Arabic has not.

    Letters that Urdu alone has speak against it.
    """
    letters = [letter for letter in text if letter.isalpha()]
    arabic = [letter for letter in letters if "\u0600" <= letter <= "\u06ff"]
    if 2 * len(arabic) <= len(letters) or not arabic:
        return False
    ours = sum(letter in "پچژگکی" for letter in arabic)
    urdu = sum(letter in "ٹڈڑںےھ" for letter in arabic)
    return 20 * ours > len(arabic) and 50 * urdu < len(arabic)
