"""Chat templates: from messages to the text that the model was trained on."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgellm.errors import TemplateError

__all__ = ["MAX_TEMPLATE", "ChatTemplate", "Message", "Role", "ToolCall"]

Role = Literal["system", "user", "assistant", "tool"]

PROBE = "probe_of_arguments"
MAX_TEMPLATE = 256_000  # characters; the largest published ones, with tools, have some 20,000
MAX_RENDERED = 16_000_000  # characters; more than any context holds


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that a model calls.

    Attributes:
        name: the tool's name.
        arguments: what it is called with, by the parameters' names; JSON's types.
        id: names the call in the conversation, and in the message that holds its result.
    """

    name: str
    arguments: Mapping[str, Any]
    id: str = ""

    def as_dict(self, *, text: bool = False) -> dict[str, Any]:
        """Give it in OpenAI's shape; with `text`, the arguments are the text of a JSON object."""
        arguments = dict(self.arguments)
        body = json.dumps(arguments, ensure_ascii=False) if text else arguments
        function = {"name": self.name, "arguments": body}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: who speaks; "tool" gives the result of a call.
        content: the text.
        tool_calls: what an assistant calls.
        tool_call_id: of a "tool" message, the call that it answers.
        name: of a "tool" message, the tool's name.
        thinking: what an assistant thought before it spoke. Most templates leave it out of what the
            model sees; they read it as `reasoning_content` where they do not.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""
    thinking: str = ""


class ChatTemplate:
    """A compiled chat template.

    Raises:
        TemplateError: it is too long, or is not a template that the sandbox can run.
    """

    def __init__(self, source: str, *, bos: str = "", eos: str = "") -> None:
        import jinja2

        from edgellm.generate.sandbox import ChatEnvironment

        if len(source) > MAX_TEMPLATE:
            raise TemplateError(
                f"the model's chat template has {len(source)} characters, at most {MAX_TEMPLATE} "
                "are allowed"
            )
        self.source = source
        self._bos = bos
        self._eos = eos
        self._environment = ChatEnvironment()
        try:
            self._template = self._environment.from_string(source)
        except jinja2.TemplateError as error:
            raise TemplateError(f"the model's chat template is wrong: {_line(error)}") from error
        except (RecursionError, MemoryError, SyntaxError, ValueError, OverflowError) as error:
            raise TemplateError(
                f"the model's chat template cannot be compiled ({type(error).__name__})"
            ) from error

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, object] | None = None,
    ) -> str:
        """Give the text of a conversation, ending where the assistant is to speak.

        Args:
            messages: the conversation.
            add_generation_prompt: False ends it with the last message.
            variables: further variables of the template: `tools`, in OpenAI's shape.

        Raises:
            TemplateError: the template fails, refuses the messages, or goes over a limit.
        """
        called = any(message.tool_calls for message in messages)
        text = called and self.takes_text_arguments
        return self._render([_as_dict(m, text) for m in messages], add_generation_prompt, variables)

    @functools.cached_property
    def takes_text_arguments(self) -> bool:
        """Whether it wants the arguments of calls as JSON text, as OpenAI's service gives them.

        Most templates take an object. Which one it is shows when a call is rendered.
        """
        call = ToolCall("f", {PROBE: 1}, "call00000")
        messages = [Message("user", "?"), Message("assistant", "", (call,))]
        for text in (False, True):
            try:
                rendered = self._render([_as_dict(m, text) for m in messages], False, None)
            except TemplateError:
                continue
            if f'"{PROBE}"' in rendered:
                return text
        return False

    def _render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
        variables: Mapping[str, object] | None,
    ) -> str:
        import jinja2

        from edgellm.generate.sandbox import LimitError

        values: dict[str, object] = {
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
            "bos_token": self._bos,
            "eos_token": self._eos,
            "tools": None,
            "documents": None,
        }
        values.update(variables or {})
        try:
            text = self._environment.render_limited(self._template, values)
        except TemplateError:
            raise
        except LimitError as error:
            raise TemplateError(f"the model's chat template was stopped: {error}") from error
        except jinja2.TemplateError as error:
            raise TemplateError(f"the model's chat template fails: {_line(error)}") from error
        except Exception as error:
            # A template is a program from a file: whatever Python says about it is its fault.
            raise TemplateError(
                f"the model's chat template fails: {type(error).__name__}: {_line(error)}"
            ) from error
        if len(text) > MAX_RENDERED:
            raise TemplateError(
                f"the model's chat template gives {len(text)} characters, at most {MAX_RENDERED} "
                "are allowed"
            )
        return text


def _as_dict(message: Message, text_arguments: bool) -> dict[str, Any]:
    """Give a message as templates take it; keys that say nothing are not there."""
    body: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        body["tool_calls"] = [call.as_dict(text=text_arguments) for call in message.tool_calls]
    if message.tool_call_id:
        body["tool_call_id"] = message.tool_call_id
    if message.name:
        body["name"] = message.name
    if message.thinking:
        body["reasoning_content"] = message.thinking
    return body


def _line(error: BaseException) -> str:
    """Give the first line of an error's text, cut to what fits a sentence."""
    text = str(error).strip().splitlines() or [type(error).__name__]
    return text[0][:300]
