"""Chat templates: from messages to the text that the model was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgellm.errors import TemplateError

__all__ = ["ChatTemplate", "Message", "Role"]

Role = Literal["system", "user", "assistant"]

MAX_TEMPLATE = 256_000  # characters; the largest published ones, with tools, have some 20,000
MAX_RENDERED = 16_000_000  # characters; more than any context holds


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


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

        Raises:
            TemplateError: the template fails, refuses the messages, or goes over a limit.
        """
        import jinja2

        from edgellm.generate.sandbox import LimitError

        values: dict[str, object] = {
            "messages": [{"role": m.role, "content": m.content} for m in messages],
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


def _line(error: BaseException) -> str:
    """Give the first line of an error's text, cut to what fits a sentence."""
    text = str(error).strip().splitlines() or [type(error).__name__]
    return text[0][:300]
