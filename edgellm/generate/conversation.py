"""A conversation: its messages, and answers that reuse what the context holds already."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from edgellm.backends.base import Constraint, Context, Drafter, Model
from edgellm.errors import UsageError
from edgellm.generate.constraint import compile_constraint
from edgellm.generate.engine import Generation, Prompt
from edgellm.generate.options import GenerateOptions
from edgellm.generate.overflow import ContextChange, Policy
from edgellm.generate.prompt import text_tokens
from edgellm.generate.result import GenerationResult
from edgellm.generate.sliding import check_turns, text_prompt
from edgellm.generate.template import ChatTemplate, Message
from edgellm.generate.thinking import Thinking, check_thinks, thinking_of
from edgellm.generate.usage import WindowUse, window_use
from edgellm.generate.view import View, renderer
from edgellm.generate.window import ChatPrompt

__all__ = ["Conversation"]


def _nothing(_options: GenerateOptions, _constraint: Constraint | None) -> None:
    """Guess nothing."""


class Conversation:
    """Messages that grow by a question and an answer at a time.

    A model without a chat template has no notion of turns: then each question is a text that the
    model continues, and nothing is remembered.

    All messages are kept, also those that the model no longer sees because its window is full.

    Attributes:
        messages: the turns so far, without the system prompt.
        system: the system prompt; None for the template's own.
        options: how the next answer is written.
        on_change: is called when something leaves the model's sight, as it happens.
        on_progress: is called while something is summarised: how much is done, of how much.
        summary: what stands for the turns that the model no longer sees; None for nothing.
        forgotten: how many of the oldest turns it no longer sees.
        changes: all that has left its sight.
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
        on_overflow: Policy = "error",
        on_change: Callable[[ContextChange], None] | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        drafter: Callable[[GenerateOptions, Constraint | None], Drafter | None] = _nothing,
    ) -> None:
        if system and template is None:
            raise UsageError("this model has no chat template, so it takes no system prompt")
        self.messages: list[Message] = []
        self.system = system
        self.options = options or GenerateOptions()
        self.on_change = on_change
        self.on_progress = on_progress
        self.summary: str | None = None
        self.forgotten = 0
        self.changes: list[ContextChange] = []
        self.last: GenerationResult | None = None
        self._model = model
        self._context = context
        self._drafter = drafter
        self._template = template
        self.on_overflow = on_overflow
        # The tokens that answers were generated as, by the answer's text.
        self._spoken: dict[str, tuple[int, ...]] = {}
        # What the model sees of a text that was too long for its window, by that text.
        self._shortened: dict[str, str] = {}

    @property
    def has_template(self) -> bool:
        """Whether the model knows turns; without, each question is a text to continue."""
        return self._template is not None

    @property
    def context_size(self) -> int:
        """How many tokens the conversation may have."""
        return self._context.size

    @property
    def on_overflow(self) -> Policy:
        """What is done when the window is full.

        Raises:
            UsageError: when set: a text without turns cannot be summarised.
        """
        return self._on_overflow

    @on_overflow.setter
    def on_overflow(self, policy: Policy) -> None:
        check_turns(policy, turns=self.has_template)
        self._on_overflow: Policy = policy

    def ask(self, question: str, *, cancel: threading.Event | None = None) -> Generation:
        """Answer a question; question and answer join the messages when the stream ends.

        A cancelled answer of no text leaves the messages as they were.

        Raises:
            ContextOverflowError: the conversation and the question fill the context; while
                iterating if turns may be left out, and the question fills it alone.
            TemplateError: the template refuses the messages.
            UsageError: the options' constraint cannot be used, or thinking is asked for and the
                model has none.
        """
        asked = [*self.messages, Message("user", question)]
        thinking = self.thinking(self.options)
        constraint = compile_constraint(self._model, self.options.constraint)
        return Generation(
            self._context,
            self._prompt(asked, thinking),
            self.options,
            cancel=cancel,
            constraint=constraint,
            thoughts=thinking.watch,
            drafter=self._drafter(self.options, constraint),
            on_finish=self._keep(asked),
        )

    def thinking(self, options: GenerateOptions) -> Thinking:
        """Give how answers with these options think.

        Raises:
            UsageError: thinking is asked for, and the model has none.
        """
        if self._template is None:
            check_thinks(options, "it has no chat template")
            return Thinking()
        return thinking_of(self._model, self._template, options)

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
        self.summary = None
        self.forgotten = 0
        self.changes = []
        self.last = None
        self._spoken = {}
        self._shortened = {}

    def restore(self, messages: Sequence[Message], summary: str | None, forgotten: int) -> None:
        """Go on with other messages, of which the model sees a summary and those not forgotten."""
        self.clear()
        self.messages = list(messages)
        self.summary, self.forgotten = summary, forgotten

    def usage(self) -> WindowUse:
        """Give what the conversation takes of the window.

        Raises:
            TemplateError: the template refuses the messages.
        """
        if self._template is None:
            return WindowUse(self.context_size, 0, 0, 0, ())
        render = renderer(self._model, self._template, self._spoken)
        return window_use(self._view(self.messages), self.context_size, render)

    def _prompt(self, asked: list[Message], thinking: Thinking) -> Prompt:
        """Take what the model sees of the messages, the last of which is the question.

        Raises:
            ContextOverflowError: it fills the context, and nothing may be left out.
            TemplateError: the template refuses the messages.
        """
        if self._template is None:
            return text_prompt(
                self._model,
                text_tokens(self._model, asked[-1].content),
                self._context.size,
                policy=self.on_overflow,
                max_tokens=self.options.max_tokens,
                on_change=self._changed,
            )
        prompt = ChatPrompt(
            self._model,
            self._context,
            renderer(self._model, self._template, self._spoken, reasoning=thinking.asked),
            self._view(asked),
            policy=self.on_overflow,
            max_tokens=self.options.max_tokens,
            on_progress=self.on_progress,
            summary_render=renderer(
                self._model, self._template, self._spoken, reasoning=thinking.silent
            ),
        )

        def changed(change: ContextChange) -> None:
            self.summary, self.forgotten = prompt.view.summary, prompt.view.forgotten
            if change.what == "text":
                self._shortened[asked[-1].content] = prompt.view.newest
            self._changed(change)

        prompt.on_change = changed
        return prompt

    def _changed(self, change: ContextChange) -> None:
        self.changes.append(change)
        if self.on_change is not None:
            self.on_change(change)

    def _view(self, messages: Sequence[Message]) -> View:
        seen = [
            replace(message, content=self._shortened.get(message.content, message.content))
            for message in messages
        ]
        system = [Message("system", self.system)] if self.system else []
        view = View.of([*system, *seen])
        return view.without(min(self.forgotten, len(messages) // 2), self.summary)

    def _keep(self, asked: list[Message]) -> Callable[[GenerationResult], None]:
        def keep(result: GenerationResult) -> None:
            self.last = result
            if result.text or result.finish_reason != "cancelled":
                answer = Message("assistant", result.text, thinking=result.thinking)
                self.messages = [*asked, answer]
                if result.tokens:
                    self._spoken[result.text] = result.tokens

        return keep
