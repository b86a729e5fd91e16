"""Tools for a model whose template knows none: Thought, Action, Observation, as plain text.

The form is that of ReAct (Yao et al., 2022, "ReAct: Synergizing Reasoning and Acting in Language
Models", https://arxiv.org/abs/2210.03629): the model continues a text of solved questions. With a
grammar each step is a thought of one line and then either an action, which is one of the tools with
arguments of its schema, or the word that the answer follows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgellm.generate.template import Message, ToolCall
from edgellm.generate.tools import Example, Tool
from edgellm.generate.view import is_persian

__all__ = [
    "ANSWER_STOPS",
    "LAST_STEP",
    "STEP_STOPS",
    "Step",
    "examples_for",
    "observation",
    "opening",
    "parse_step",
    "step_grammar",
]

FINAL = "Final Answer:"
KNOWN = "I know the answer now."
THOUGHT_LENGTH = 200  # characters
STEP_STOPS = ("\nObservation:", "\nQuestion:")
ANSWER_STOPS = ("\n\n", "\nQuestion:", "\nThought:", "\nObservation:", "\nAction:")
LAST_STEP = f"Thought: {KNOWN}\n{FINAL}"


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of the model is.

    Attributes:
        text: the step as it stands in the prompt of the next one.
        thought: the thought; may be empty.
        call: the tool that it calls; None if it is about to answer, or has written neither.
        answer: the beginning of its answer; None if it gives none.
        problem: why an action cannot be read; empty if there is none.
    """

    text: str
    thought: str
    call: ToolCall | None = None
    answer: str | None = None
    problem: str = ""


def examples_for(tools: Mapping[str, Tool], question: str) -> list[tuple[Tool, Example]]:
    """Choose the tools' examples for a question: those in its language, if there are any.

    The tools take turns, so that none of them is the last word more than the others.
    """
    most = max((len(tool.examples) for tool in tools.values()), default=0)
    turns = [
        (tool, tool.examples[index])
        for index in range(most)
        for tool in tools.values()
        if index < len(tool.examples)
    ]
    persian = is_persian(question)
    same = [turn for turn in turns if is_persian(turn[1].question) == persian]
    return same or turns


def opening(tools: Mapping[str, Tool], messages: Sequence[Message]) -> str:
    """Give the text that the model continues: the tools, the examples, and the messages.

    The last message is the question; the ones before it are questions with their answers.
    """
    question = messages[-1].content
    lines = [f"{m.content.strip()}\n" for m in messages if m.role == "system"]
    lines += ["Answer each question. These tools can be used:\n"]
    for tool in tools.values():
        says = " ".join(tool.description.split())
        inputs = json.dumps(_inputs(tool.parameters), ensure_ascii=False)
        lines.append(f"{tool.name}: {says} Its input is JSON: {inputs}")
    lines.append("")
    for tool, example in examples_for(tools, question):
        thought = example.thought or f"I can use {tool.name} for this."
        lines += [
            f"Question: {example.question}",
            f"Thought: {thought}",
            f"Action: {tool.name}",
            f"Action Input: {json.dumps(example.arguments, ensure_ascii=False)}",
            f"Observation: {example.result}",
            f"Thought: {KNOWN}",
            f"{FINAL} {example.answer}\n",
        ]
    for message in messages[:-1]:
        if message.role == "user":
            lines.append(f"Question: {_guarded(message.content)}")
        elif message.role == "assistant" and message.content:
            lines.append(f"{FINAL} {_guarded(message.content)}\n")
    return "\n".join([*lines, f"Question: {_guarded(question)}\n"])


def _inputs(schema: Mapping[str, Any]) -> Any:
    """Give arguments as an example of them: what each means in place of its value."""
    return {
        name: " ".join(part.get("description", part.get("type", "value")).split())
        for name, part in schema.get("properties", {}).items()
    }


_LINE_OF_FORM = re.compile(r"^\s*(?=(?:Question|Thought|Action|Observation|Final)\b)", re.MULTILINE)


def _guarded(text: str) -> str:
    """Keep a text from posing as lines of the form: what a tool or a stranger wrote is data."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join([*lines[:1], *(_LINE_OF_FORM.sub("> ", line) for line in lines[1:])])


def observation(text: str) -> str:
    """Give a result as it follows a step."""
    return f"Observation: {_guarded(text) or '(nothing)'}\n"


def step_grammar(tools: Mapping[str, Tool], *, must: bool = False) -> str:
    """Give the grammar of a step, in llguidance's Lark; with `must` the step is an action."""
    rules = []
    for index, tool in enumerate(tools.values()):
        schema = json.dumps(dict(tool.parameters), ensure_ascii=False)
        rules.append(f'a{index}: "{tool.name}\\nAction Input: " %json {schema}')
    names = " | ".join(f"a{index}" for index in range(len(tools)))
    return "\n".join([
        'start: "Thought:" THOUGHT "\\n" ' + ("action" if must else "(action | final)"),
        f"THOUGHT: /[^\\n\\r]{{1,{THOUGHT_LENGTH}}}/",
        f'action: "Action: " ({names}) "\\n"',
        *([] if must else [f'final: "{FINAL}"']),
        *rules,
    ])  # fmt: skip


_ACTION = re.compile(
    r"^Action:[ \t]*(.*?)[ \t]*\n+Action Input:[ \t]*(.*)", re.MULTILINE | re.DOTALL
)
_THOUGHT = re.compile(r"(?:^|\n)Thought:[ \t]*(.*)")


def parse_step(text: str) -> Step:
    """Read what the model wrote; whatever it is, a step comes back."""
    text = text.strip("\n")
    thought = found[1].strip() if (found := _THOUGHT.search(text)) else ""
    action = _ACTION.search(text)
    final = text.find(FINAL)
    if action is None or 0 <= final < action.start():
        if final < 0:
            problem = "there is no Action" if "Action" in text else ""
            return Step(f"{text}\n", thought, problem=problem)
        return Step(text[: final + len(FINAL)], thought, answer=text[final + len(FINAL) :].strip())
    name, raw = action[1], action[2].strip()
    try:
        arguments, end = json.JSONDecoder().raw_decode(raw)
    except (ValueError, RecursionError) as error:
        step = f"{text[: action.end()]}".split("\nObservation:")[0]
        return Step(f"{step}\n", thought, problem=f"the Action Input is no JSON ({error})")
    if not isinstance(arguments, dict):
        return Step(f"{text}\n", thought, problem="the Action Input is no JSON object")
    kept = text[: action.start(2)] + raw[:end]
    return Step(f"{kept}\n", thought, ToolCall(name, arguments))
