"""Thoughts, actions and observations as plain text, for a model whose template takes no tools."""

from __future__ import annotations

from collections.abc import Iterator

from edgellm.api.tool_events import Event, Thought, ToolResult
from edgellm.api.tool_steps import Steps
from edgellm.generate import react
from edgellm.generate.constraint import Grammar
from edgellm.generate.prompt import text_tokens
from edgellm.generate.template import ToolCall
from edgellm.generate.thinking import check_thinks
from edgellm.generate.toolsyntax import as_calls

__all__ = ["react_turns"]


def react_turns(steps: Steps) -> Iterator[Event]:
    """Let the model think, act and observe, until it answers.

    Raises:
        UsageError: thinking of the model's own kind is asked for.
    """
    check_thinks(steps.options, "it thinks in plain text, between its calls")
    model, tools = steps.model.model, steps.toolbox.tools
    text = react.opening(tools, steps.messages)
    for _ in range(steps.most):
        steps.count += 1
        must = steps.required and not steps.results
        grammar = Grammar(react.step_grammar(tools, must=must)) if steps.constrain else None
        written = steps.read(text_tokens(model, text), constraint=grammar, stop=react.STEP_STOPS)
        step = react.parse_step(written.text)
        if step.thought:
            yield Thought(step.thought)
        if step.answer is None and step.call is None and not step.problem:
            yield from steps.say(written.text.strip())  # it keeps to no form
            return
        text += step.text
        if step.answer:
            yield from steps.say(step.answer)
            return
        if step.answer is not None:
            break
        if step.call is None:
            broken = ToolResult(ToolCall("", {}), step.problem, ok=False, ran=False)
            steps.results.append(broken)
            yield broken
            text += react.observation(step.problem)
            continue
        call = as_calls([step.call], len(steps.results))[0]
        result = yield from steps.call(call)
        text += react.observation(result.text)
    else:
        steps.used_up = True
        steps.count += 1
        text += react.LAST_STEP
    stream = steps.write(text_tokens(model, text), stop=react.ANSWER_STOPS, answer=True)
    for _, piece in stream:
        yield from steps.say(piece if steps.texts else piece.lstrip())
