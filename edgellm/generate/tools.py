"""Tools that a model may call: what it is told of them, and what comes of a call.

A tool of a file runs in a process of its own, and a function that a program hands in runs in that
program. Whatever happens there, the model gets a text, and the loop goes on.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from edgellm.errors import UsageError
from edgellm.generate import toolschema
from edgellm.generate.template import ToolCall

__all__ = [
    "MAX_OUTPUT",
    "Example",
    "FunctionTools",
    "Outcome",
    "Tool",
    "Toolbox",
    "check_call",
    "outcome",
]

MAX_OUTPUT = 4000  # characters of a result that a model gets to see
MAX_TOOLS = 64


class Example(NamedTuple):
    """How a tool is used, as a small model is shown it: a question, a call, and the answer."""

    question: str
    thought: str
    arguments: Mapping[str, Any]
    result: str
    answer: str


@dataclass(frozen=True, slots=True)
class Tool:
    """What a model is told of a tool.

    Attributes:
        name: its name.
        description: what it does.
        parameters: the JSON schema of its arguments, an object.
        examples: how it is used.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    examples: tuple[Example, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Give it in OpenAI's shape, as chat templates take it."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": dict(self.parameters),
        }
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a call.

    Attributes:
        text: what the model gets to see: the result, or what went wrong, as a sentence.
        ok: whether it is the tool's result.
        cut: whether the result was longer.
        seconds: how long it took.
    """

    text: str
    ok: bool = True
    cut: bool = False
    seconds: float = 0.0


class Toolbox(Protocol):
    """Tools, and what runs them."""

    @property
    def tools(self) -> Mapping[str, Tool]:
        """The tools by their names."""

    def run(self, call: ToolCall, cancelled: Callable[[], bool]) -> Outcome:
        """Run a call that `check_call` has found nothing wrong with.

        Raises:
            CancelledError: `cancelled` gave True.
        """


def check_call(tools: Mapping[str, Tool], call: ToolCall) -> str | None:
    """Say what is wrong with a call, for the model to read; None if nothing is."""
    tool = tools.get(call.name)
    if tool is None:
        return f"there is no tool {call.name[:100]!r}; the tools are: {', '.join(tools)}"
    wrong = toolschema.problem(tool.parameters, dict(call.arguments))
    return None if wrong is None else f"{call.name} was not run: {wrong}"


def outcome(text: str, length: int, limit: int, *, ok: bool, seconds: float) -> Outcome:
    """Make an outcome of a text of which only the beginning may be there; it says so then."""
    text = text.encode("utf-8", "replace").decode()  # lone surrogates cannot be tokenized
    if length <= limit:
        return Outcome(text, ok, seconds=seconds)
    text = f"{text[:limit]}\n[cut: {limit:,} of {length:,} characters]"
    return Outcome(text, ok, cut=True, seconds=seconds)


class FunctionTools:
    """Functions of this program as tools. They run in the thread that asks, without a time limit.

    Attributes:
        tools: the tools by their names.

    Raises:
        UsageError: a function has a parameter without a usable type, or two have one name.
    """

    def __init__(
        self, functions: Iterable[Callable[..., Any]], *, max_output: int = MAX_OUTPUT
    ) -> None:
        self._functions: dict[str, Callable[..., Any]] = {}
        self._max_output = max_output
        for function in functions:
            name = getattr(function, "__name__", repr(function))
            if self._functions.setdefault(name, function) is not function:
                raise UsageError(f"two tools are called {name!r}")
        self.tools = as_tools(map(_described, self._functions.values()))

    def run(self, call: ToolCall, cancelled: Callable[[], bool]) -> Outcome:  # noqa: ARG002
        """Call the function; what it raises is an outcome."""
        from edgellm.generate import toolchild

        function = self._functions[call.name]
        start = time.monotonic()
        try:
            arguments = toolschema.converted(function, call.arguments)
            answer = toolchild.called(function, arguments, self._max_output)
        except Exception as error:  # the function is somebody else's program
            answer = {"error": f"{type(error).__name__}: {error}"[: toolchild.MAX_ERROR]}
        seconds = time.monotonic() - start
        return answered(call.name, answer, self._max_output, seconds, "")


def answered(
    name: str, answer: Mapping[str, Any], limit: int, seconds: float, printed: str
) -> Outcome:
    """Make an outcome of what `toolchild` answered; `printed` stands for a result of None."""
    if "error" in answer:
        text = f"{name} failed: {answer['error']}"
        return outcome(text, len(text), max(limit, 1000), ok=False, seconds=seconds)
    text = answer["text"]
    if text is None:
        text = printed.strip() or "done"
        return outcome(text, len(text), limit, ok=True, seconds=seconds)
    return outcome(text, answer["length"], limit, ok=True, seconds=seconds)


def as_tools(described: Iterable[Mapping[str, Any]]) -> dict[str, Tool]:
    """Make tools of what `toolschema.describe` gave.

    Raises:
        UsageError: there are none, or more than a model can be told of.
    """
    tools = {
        each["name"]: Tool(
            each["name"],
            each["description"],
            each["parameters"],
            tuple(Example(**example) for example in each["examples"]),
        )
        for each in described
    }
    if not 0 < len(tools) <= MAX_TOOLS:
        raise UsageError(f"{len(tools)} tools are offered, 1 to {MAX_TOOLS} can be")
    return tools


def _described(function: Callable[..., Any]) -> dict[str, Any]:
    if not (inspect.isfunction(function) or inspect.ismethod(function)):
        raise UsageError(f"a tool is a function with types, and not {type(function).__name__}")
    try:
        return toolschema.describe(function)
    except toolschema.SchemaError as error:
        raise UsageError(str(error)) from error
