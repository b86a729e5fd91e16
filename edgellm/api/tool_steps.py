"""What every way of calling tools is made of: the model writes, tools run, and both are kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgellm.api.tool_events import Event, TextDelta, ToolResult
from edgellm.backends.base import CancelledError
from edgellm.generate.constraint import ConstraintSpec
from edgellm.generate.options import GenerateOptions
from edgellm.generate.result import GenerationResult
from edgellm.generate.template import Message, ToolCall
from edgellm.generate.tools import Toolbox, check_call

if TYPE_CHECKING:
    from edgellm.api.chat import LoadedModel
    from edgellm.generate.thoughts import Delta, ThoughtWatch

__all__ = ["Steps"]

STEP_TOKENS = 1024  # of a call with its thought; the person's limit is that of an answer
SHARE = 4  # a result may fill this part of the context


class Steps:
    """The steps of one run, and what came of them so far.

    Attributes:
        model: what writes.
        messages: the conversation.
        toolbox: what can be called.
        options: how the text is written.
        most: how many times the model may call.
        required: whether it has to call at least once.
        constrain: whether calls are kept to the tools and their schemas.
        cancel: ends the run from any thread.
        count: how many times the model wrote.
        used_up: whether it would have gone on calling.
        written: what it wrote, calls and thoughts too.
        results: the calls with their results.
        texts: the pieces of the answer.
    """

    def __init__(
        self,
        model: LoadedModel,
        messages: Sequence[Message],
        toolbox: Toolbox,
        options: GenerateOptions,
        *,
        most: int,
        required: bool,
        constrain: bool,
        approve: Callable[[ToolCall], bool] | None,
        cancel: threading.Event,
    ) -> None:
        self.model = model
        self.messages = list(messages)
        self.toolbox = toolbox
        self.options = options
        self.most = most
        self.required = required
        self.constrain = constrain
        self.cancel = cancel
        self.count = 0
        self.used_up = False
        self.written: list[GenerationResult] = []
        self.results: list[ToolResult] = []
        self.texts: list[str] = []
        self._approve = approve

    def write(
        self,
        tokens: Sequence[int],
        *,
        constraint: ConstraintSpec | None = None,
        stop: Sequence[str] = (),
        answer: bool = False,
        drafts: bool = True,
        thoughts: ThoughtWatch | None = None,
    ) -> Generator[Delta, None, GenerationResult]:
        """Continue tokens, giving the text as it comes; what was counted is kept.

        Raises:
            CancelledError: it was cancelled.
        """
        options = self.options
        options = replace(
            options,
            constraint=constraint,
            max_tokens=options.max_tokens if answer else STEP_TOKENS,
            stop=(*options.stop, *stop) if constraint is None else (),
            speculate=options.speculate if drafts else "off",
        )
        generation = self.model.continue_tokens(tokens, options, self.cancel, thoughts=thoughts)
        stream = generation.deltas()
        try:
            yield from stream
        finally:
            stream.close()  # what was written until here is its result
            self.written.append(generation.result)
        if self.cancel.is_set():
            raise CancelledError
        return generation.result

    def read(self, tokens: Sequence[int], **how: Any) -> GenerationResult:
        """Continue tokens to the end."""
        stream = self.write(tokens, **how)
        while True:
            try:
                next(stream)
            except StopIteration as end:
                result: GenerationResult = end.value
                return result

    def say(self, text: str) -> Iterator[TextDelta]:
        """Tell a piece of the answer, and keep it."""
        if text:
            self.texts.append(text)
            yield TextDelta(text)

    def call(self, call: ToolCall) -> Generator[Event, None, ToolResult]:
        """Run a call, unless it is wrong or refused; whatever happens is a result."""
        yield call
        wrong = check_call(self.toolbox.tools, call)
        if wrong is None and self._approve is not None and not self._approve(call):
            wrong = f"{call.name} was not run: the person refused this call"
        if self.cancel.is_set():
            raise CancelledError
        if wrong is not None:
            result = ToolResult(call, wrong, ok=False, ran=False)
        else:
            out = self.toolbox.run(call, self.cancel.is_set)
            text, cut = self._fitting(out.text)
            result = ToolResult(call, text, out.ok, True, out.cut or cut, out.seconds)
        self.results.append(result)
        yield result
        return result

    def _fitting(self, text: str) -> tuple[str, bool]:
        """Cut a result that would fill too much of the context; gives whether it was."""
        most = max(16, self.model.context_limit // SHARE)
        whole = len(text)
        text = text[: 16 * most]  # no need to tokenize what is far too long
        while (size := len(self.model.tokenize(text, ends=False))) > most:
            text = text[: len(text) * most // (size + 1)]
        if len(text) == whole:
            return text, False
        return f"{text}\n[cut: {len(text):,} of {whole:,} characters]", True
