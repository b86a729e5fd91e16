"""What is written with a model in memory: answers, texts, conversations."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from edgellm.api.opened import OpenedModel
from edgellm.backends.base import Context
from edgellm.errors import UsageError
from edgellm.generate.constraint import compile_constraint
from edgellm.generate.engine import FixedPrompt, Generation, Prompt
from edgellm.generate.options import GenerateFields, GenerateOptions
from edgellm.generate.overflow import ContextChange, Policy, check_policy
from edgellm.generate.prompt import text_tokens
from edgellm.generate.result import GenerationResult
from edgellm.generate.sliding import text_prompt
from edgellm.generate.template import Message
from edgellm.generate.thinking import check_thinks, thinking_of
from edgellm.generate.view import View, renderer
from edgellm.generate.window import ChatPrompt

if TYPE_CHECKING:
    from edgellm.api.agent import ToolFields, ToolRun
    from edgellm.api.samples import AskFields, Beams, Best, Samples
    from edgellm.generate.conversation import Conversation
    from edgellm.generate.thoughts import ThoughtWatch
    from edgellm.generate.tools import Toolbox

__all__ = ["LoadedModel"]


class LoadedModel(OpenedModel):
    """A model in memory; close it, or use it in a `with` statement.

    One thread at a time may generate. Answers share one context, so that a prompt that begins like
    the one before is evaluated only where it differs. Its attributes, and what opening it raises,
    are those of `OpenedModel`.
    """

    def stream(
        self,
        prompt: str | Sequence[Message],
        *,
        document: str | None = None,
        system: str | None = None,
        options: GenerateOptions | None = None,
        cancel: threading.Event | None = None,
        on_overflow: Policy = "error",
        on_change: Callable[[ContextChange], None] | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        **fields: Unpack[GenerateFields],
    ) -> Generation:
        """Answer a prompt, or messages that end with the user's, through the chat template.

        Iterate over what it gives; `.result` holds the numbers afterwards.

        Args:
            prompt: a text, or the messages.
            document: a text that stands behind the newest message. Where it is too long, it is
                shortened or summarised, and the message stays whole.
            system: the system prompt; None for the template's own.
            options: how the answer is written.
            cancel: set it from any thread to stop.
            on_overflow: what is done where the prompt leaves no room for an answer, or the answer
                fills the context: "error", "shift" (the oldest turns, and the beginning of a text
                that does not fit, are dropped) or "summarize" (the model summarises them).
            on_change: is called when something is dropped or summarised, as it happens.
            on_progress: is called while that is summarised: how much is done, of how much.
            fields: fields of `options` that are other ones: `max_tokens=100, stop=["."]`.

        Raises:
            TemplateError: the model has no chat template, or it refuses the messages.
            ContextOverflowError: no answer fits behind the prompt; while iterating, if not even
                under the policy.
            UsageError: there is no such policy, no message, a constraint that cannot be used, or
                thinking is asked for and the model has none.
        """
        policy = check_policy(on_overflow)
        messages = [Message("user", prompt)] if isinstance(prompt, str) else list(prompt)
        if not messages:
            raise UsageError("there is no message to answer")
        keep = 0
        if document is not None:
            newest = messages.pop()
            content = f"{newest.content}\n\n"
            keep = len(content)
            messages.append(Message(newest.role, content + document))
        if system:
            messages.insert(0, Message("system", system))
        template = self.template
        options = GenerateOptions.of(options, **fields)
        thinking = thinking_of(self._model, template, options)
        render = renderer(self._model, template, reasoning=thinking.asked)
        view = View.of(messages, keep=keep)
        context = self._contexts.open(self._contexts.needed(render(view), options))
        chat_prompt = ChatPrompt(
            self._model,
            context,
            render,
            view,
            policy=policy,
            max_tokens=options.max_tokens,
            on_change=on_change,
            on_progress=on_progress,
            summary_render=renderer(self._model, template, reasoning=thinking.silent),
        )
        return self._write(context, chat_prompt, options, cancel, thinking.watch)

    def chat(self, prompt: str | Sequence[Message], **options: Any) -> GenerationResult:
        """Answer as `stream` does, and give the whole answer with its numbers."""
        return self.stream(prompt, **options).read()

    def complete(
        self,
        text: str,
        *,
        special: bool = False,
        options: GenerateOptions | None = None,
        cancel: threading.Event | None = None,
        on_overflow: Policy = "error",
        on_change: Callable[[ContextChange], None] | None = None,
        **fields: Unpack[GenerateFields],
    ) -> Generation:
        """Continue a text as it stands, without a template.

        Args:
            text: an empty one starts from the model's start token.
            special: whether the text of control tokens becomes these tokens; never set it for
                text from a stranger.
            options: how the continuation is written.
            cancel: set it from any thread to stop.
            on_overflow: "error", or "shift": the oldest tokens are dropped, and the text goes on
                until the model or `max_tokens` ends it.
            on_change: is called when something is dropped, as it happens.
            fields: fields of `options` that are other ones.

        Raises:
            UsageError: there is nothing to begin with, a text is to be summarised, a constraint
                cannot be used, or thinking is asked for.
            ContextOverflowError: while iterating, if no token fits behind the text.
        """
        policy = check_policy(on_overflow)
        options = GenerateOptions.of(options, **fields)
        check_thinks(options, "a text is continued as it stands, without a chat template")
        tokens = text_tokens(self._model, text, special=special)
        if not tokens:
            raise UsageError("the prompt is empty, and the model has no token to start a text with")
        context = self._contexts.open(self._contexts.needed(tokens, options))
        prompt = text_prompt(
            self._model,
            tokens,
            context.size,
            policy=policy,
            max_tokens=options.max_tokens,
            on_change=on_change,
        )
        return self._write(context, prompt, options, cancel)

    def samples(
        self,
        prompt: str | Sequence[Message],
        n: int,
        *,
        vote: str | None = None,
        best: Best | None = None,
        judge: LoadedModel | None = None,
        **fields: Unpack[AskFields],
    ) -> Samples:
        """Answer a prompt several times, all at once; the prompt is evaluated once.

        The answer at place i is what `stream` writes with the seed + i, as far as the backend
        rounds a batch as it rounds one text. Each has at most `max_tokens` tokens, or 512 where
        that is negative.

        Args:
            prompt: a text, or messages.
            n: how many answers, up to 128.
            vote: how an answer is taken out of each text, so that the majority's is chosen: "auto",
                "number", "boxed", "text", "choice:A,B,C", or a regular expression.
            best: "likelihood" chooses the answer whose tokens are likeliest on average, "judge" the
                one that a model finds right with the greatest probability.
            judge: that model; None takes this one.
            fields: see `AskFields`, and fields of `options` that are other ones.

        Raises:
            UsageError: a value out of its range, or choices that exclude each other.
            ContextOverflowError: no answer fits behind the prompt.
            DoesNotFitError: memory does not hold so many answers of that length.
            TemplateError, BackendError: as for `stream`.
        """
        from edgellm.api.samples import samples

        return samples(self, prompt, n, vote=vote, best=best, judge=judge, **fields)

    def beams(
        self,
        prompt: str | Sequence[Message],
        n: int,
        *,
        length_penalty: float = 1.0,
        **fields: Unpack[AskFields],
    ) -> Beams:
        """Search the likeliest answers with `n` beams; nothing is drawn by chance.

        Args:
            prompt: a text, or messages.
            n: how many texts are followed at once, up to 128.
            length_penalty: an answer's score is its log-probability over its length to the power of
                this: above 0 longer ones are favoured, below it shorter ones.
            fields: as for `samples`; of the sampling nothing counts.

        Raises: as `samples`.
        """
        from edgellm.api.samples import beams

        return beams(self, prompt, n, length_penalty=length_penalty, **fields)

    def run_tools(
        self,
        prompt: str | Sequence[Message],
        tools: Toolbox | Iterable[Callable[..., Any]],
        **fields: Unpack[ToolFields],
    ) -> ToolRun:
        """Answer a prompt with tools that the model may call.

        Iterate over what it gives for events (text, thoughts, calls, results), or `read()` it;
        `.result` holds the answer and all that was called.

        Args:
            prompt: a text, or messages that end with the user's.
            tools: functions with types and docstrings, which run in this program, or an
                `edgellm.ToolFile`, whose functions run in processes of their own.
            fields: see `ToolFields`, and fields of `options` that are other ones.

        Raises:
            UsageError: a function cannot be offered, there is no message, a value is out of its
                range, or the template takes no tools and `style` is "template".
            ContextOverflowError: while iterating, if the context is full.
        """
        from edgellm.api.agent import run_tools

        return run_tools(self, prompt, tools, **fields)

    def continue_tokens(
        self,
        tokens: Sequence[int],
        options: GenerateOptions,
        cancel: threading.Event | None = None,
        *,
        thoughts: ThoughtWatch | None = None,
    ) -> Generation:
        """Continue tokens as they stand; an error where they fill the context.

        `thoughts` watches over a text that begins with a thought.

        Raises:
            UsageError: a constraint cannot be used.
            ContextOverflowError: while iterating, if no token fits behind them.
        """
        context = self._contexts.open(self.context_limit)
        return self._write(context, FixedPrompt(tokens), options, cancel, thoughts)

    def conversation(
        self,
        *,
        system: str | None = None,
        options: GenerateOptions | None = None,
        on_overflow: Policy | None = None,
        on_change: Callable[[ContextChange], None] | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Conversation:
        """Begin a conversation that remembers its turns.

        Args:
            system: the system prompt; None for the template's own.
            options: how answers are written.
            on_overflow: what is done when the context is full, as for `stream`; None takes
                "summarize", or "error" where the model has no chat template.
            on_change: is called when something is dropped or summarised, as it happens.
            on_progress: is called while that is summarised: how much is done, of how much.

        Raises:
            UsageError: a system prompt, or summaries, for a model without a chat template.
        """
        from edgellm.generate.conversation import Conversation

        template = self.template if self.has_template else None
        usual: Policy = "error" if template is None else "summarize"
        return Conversation(
            self._model,
            self._contexts.open(self.context_limit),
            template,
            system=system,
            options=options,
            on_overflow=usual if on_overflow is None else check_policy(on_overflow),
            on_change=on_change,
            on_progress=on_progress,
            drafter=self._contexts.drafter,
        )

    def _write(
        self,
        context: Context,
        prompt: Prompt,
        options: GenerateOptions,
        cancel: threading.Event | None,
        thoughts: ThoughtWatch | None = None,
    ) -> Generation:
        """Begin a text on the context that is open, with what keeps its form and what guesses."""
        constraint = compile_constraint(self._model, options.constraint)
        return Generation(
            context,
            prompt,
            options,
            cancel=cancel,
            constraint=constraint,
            drafter=self._contexts.drafter(options, constraint),
            thoughts=thoughts,
        )
