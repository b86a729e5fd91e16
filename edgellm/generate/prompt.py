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
from collections.abc import Sequence
from dataclasses import replace

from edgellm.backends.base import Model
from edgellm.errors import TemplateError
from edgellm.generate.template import ChatTemplate, Message

__all__ = ["chat_tokens", "text_tokens"]

MAX_ROUNDS = 8


def text_tokens(model: Model, text: str, *, special: bool = False) -> list[int]:
    """Give the tokens of a text as it stands, after the model's start token.

    `special` turns the text of control tokens into those tokens: only for text that the person at
    the keyboard wrote as a prompt format.
    """
    return _started(model, model.tokenize(text, special=special))


def chat_tokens(model: Model, template: ChatTemplate, messages: Sequence[Message]) -> list[int]:
    """Give the tokens of a conversation, ending where the assistant is to speak.

    Raises:
        TemplateError: the template fails, or takes a message apart that holds control texts.
    """
    mark = f"\ufdd0{os.urandom(8).hex()}"  # a noncharacter and a number that no message can know
    texts: list[str] = []
    safe = [replace(m, content=_without_control(model, m.content, mark, texts)) for m in messages]
    rendered = template.render(safe)
    if not texts:
        return _started(model, model.tokenize(rendered, special=True))
    # Odd places of the split hold the numbers between `mark` and its end.
    parts = re.split(f"{mark}([0-9]+)\ufdd1", rendered)
    if any("\ufdd0" in part and mark in part for part in parts[::2]):
        raise TemplateError(
            "a message holds the text of a control token, and the model's chat template takes it "
            "apart"
        )
    tokens: list[int] = []
    for index, part in enumerate(parts):
        if index % 2:
            tokens += model.tokenize(texts[int(part)], special=False)
        elif part:
            tokens += model.tokenize(part, special=True)
    return _started(model, tokens)


def _started(model: Model, tokens: list[int]) -> list[int]:
    """Put the start token before the tokens, unless the template has written it already."""
    start = model.start_token
    if start is None or (tokens and tokens[0] == start):
        return tokens
    return [start, *tokens]


def _without_control(model: Model, content: str, mark: str, texts: list[str]) -> str:
    """Put placeholders for the control texts in a message; `texts` collects them.

    The tokenizer itself says whether there are any: with and without its special tokens the text
    gives the same tokens, or not.
    """
    for _ in range(MAX_ROUNDS):
        # Placeholders of an earlier round cut the text; nothing can match across them.
        found: set[str] = set()
        for part in re.split(f"{mark}[0-9]+\ufdd1", content):
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
    raise TemplateError("a message holds control tokens that cannot be kept apart from the prompt")


def _placeholder(text: str, mark: str, texts: list[str]) -> str:
    texts.append(text)
    return f"{mark}{len(texts) - 1}\ufdd1"
