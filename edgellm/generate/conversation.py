"""A conversation: its messages, and answers that reuse what the context holds already."""

from __future__ import annotations

import threading
from collections.abc import Callable

from edgellm.backends.base import Context, Model
from edgellm.errors import ContextOverflowError, UsageError
from edgellm.generate.engine import GenerateOptions, Generation, GenerationResult
from edgellm.generate.prompt import chat_tokens, text_tokens
from edgellm.generate.template import ChatTemplate, Message

__all__ = ["Conversation"]


class Conversation:
    """Messages that grow by a question and an answer at a time.

    A model without a chat template has no notion of turns: then each question is a text that the
    model continues, and nothing is remembered.

    Attributes:
        messages: the turns so far, without the system prompt.
        system: the system prompt; None for the template's own.
        options: how the next answer is written.
        last: the result of the last answer.
    """

    def __init__(
        self,
        model: Model,
        context: Context,
        template: ChatTemplate | None,
        *,
        system: str | None = None,
        options: GenerateOptions | None = None,
    ) -> None:
        if system and template is None:
            raise UsageError("this model has no chat template, so it takes no system prompt")
        self.messages: list[Message] = []
        self.system = system
        self.options = options or GenerateOptions()
        self.last: GenerationResult | None = None
        self._model = model
        self._context = context
        self._template = template
        # The tokens that answers were generated as, by the answer's text.
        self._spoken: dict[str, tuple[int, ...]] = {}

    @property
    def has_template(self) -> bool:
        """Whether the model knows turns; without, each question is a text to continue."""
        return self._template is not None

    @property
    def context_size(self) -> int:
        """How many tokens the conversation may have."""
        return self._context.size

    def ask(self, question: str, *, cancel: threading.Event | None = None) -> Generation:
        """Answer a question; question and answer join the messages when the stream ends.

        A cancelled answer of no text leaves the conversation as it was.

        Raises:
            ContextOverflowError: the conversation and the question fill the context.
            TemplateError: the template refuses the messages.
        """
        asked = [*self.messages, Message("user", question)]
        tokens = self._tokens(asked)
        if len(tokens) >= self._context.size:
            raise ContextOverflowError(
                f"the conversation has {len(tokens)} tokens with this message, and the context "
                f"holds {self._context.size}",
                hint="/clear starts a new conversation; a larger --ctx has more room",
            )
        return Generation(
            self._context, tokens, self.options, cancel=cancel, on_finish=self._keep(asked)
        )

    def regenerate(self, *, cancel: threading.Event | None = None) -> Generation:
        """Answer the last question again.

        Raises:
            UsageError: there is no question yet.
        """
        before = list(self.messages)
        if not before:
            raise UsageError("there is nothing to answer again yet")
        question = before[-2].content
        self.messages = before[:-2]
        try:
            generation = self.ask(question, cancel=cancel)
        finally:
            self.messages = before
        return generation

    def clear(self) -> None:
        """Forget the messages; the system prompt stays."""
        self.messages = []
        self.last = None
        self._spoken = {}

    def _tokens(self, messages: list[Message]) -> list[int]:
        if self._template is None:
            return text_tokens(self._model, messages[-1].content)
        system = [Message("system", self.system)] if self.system else []
        turns = [*system, *messages]
        spoken = {
            index: self._spoken[turn.content]
            for index, turn in enumerate(turns)
            if turn.role == "assistant" and turn.content in self._spoken
        }
        return chat_tokens(self._model, self._template, turns, spoken)

    def _keep(self, asked: list[Message]) -> Callable[[GenerationResult], None]:
        def keep(result: GenerationResult) -> None:
            self.last = result
            if result.text or result.finish_reason != "cancelled":
                self.messages = [*asked, Message("assistant", result.text)]
                if result.tokens:
                    self._spoken[result.text] = result.tokens

        return keep
