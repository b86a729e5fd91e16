"""Calls as the model's own chat template writes them."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgellm.api.tool_events import Event, Thought, ToolResult
from edgellm.api.tool_steps import Steps
from edgellm.generate.constraint import JsonSchema
from edgellm.generate.prompt import chat_tokens
from edgellm.generate.react import examples_for
from edgellm.generate.template import Message, ToolCall
from edgellm.generate.text import StopFilter
from edgellm.generate.thinking import thinking_of
from edgellm.generate.toolsyntax import MAX_CALLS, Family, as_calls, call_schema, parse_calls

if TYPE_CHECKING:
    from edgellm.generate.reasoning import Reasoning
    from edgellm.generate.thoughts import ThoughtWatch

__all__ = ["TemplateTurns"]

NOW = "No more tools can be called. Answer the question now with what is known."


class TemplateTurns:
    """The turns of a run whose model's template takes tools; `family` says how it writes calls.

    Attributes:
        forced: whether calls are kept to a schema while they are written.
    """

    def __init__(self, steps: Steps, family: Family) -> None:
        self._steps = steps
        self._family = family
        json_form = family.form in ("object", "list") and family.begin != ""
        self.forced = steps.constrain and json_form

    def run(self) -> Iterator[Event]:
        """Let the model write and call, until it answers."""
        steps, family = self._steps, self._family
        first = len(steps.messages)
        for step in range(steps.most + 1):
            steps.count += 1
            last = steps.used_up = step == steps.most
            if last:
                newest = steps.messages[-1]
                steps.messages[-1] = replace(newest, content=f"{newest.content}\n\n{NOW}")
            before = len(steps.texts)
            thinking = thinking_of(steps.model.model, steps.model.template, steps.options)
            prompt = self._prompt(first, thinking.asked)
            body = yield from self._turn(prompt, thinking.watch, last=last)
            if body is None or last:
                return
            parsed = parse_calls(family, body, steps.toolbox.tools)
            if not parsed.calls and not family.begin:
                yield from steps.say(body)  # JSON that is no call is the answer
                return
            said = "".join(steps.texts[before:])
            if said and not said.endswith("\n"):
                yield from steps.say("\n")  # it goes on behind the calls
            calls = as_calls(parsed.calls, len(steps.results))
            text = f"{said}{body}" if parsed.problem else said
            steps.messages.append(Message("assistant", text.strip(), tuple(calls)))
            for call in calls:
                result = yield from steps.call(call)
                steps.messages.append(_answered(call, result.text))
            if parsed.problem:
                broken = ToolCall("", {}, "call99999")
                steps.results.append(ToolResult(broken, parsed.problem, ok=False, ran=False))
                yield steps.results[-1]
                steps.messages.append(_answered(broken, parsed.problem))

    def _prompt(self, first: int, reasoning: Reasoning | None) -> list[int]:
        """Give the tokens of the conversation; the tools' examples stand as turns before it."""
        steps, family = self._steps, self._family
        tools = steps.toolbox.tools
        asked = steps.messages[first - 1]
        systems = [m for m in steps.messages if m.role == "system"]
        turns: list[Message] = []
        for number, (tool, example) in enumerate(examples_for(tools, asked.content)):
            call = ToolCall(tool.name, example.arguments, f"demo{number:05d}")
            turns += [
                Message("user", example.question),
                Message("assistant", "", (call,)),
                _answered(call, example.result),
                Message("assistant", example.answer),
            ]
        rest = [m for m in steps.messages if m.role != "system"]
        return chat_tokens(
            steps.model.model,
            steps.model.template,
            [*systems, *turns, *rest],
            tools=[tool.as_dict() for tool in tools.values()],
            guarded=family.result_signs,
            reasoning=reasoning,
        )

    def _turn(
        self, prompt: list[int], thoughts: ThoughtWatch | None, *, last: bool
    ) -> Generator[Event, None, str | None]:
        """Let the model speak once; gives what it wrote as calls, None if it wrote none."""
        steps, family = self._steps, self._family
        model = steps.model.model
        tokens, body = list(prompt), ""
        for _ in range(MAX_CALLS):
            if not (steps.required and not steps.results and not body):
                stop = self.forced or last
                rest = yield from self._until_call(tokens, thoughts, stop=stop)
                thoughts = None  # they come before all else
                if rest is None or last:
                    return body or None
                if not self.forced:
                    return rest
                tokens = self._before_sign(len(tokens))
            begin = model.tokenize(family.begin + family.gap, special=True)
            schema = call_schema(family, steps.toolbox.tools)
            call = steps.read([*tokens, *begin], constraint=JsonSchema(schema)).text
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
        steps, family = self._steps, self._family
        model = steps.model.model
        held, sign = list(steps.model.held_tokens), family.begin.encode()
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
        steps, family = self._steps, self._family
        model = steps.model.model
        sign = model.tokenize(family.begin, special=True) if family.begin else []
        control = sign[0] if len(sign) == 1 and model.control_text(sign[0]) is not None else None
        signs = StopFilter([family.begin] if family.begin else [])
        whole = thought = ""
        said, found, seen = False, False, len(tokens)
        # Without drafts the evaluated tokens are those of the text so far.
        stream = steps.write(tokens, answer=True, drafts=control is None, thoughts=thoughts)
        for kind, text in stream:
            held = steps.model.held_tokens
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
                yield from steps.say(shown)
                found = signs.hit is not None
            if found and stop:
                stream.close()
                return ""
        if thought:
            yield Thought(thought.strip())
        if not found:
            yield from steps.say(signs.finish())
        if control is not None and control in (held := steps.model.held_tokens[len(tokens) :]):
            after = held[list(held).index(control) + 1 :]
            return b"".join(map(model.token_bytes, after)).decode("utf-8", "replace")
        if signs.hit is not None:
            return whole.partition(family.begin)[2]
        return whole if found else None


def _answered(call: ToolCall, text: str) -> Message:
    return Message("tool", text, tool_call_id=call.id, name=call.name)
