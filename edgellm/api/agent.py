"""Answers with tools: the model calls, the tools run, and it goes on with what they gave.

    run = model.run_tools("What is 37 times 41?", [multiply])
    for event in run: ...
    print(run.result.text)

Where the model's chat template takes tools, calls are written in its own form; other models think,
act and observe in plain text (`edgellm.generate.react`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Unpack, get_args

from edgellm.backends.base import CancelledError
from edgellm.errors import UsageError
from edgellm.generate import react
from edgellm.generate.constraint import ConstraintSpec, Grammar, JsonSchema
from edgellm.generate.options import GenerateFields, GenerateOptions
from edgellm.generate.prompt import chat_tokens, text_tokens
from edgellm.generate.result import FinishReason, GenerationResult
from edgellm.generate.template import Message, ToolCall
from edgellm.generate.text import StopFilter
from edgellm.generate.thinking import check_thinks, thinking_of
from edgellm.generate.tools import FunctionTools, Toolbox, check_call
from edgellm.generate.toolsyntax import MAX_CALLS, as_calls, call_schema, find_family, parse_calls

if TYPE_CHECKING:
    from edgellm.api.chat import LoadedModel
    from edgellm.generate.reasoning import Reasoning
    from edgellm.generate.thoughts import Delta, ThoughtWatch

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
STEP_TOKENS = 1024  # of a call with its thought; the person's limit is that of an answer
SHARE = 4  # a result may fill this part of the context
NOW = "No more tools can be called. Answer the question now with what is known."


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """What the model thought before it called or answered."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What came of a call.

    Attributes:
        call: the call.
        text: what the model gets to see.
        ok: whether it is the tool's result, and not what went wrong.
        ran: whether the tool was run at all.
        cut: whether its result was longer than `text`.
        seconds: how long it took.
    """

    call: ToolCall
    text: str
    ok: bool
    ran: bool
    cut: bool = False
    seconds: float = 0.0


Event: TypeAlias = TextDelta | Thought | ToolCall | ToolResult


@dataclass(frozen=True, slots=True)
class ToolRunResult:
    """What a run gave.

    Attributes:
        text: the answer.
        finish_reason: how the answer ended, as of `GenerationResult`.
        style: how calls were written: "template" or "react".
        steps: how many times the model wrote, the answer included.
        steps_used_up: whether it would have gone on calling, and was asked for its answer.
        results: the calls with their results, in order.
        messages: the conversation with calls, results and the answer; of "react" the question and
            the answer alone.
        prompt_tokens: tokens of all prompts.
        reused_tokens: how many of them were in the context already.
        completion_tokens: tokens that were written, of calls and thoughts too.
        seconds: how long all took, the tools included.
        seed: what the text was drawn with.
    """

    text: str
    finish_reason: FinishReason
    style: Literal["template", "react"]
    steps: int
    steps_used_up: bool
    results: tuple[ToolResult, ...]
    messages: tuple[Message, ...]
    prompt_tokens: int
    reused_tokens: int
    completion_tokens: int
    seconds: float
    seed: int


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
        self._model = model
        self._messages = list(messages)
        self._toolbox = FunctionTools(tools) if isinstance(tools, Iterable) else tools
        self._options = options
        self._max_steps = max_steps
        self._required = choice == "required"
        self._constrain = constrain
        self._approve = approve
        self._family = find_family(model.template_source)
        if style == "template" and self._family is None:
            raise UsageError(f"the chat template of {model.name} takes no tools")
        self.style: Literal["template", "react"] = (
            "react" if style == "react" or self._family is None else "template"
        )
        if self._required and self.style == "template" and not self._forced:
            raise UsageError(
                f"a call is required, and the calls of {model.name} have no form that can be kept",
                hint='the style "react" has one',
            )
        self._steps = 0
        self._written: list[GenerationResult] = []
        self._results: list[ToolResult] = []
        self._texts: list[str] = []
        self._used_up = False
        self._result: ToolRunResult | None = None
        self._stream = self._run()

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

    def _run(self) -> Iterator[Event]:
        start = time.perf_counter()
        try:
            with suppress(CancelledError):
                yield from self._template_run() if self.style == "template" else self._react_run()
        finally:
            written = self._written
            reason: FinishReason = written[-1].finish_reason if written else "cancelled"
            text = "".join(self._texts)
            self._result = ToolRunResult(
                text=text,
                finish_reason="cancelled" if self.cancel.is_set() else reason,
                style=self.style,
                steps=self._steps,
                steps_used_up=self._used_up,
                results=tuple(self._results),
                messages=(*self._messages, Message("assistant", text)),
                prompt_tokens=sum(result.prompt_tokens for result in written),
                reused_tokens=sum(result.reused_tokens for result in written),
                completion_tokens=sum(result.completion_tokens for result in written),
                seconds=time.perf_counter() - start,
                seed=self._options.sampling.seed,
            )

    # What both ways are made of.

    def _write(
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
        options = self._options
        options = replace(
            options,
            constraint=constraint,
            max_tokens=options.max_tokens if answer else STEP_TOKENS,
            stop=(*options.stop, *stop) if constraint is None else (),
            speculate=options.speculate if drafts else "off",
        )
        generation = self._model.continue_tokens(tokens, options, self.cancel, thoughts=thoughts)
        stream = generation.deltas()
        try:
            yield from stream
        finally:
            stream.close()  # what was written until here is its result
            self._written.append(generation.result)
        if self.cancel.is_set():
            raise CancelledError
        return generation.result

    def _read(self, tokens: Sequence[int], **how: Any) -> GenerationResult:
        """Continue tokens to the end."""
        stream = self._write(tokens, **how)
        while True:
            try:
                next(stream)
            except StopIteration as end:
                result: GenerationResult = end.value
                return result

    def _say(self, text: str) -> Iterator[TextDelta]:
        if text:
            self._texts.append(text)
            yield TextDelta(text)

    def _call(self, call: ToolCall) -> Generator[Event, None, ToolResult]:
        """Run a call, unless it is wrong or refused; whatever happens is a result."""
        yield call
        wrong = check_call(self._toolbox.tools, call)
        if wrong is None and self._approve is not None and not self._approve(call):
            wrong = f"{call.name} was not run: the person refused this call"
        if self.cancel.is_set():
            raise CancelledError
        if wrong is not None:
            result = ToolResult(call, wrong, ok=False, ran=False)
        else:
            out = self._toolbox.run(call, self.cancel.is_set)
            text, cut = self._fitting(out.text)
            result = ToolResult(call, text, out.ok, True, out.cut or cut, out.seconds)
        self._results.append(result)
        yield result
        return result

    def _fitting(self, text: str) -> tuple[str, bool]:
        """Cut a result that would fill too much of the context; gives whether it was."""
        most = max(16, self._model.context_limit // SHARE)
        whole = len(text)
        text = text[: 16 * most]  # no need to tokenize what is far too long
        while (size := len(self._model.tokenize(text, ends=False))) > most:
            text = text[: len(text) * most // (size + 1)]
        if len(text) == whole:
            return text, False
        return f"{text}\n[cut: {len(text):,} of {whole:,} characters]", True

    # Calls as the template writes them.

    @property
    def _forced(self) -> bool:
        """Whether calls are kept to a schema while they are written."""
        family = self._family
        json_form = family is not None and family.form in ("object", "list") and family.begin != ""
        return self._constrain and json_form

    def _template_run(self) -> Iterator[Event]:
        first = len(self._messages)
        for step in range(self._max_steps + 1):
            self._steps += 1
            last = self._used_up = step == self._max_steps
            if last:
                newest = self._messages[-1]
                self._messages[-1] = replace(newest, content=f"{newest.content}\n\n{NOW}")
            before = len(self._texts)
            thinking = thinking_of(self._model.model, self._model.template, self._options)
            prompt = self._prompt(first, thinking.asked)
            body = yield from self._turn(prompt, thinking.watch, last=last)
            if body is None or last:
                return
            family = self._family
            assert family is not None
            parsed = parse_calls(family, body, self._toolbox.tools)
            if not parsed.calls and not family.begin:
                yield from self._say(body)  # JSON that is no call is the answer
                return
            said = "".join(self._texts[before:])
            if said and not said.endswith("\n"):
                yield from self._say("\n")  # it goes on behind the calls
            calls = as_calls(parsed.calls, len(self._results))
            text = f"{said}{body}" if parsed.problem else said
            self._messages.append(Message("assistant", text.strip(), tuple(calls)))
            for call in calls:
                result = yield from self._call(call)
                self._messages.append(_answered(call, result.text))
            if parsed.problem:
                broken = ToolCall("", {}, "call99999")
                self._results.append(ToolResult(broken, parsed.problem, ok=False, ran=False))
                yield self._results[-1]
                self._messages.append(_answered(broken, parsed.problem))

    def _prompt(self, first: int, reasoning: Reasoning | None) -> list[int]:
        """Give the tokens of the conversation; the tools' examples stand as turns before it."""
        family, tools = self._family, self._toolbox.tools
        assert family is not None
        asked = self._messages[first - 1]
        systems = [m for m in self._messages if m.role == "system"]
        turns: list[Message] = []
        for number, (tool, example) in enumerate(react.examples_for(tools, asked.content)):
            call = ToolCall(tool.name, example.arguments, f"demo{number:05d}")
            turns += [
                Message("user", example.question),
                Message("assistant", "", (call,)),
                _answered(call, example.result),
                Message("assistant", example.answer),
            ]
        rest = [m for m in self._messages if m.role != "system"]
        return chat_tokens(
            self._model.model,
            self._model.template,
            [*systems, *turns, *rest],
            tools=[tool.as_dict() for tool in tools.values()],
            guarded=family.result_signs,
            reasoning=reasoning,
        )

    def _turn(
        self, prompt: list[int], thoughts: ThoughtWatch | None, *, last: bool
    ) -> Generator[Event, None, str | None]:
        """Let the model speak once; gives what it wrote as calls, None if it wrote none."""
        family, model = self._family, self._model.model
        assert family is not None
        tokens, body = list(prompt), ""
        for _ in range(MAX_CALLS):
            if not (self._required and not self._results and not body):
                stop = self._forced or last
                rest = yield from self._until_call(tokens, thoughts, stop=stop)
                thoughts = None  # they come before all else
                if rest is None or last:
                    return body or None
                if not self._forced:
                    return rest
                tokens = self._before_sign(len(tokens))
            begin = model.tokenize(family.begin + family.gap, special=True)
            schema = call_schema(family, self._toolbox.tools)
            call = self._read([*tokens, *begin], constraint=JsonSchema(schema)).text
            end = f"{family.gap}{family.end}"
            body += f"{family.begin}{family.gap}{call}{end}"
            if family.form == "list" or not family.end:
                return body
            written = [*model.tokenize(call, special=False), *model.tokenize(end, special=True)]
            tokens = [*tokens, *begin, *written]
        return body

    def _before_sign(self, prompt: int) -> list[int]:
        """Give what the context holds before the sign of a call, of which the end may be missing.

        So the model goes on behind the very tokens that it wrote, its thoughts among them.
        """
        family, model = self._family, self._model.model
        assert family is not None
        held, sign = list(self._model.held_tokens), family.begin.encode()
        texts = [model.token_bytes(token) for token in held[prompt:]]
        whole = b"".join(texts)
        at = whole.rfind(sign)
        if at < 0:
            sizes = (size for size in range(len(sign), 0, -1) if whole.endswith(sign[:size]))
            at = len(whole) - next(sizes, 0)
        kept, size = 0, 0
        while kept < len(texts) and size + len(texts[kept]) <= at:
            size += len(texts[kept])
            kept += 1
        return held[: prompt + kept]

    def _until_call(
        self, tokens: Sequence[int], thoughts: ThoughtWatch | None, *, stop: bool
    ) -> Generator[Event, None, str | None]:
        """Let the model write freely; gives what follows a call's sign, None where there is none.

        Signs that are control tokens have no text: they are found among the evaluated tokens.
        With `stop` the text ends at the sign.
        """
        family, model = self._family, self._model.model
        assert family is not None
        sign = model.tokenize(family.begin, special=True) if family.begin else []
        control = sign[0] if len(sign) == 1 and model.control_text(sign[0]) is not None else None
        signs = StopFilter([family.begin] if family.begin else [])
        whole = thought = ""
        said, found, seen = False, False, len(tokens)
        # Without drafts the evaluated tokens are those of the text so far.
        stream = self._write(tokens, answer=True, drafts=control is None, thoughts=thoughts)
        for kind, text in stream:
            held = self._model.held_tokens
            if kind == "thinking":
                thought, seen = thought + text, len(held)
                continue
            if thought:
                yield Thought(thought.strip())
                thought = ""
            whole += text
            if control is not None and not found:
                found, seen = control in held[seen:], len(held)
            if not family.begin and not said:
                found = whole.lstrip().startswith("{")  # the answer is a call, or JSON
            if not found:
                shown = signs.push(text)
                shown = shown if said else shown.lstrip()
                said = said or bool(shown)
                yield from self._say(shown)
                found = signs.hit is not None
            if found and stop:
                stream.close()
                return ""
        if thought:
            yield Thought(thought.strip())
        if not found:
            yield from self._say(signs.finish())
        if control is not None and control in (held := self._model.held_tokens[len(tokens) :]):
            after = held[list(held).index(control) + 1 :]
            return b"".join(map(model.token_bytes, after)).decode("utf-8", "replace")
        if signs.hit is not None:
            return whole.partition(family.begin)[2]
        return whole if found else None

    # Thoughts and actions as plain text.

    def _react_run(self) -> Iterator[Event]:
        check_thinks(self._options, "it thinks in plain text, between its calls")
        tools = self._toolbox.tools
        text = react.opening(tools, self._messages)
        for _ in range(self._max_steps):
            self._steps += 1
            must = self._required and not self._results
            grammar = Grammar(react.step_grammar(tools, must=must)) if self._constrain else None
            written = self._read(self._tokens(text), constraint=grammar, stop=react.STEP_STOPS)
            step = react.parse_step(written.text)
            if step.thought:
                yield Thought(step.thought)
            if step.answer is None and step.call is None and not step.problem:
                yield from self._say(written.text.strip())  # it keeps to no form
                return
            text += step.text
            if step.answer:
                yield from self._say(step.answer)
                return
            if step.answer is not None:
                break
            if step.call is None:
                broken = ToolResult(ToolCall("", {}), step.problem, ok=False, ran=False)
                self._results.append(broken)
                yield broken
                text += react.observation(step.problem)
                continue
            call = as_calls([step.call], len(self._results))[0]
            result = yield from self._call(call)
            text += react.observation(result.text)
        else:
            self._used_up = True
            self._steps += 1
            text += react.LAST_STEP
        stream = self._write(self._tokens(text), stop=react.ANSWER_STOPS, answer=True)
        for _, piece in stream:
            yield from self._say(piece if self._texts else piece.lstrip())

    def _tokens(self, text: str) -> list[int]:
        return text_tokens(self._model.model, text)


def _answered(call: ToolCall, text: str) -> Message:
    return Message("tool", text, tool_call_id=call.id, name=call.name)
