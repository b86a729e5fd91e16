"""What happens while a model answers with tools, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from edgellm.generate.result import FinishReason
from edgellm.generate.template import Message, ToolCall

__all__ = ["Event", "TextDelta", "Thought", "ToolResult", "ToolRunResult"]


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
