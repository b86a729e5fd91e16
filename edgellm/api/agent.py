"""Answers with tools: the model calls, the tools run, and it goes on with what they gave.

    run = model.run_tools("What is 37 times 41?", [multiply])
    for event in run: ...
    print(run.result.text)

Where the model's chat template takes tools, calls are written in its own form
(`edgellm.api.tool_template`); other models think, act and observe in plain text
(`edgellm.api.tool_react`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Unpack, get_args

from edgellm.api.tool_events import Event, TextDelta, Thought, ToolResult, ToolRunResult
from edgellm.api.tool_react import react_turns
from edgellm.api.tool_steps import Steps
from edgellm.api.tool_template import TemplateTurns
from edgellm.backends.base import CancelledError
from edgellm.errors import UsageError
from edgellm.generate.options import GenerateFields, GenerateOptions
from edgellm.generate.result import FinishReason
from edgellm.generate.template import Message, ToolCall
from edgellm.generate.tools import FunctionTools, Toolbox
from edgellm.generate.toolsyntax import find_family

if TYPE_CHECKING:
    from edgellm.api.chat import LoadedModel

__all__ = [
    "Event",
    "TextDelta",
    "Thought",
    "ToolChoice",
    "ToolFields",
    "ToolResult",
    "ToolRun",
    "ToolRunResult",
    "ToolStyle",
    "run_tools",
]

ToolStyle = Literal["auto", "template", "react"]
ToolChoice = Literal["auto", "required"]

MAX_STEPS = 1000


class ToolFields(GenerateFields, total=False):
    """The arguments of `LoadedModel.run_tools` that may be left out, beside those of `options`.

    Attributes:
        document: a text that stands behind the prompt.
        system: the system prompt; None for the template's own.
        max_steps: how many times the model may call before it is asked for its answer; 8.
        style: "template": calls as the model's chat template writes them; "react": thoughts and
            actions as plain text, for a model without such a template; "auto" takes "template"
            where it can.
        choice: "required": the model has to call at least once; a small model often guesses
            otherwise.
        constrain: keep calls to the tools and their schemas while they are written, where their
            form allows it; True.
        approve: is asked before each call; False refuses it.
        options: how the text is written.
        cancel: set it from any thread to stop; a tool of a `ToolFile` is stopped too.
    """

    document: str | None
    system: str | None
    max_steps: int
    style: ToolStyle
    choice: ToolChoice
    constrain: bool
    approve: Callable[[ToolCall], bool] | None
    options: GenerateOptions | None
    cancel: threading.Event | None


def run_tools(
    model: LoadedModel,
    prompt: str | Sequence[Message],
    tools: Toolbox | Iterable[Callable[..., Any]],
    *,
    document: str | None = None,
    system: str | None = None,
    max_steps: int = 8,
    style: ToolStyle = "auto",
    choice: ToolChoice = "auto",
    constrain: bool = True,
    approve: Callable[[ToolCall], bool] | None = None,
    options: GenerateOptions | None = None,
    cancel: threading.Event | None = None,
    **fields: Unpack[GenerateFields],
) -> ToolRun:
    """Answer a prompt with tools; see `edgellm.api.chat.LoadedModel.run_tools`."""
    messages = [Message("user", prompt)] if isinstance(prompt, str) else list(prompt)
    if not messages:
        raise UsageError("there is no message to answer")
    if document is not None:
        newest = messages.pop()
        messages.append(replace(newest, content=f"{newest.content}\n\n{document}"))
    if system:
        messages.insert(0, Message("system", system))
    return ToolRun(
        model,
        messages,
        tools,
        GenerateOptions.of(options, **fields),
        max_steps=max_steps,
        style=style,
        choice=choice,
        constrain=constrain,
        approve=approve,
        cancel=cancel,
    )


class ToolRun:
    """A stream of events; iterate over it once, then `result` is there.

    Set `cancel` from any thread to stop it: the stream ends with the finish reason "cancelled".
    """

    def __init__(
        self,
        model: LoadedModel,
        messages: Sequence[Message],
        tools: Toolbox | Iterable[Callable[..., Any]],
        options: GenerateOptions,
        *,
        max_steps: int = 8,
        style: ToolStyle = "auto",
        choice: ToolChoice = "auto",
        constrain: bool = True,
        approve: Callable[[ToolCall], bool] | None = None,
        cancel: threading.Event | None = None,
    ) -> None:
        if not 0 < max_steps <= MAX_STEPS:
            raise UsageError(f"max_steps is {max_steps}, and must lie between 1 and {MAX_STEPS}")
        if style not in get_args(ToolStyle):
            raise UsageError(f"no style of calls is called {style!r}")
        if choice not in get_args(ToolChoice):
            raise UsageError(f"no choice of tools is called {choice!r}")
        if choice == "required" and not constrain:
            raise UsageError("a call is required, and calls are not constrained")
        if messages[-1].role != "user":
            raise UsageError("the last message is not the user's")
        if options.constraint is not None:
            raise UsageError("an answer with tools cannot have a form of its own as well")
        self.cancel = cancel or threading.Event()
        self._steps = steps = Steps(
            model,
            messages,
            FunctionTools(tools) if isinstance(tools, Iterable) else tools,
            options,
            most=max_steps,
            required=choice == "required",
            constrain=constrain,
            approve=approve,
            cancel=self.cancel,
        )
        family = find_family(model.template_source)
        if style == "template" and family is None:
            raise UsageError(f"the chat template of {model.name} takes no tools")
        self.style: Literal["template", "react"]
        if style == "react" or family is None:
            self.style, turns = "react", react_turns(steps)
        else:
            template = TemplateTurns(steps, family)
            if steps.required and not template.forced:
                raise UsageError(
                    f"a call is required, and the calls of {model.name} have no form that can be "
                    "kept",
                    hint='the style "react" has one',
                )
            self.style, turns = "template", template.run()
        self._result: ToolRunResult | None = None
        self._stream = self._run(turns)

    def __iter__(self) -> Iterator[Event]:
        return self._stream

    @property
    def result(self) -> ToolRunResult:
        """What it gave; only after the stream has ended.

        Raises:
            UsageError: the stream has not ended yet.
        """
        if self._result is None:
            raise UsageError("the run has not ended yet, so it has no result")
        return self._result

    def read(self) -> ToolRunResult:
        """Run to the end and give the result."""
        for _ in self._stream:
            pass
        return self.result

    def _run(self, turns: Iterator[Event]) -> Iterator[Event]:
        start, steps = time.perf_counter(), self._steps
        try:
            with suppress(CancelledError):
                yield from turns
        finally:
            written = steps.written
            reason: FinishReason = written[-1].finish_reason if written else "cancelled"
            text = "".join(steps.texts)
            self._result = ToolRunResult(
                text=text,
                finish_reason="cancelled" if self.cancel.is_set() else reason,
                style=self.style,
                steps=steps.count,
                steps_used_up=steps.used_up,
                results=tuple(steps.results),
                messages=(*steps.messages, Message("assistant", text)),
                prompt_tokens=sum(result.prompt_tokens for result in written),
                reused_tokens=sum(result.reused_tokens for result in written),
                completion_tokens=sum(result.completion_tokens for result in written),
                seconds=time.perf_counter() - start,
                seed=steps.options.sampling.seed,
            )
