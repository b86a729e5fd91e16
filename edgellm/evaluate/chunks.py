"""Texts as chunks of tokens, the way llama-perplexity cuts them.

A text is tokenized whole and cut into chunks of the context; what is left at its end is not used.
The start token, where the model wants one, takes the place of each chunk's first token. The second
half of a chunk is scored, so that every scored token has at least half a context before it: the
logits after token i, from the middle to the last but one, are asked for token i + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgellm.backends.base import Tokenizer
from edgellm.errors import TemplateError, UsageError
from edgellm.evaluate.texts import Text
from edgellm.generate.prompt import chat_tokens, text_tokens
from edgellm.generate.template import ChatTemplate, Message

__all__ = ["Chunks", "conversation_tokens", "cut"]


@dataclass(frozen=True, slots=True)
class Chunks:
    """The chunks of a text; each has `context` tokens, and the first `begin` are only read."""

    name: str
    context: int
    chunks: tuple[tuple[int, ...], ...]

    @property
    def begin(self) -> int:
        """The position of the first token whose successor is scored."""
        return self.context // 2

    @property
    def per_chunk(self) -> int:
        """How many tokens of a chunk are scored."""
        return self.context - 1 - self.begin


def cut(
    tokenizer: Tokenizer, texts: Sequence[Text], context: int, max_tokens: int | None
) -> tuple[Chunks, ...]:
    """Tokenize texts and cut them.

    Conversations are rendered with the model's own chat template and follow one another as the
    documents of a plain text do.

    Args:
        tokenizer: the model's.
        texts: what is measured on.
        context: the tokens of a chunk.
        max_tokens: how many tokens of each text are used at most; None for all.

    Raises:
        UsageError: a text is shorter than a chunk.
        TemplateError: the model's chat template fails.
    """
    # A template is compiled only where it is needed.
    template = _template(tokenizer) if any(text.conversations for text in texts) else None
    found = []
    for text in texts:
        tokens = _tokens(tokenizer, text, template)
        count = len(tokens) // context
        if not count:
            raise UsageError(
                f"{text.name} has {len(tokens)} tokens, and a chunk has {context}",
                hint="give longer texts, or a smaller --ctx",
            )
        if max_tokens is not None:
            count = min(count, max_tokens // context)
        start = tokenizer.start_token
        chunks = [tokens[at * context : (at + 1) * context] for at in range(count)]
        if start is not None:
            chunks = [[start, *chunk[1:]] for chunk in chunks]
        found.append(Chunks(text.name, context, tuple(tuple(chunk) for chunk in chunks)))
    return tuple(found)


def conversation_tokens(
    tokenizer: Tokenizer, template: ChatTemplate | None, messages: Sequence[Message]
) -> list[int]:
    """Give the tokens of a conversation that is over, after the start token.

    A model without a template knows no turns, and reads the messages as plain text. Where a
    template knows no system message (Gemma 2's), that one joins the first of the user.

    Raises:
        TemplateError: the template fails.
    """
    if template is None:
        return text_tokens(tokenizer, "".join(f"{message.content}\n\n" for message in messages))
    try:
        return chat_tokens(tokenizer, template, messages, generation_prompt=False)
    except TemplateError:
        if [message.role for message in messages[:2]] != ["system", "user"]:
            raise
        first = Message("user", f"{messages[0].content}\n\n{messages[1].content}")
        return chat_tokens(tokenizer, template, [first, *messages[2:]], generation_prompt=False)


def _tokens(tokenizer: Tokenizer, text: Text, template: ChatTemplate | None) -> list[int]:
    if not text.conversations:
        return text_tokens(tokenizer, text.content)
    return [
        token
        for messages in text.conversations
        for token in conversation_tokens(tokenizer, template, messages)
    ]


def _template(tokenizer: Tokenizer) -> ChatTemplate | None:
    source = tokenizer.chat_template
    if source is None:
        return None
    return ChatTemplate(source, bos=tokenizer.bos_text, eos=tokenizer.eos_text)
