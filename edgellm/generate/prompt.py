"""From messages to tokens, so that no message can speak in the template's voice.

A template's control tokens (`<|im_start|>`, `<start_of_turn>` ...) become tokens because the
rendered text is tokenized with them. A message that holds such a text, from a web page or a file,
would become control tokens just so, and could end its turn and speak as the system. Therefore
control texts inside a message are taken out before the template runs (a placeholder stands for
them) and come back afterwards as plain text. Messages without them, which are nearly all, are
tokenized in one piece with the template's text, exactly as the model was trained.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgellm.backends.base import Tokenizer
from edgellm.errors import TemplateError
from edgellm.generate.reasoning import Reasoning
from edgellm.generate.template import ChatTemplate, Message, ToolCall

__all__ = ["chat_tokens", "text_tokens"]

MAX_ROUNDS = 8
# Noncharacters of Unicode around a number stand for a text that was taken out. Where a message
# holds one itself, it is taken out too, so that what is left of them is ours.
OPEN, CLOSE = "\ufdd0", "\ufdd1"


def text_tokens(model: Tokenizer, text: str, *, special: bool = False) -> list[int]:
    """Give the tokens of a text as it stands, after the model's start token.

    `special` turns the text of control tokens into those tokens: only for text that the person at
    the keyboard wrote as a prompt format.
    """
    return _started(model, model.tokenize(text, special=special))


def chat_tokens(
    model: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Message],
    spoken: Mapping[int, Sequence[int]] | None = None,
    *,
    generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] = (),
    guarded: Sequence[str] = (),
    reasoning: Reasoning | None = None,
) -> list[int]:
    """Give the tokens of a conversation, ending where the assistant is to speak.

    Args:
        model: whose tokenizer is used.
        template: its chat template.
        messages: the conversation.
        spoken: the tokens that an answer was generated as, by the index of its message. They stand
            in the result in place of what the tokenizer makes of the text, if the template leaves
            the text as it is, so that the context need not be evaluated again.
        generation_prompt: False ends it with the last message instead, as a conversation that
            is over and that a model is measured on.
        tools: what the model may call, in OpenAI's shape.
        guarded: signs of the template's that need not be control tokens, as those around a tool's
            result; where a "tool" message holds one, it stays text too.
        reasoning: how the model is asked to think; None leaves that to the template.

    Raises:
        TemplateError: the template fails, or takes a message apart that holds control texts.
    """
    mark = f"{OPEN}{os.urandom(8).hex()}:"
    texts: list[str] = []

    def plain(text: str) -> str:
        return _without_control(model, text, mark, texts)

    def safely(message: Message) -> Message:
        signs = guarded if message.role == "tool" else ()
        calls = (
            ToolCall(plain(call.name), _mapped(dict(call.arguments), plain), plain(call.id))
            for call in message.tool_calls
        )
        return replace(
            message,
            content=_without_control(model, message.content, mark, texts, signs),
            thinking=plain(message.thinking),
            tool_calls=tuple(calls),
            tool_call_id=plain(message.tool_call_id),
            name=plain(message.name),
        )

    safe = [safely(message) for message in messages]
    variables: dict[str, object] = {"tools": _mapped(list(tools), plain)} if tools else {}
    if reasoning is not None:
        variables.update(reasoning.variables)

    def render(messages: Sequence[Message]) -> str:
        rendered = template.render(
            messages, add_generation_prompt=generation_prompt, variables=variables
        )
        if reasoning is None or not generation_prompt:
            return rendered
        return reasoning.finish(rendered, template.source)

    rendered = render(safe)
    if spoken and generation_prompt:
        tokens = _with_spoken(model, render, safe, rendered, mark, texts, spoken)
        if tokens is not None:
            return _started(model, tokens)
    return _started(model, _tokens(model, rendered, mark, texts))


def _tokens(
    model: Tokenizer, rendered: str, mark: str, inserts: Sequence[str | list[int]]
) -> list[int]:
    """Tokenize a rendered text; `inserts` stand where the placeholders are."""
    if not inserts:
        return model.tokenize(rendered, special=True)
    # Odd places of the split hold the numbers between `mark` and its end.
    parts = re.split(f"{mark}([0-9]+){CLOSE}", rendered)
    secret = mark.strip(OPEN)  # also where the template has escaped the signs around it
    if any(sign in part for part in parts[::2] for sign in (OPEN, CLOSE, secret)):
        raise TemplateError(
            "a message holds the text of a control token, and the model's chat template takes it "
            "apart"
        )
    tokens: list[int] = []
    for index, part in enumerate(parts):
        if index % 2:
            insert = inserts[int(part)]
            tokens += insert if isinstance(insert, list) else _plain_tokens(model, insert)
        elif part:
            tokens += model.tokenize(part, special=True)
    return tokens


def _plain_tokens(model: Tokenizer, text: str) -> list[int]:
    """Tokenize a sign as text; some vocabularies have tokens that stand for a text everywhere."""
    tokens = model.tokenize(text, special=False)
    if len(tokens) == 1 and len(text) > 1:
        return [t for part in (text[:1], text[1:]) for t in model.tokenize(part, special=False)]
    return tokens


def _with_spoken(
    model: Tokenizer,
    render: Callable[[Sequence[Message]], str],
    safe: Sequence[Message],
    rendered: str,
    mark: str,
    texts: Sequence[str],
    spoken: Mapping[int, Sequence[int]],
) -> list[int] | None:
    """Tokenize with the answers' own tokens; None where that would change the conversation."""
    inserts: list[str | list[int]] = list(texts)
    marked = list(safe)
    places: dict[str, str] = {}  # placeholder -> the text that it stands for
    for index, tokens in spoken.items():
        if any(model.control_text(token) is not None for token in tokens):
            continue
        inserts.append(list(tokens))
        place = f"{mark}{len(inserts) - 1}{CLOSE}"
        places[place] = safe[index].content
        marked[index] = replace(safe[index], content=place)
    with_places = render(marked)
    plain = with_places
    for place, text in places.items():
        # Behind an answer a control token has to stand: plain text would be tokenized otherwise
        # than in one piece with the answer.
        after = with_places.partition(place)[2]
        first = model.tokenize(after[:200], special=True)[:1]
        if not first or model.control_text(first[0]) is None:
            return None
        plain = plain.replace(place, text)
    return _tokens(model, with_places, mark, inserts) if plain == rendered else None


def _started(model: Tokenizer, tokens: list[int]) -> list[int]:
    """Put the start token before the tokens, unless the template has written it already."""
    start = model.start_token
    if start is None or (tokens and tokens[0] == start):
        return tokens
    return [start, *tokens]


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """Change all strings in a value of JSON, the keys as well."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
    return value


def _without_control(
    model: Tokenizer, content: str, mark: str, texts: list[str], signs: Sequence[str] = ()
) -> str:
    """Put placeholders for the control texts in a message, and for `signs`.

    `texts` collects what they stand for.

    The tokenizer itself says whether there are any: with and without its special tokens the text
    gives the same tokens, or not.
    """
    ours = re.compile(f"{mark}[0-9]+{CLOSE}")
    if not content:
        return content
    found = {sign for sign in (OPEN, CLOSE, *signs) if sign in content}
    for _ in range(MAX_ROUNDS):
        # Placeholders of an earlier round cut the text; nothing can match across them.
        for part in ours.split(content):
            tokens = model.tokenize(part, special=True)
            if tokens != model.tokenize(part, special=False):
                found.update(text for token in tokens if (text := model.control_text(token)))
        if not found:
            return content
        longest_first = sorted(found, key=len, reverse=True)
        pattern = re.compile("|".join(re.escape(text) for text in longest_first))
        changed = pattern.sub(lambda match: _placeholder(match.group(), mark, texts), content)
        if changed == content:
            break
        content = changed
        found = set()
    raise TemplateError("a message holds control tokens that cannot be kept apart from the prompt")


def _placeholder(text: str, mark: str, texts: list[str]) -> str:
    texts.append(text)
    return f"{mark}{len(texts) - 1}{CLOSE}"
