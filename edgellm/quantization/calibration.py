"""The texts that steer quantization, and the pieces that a model reads of them.

The package ships two sets of its own texts: one to calibrate on and one to measure on, which share
no sentence. What a model does with the first decides which weights are kept exactly, so it holds
several languages, programs and conversations; a person's own files can join or replace it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from edgellm.backends.base import Model
from edgellm.errors import UsageError
from edgellm.evaluate.chunks import conversation_tokens
from edgellm.evaluate.texts import Text, parse_text
from edgellm.generate.template import ChatTemplate, Message

__all__ = [
    "CHUNK_TOKENS",
    "Calibration",
    "calibration_texts",
    "evaluation_texts",
    "model_chunks",
    "token_chunks",
]

CHUNK_TOKENS = 512  # a context that llama.cpp's own tools measure in as well
MAX_CHUNK_TOKENS = 2**20
SPAN = 65_536  # characters tokenized at a time, so that a large file costs what is taken of it

Tokenize = Callable[[str], Sequence[int]]
Chat = Callable[[Sequence[Message]], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Calibration:
    """The chunks of tokens that a model reads.

    Attributes:
        chunks: (n_chunks, length) token numbers.
        sources: (n_chunks,) the name of the text that each chunk is of.
    """

    chunks: tuple[tuple[int, ...], ...]
    sources: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """How many tokens there are: fewer than wanted where the texts had no more."""
        return sum(map(len, self.chunks))

    @property
    def sha256(self) -> str:
        """The hash of what the model reads: each chunk's length and its tokens, as int32 LE."""
        found = hashlib.sha256()
        for chunk in self.chunks:
            for number in (len(chunk), *chunk):
                found.update(number.to_bytes(4, "little", signed=True))
        return found.hexdigest()


def calibration_texts() -> tuple[Text, ...]:
    """Give the texts of the package that statistics are gathered on."""
    return _shipped("calibration")


def evaluation_texts() -> tuple[Text, ...]:
    """Give the texts of the package that quality is measured on; none is a calibration text."""
    return _shipped("evaluation")


def token_chunks(
    texts: Iterable[Text],
    tokenize: Tokenize,
    chat: Chat | None,
    *,
    length: int = CHUNK_TOKENS,
    tokens: int | None = None,
    start: int | None = None,
    seed: int = 0,
) -> Calibration:
    """Cut texts into chunks of equal length, one of each text in turn.

    Every prefix of the result is balanced: of two texts that are not used up, neither has given
    more than one chunk more than the other. No chunk holds tokens of two texts, none is given
    twice, and what is too short for a chunk at the end of a text is left out.

    Args:
        texts: plain texts and conversations.
        tokenize: gives the tokens of a plain text, in which control tokens are text; no start
            token.
        chat: gives the tokens of a conversation under the model's template. None, for a model
            that has no template, reads the messages as plain text.
        length: tokens in a chunk, the start token among them.
        tokens: the number wanted, rounded down to whole chunks (at least one is given); None takes
            all there are.
        start: the start token that each chunk begins with; None for a model that wants none.
        seed: decides in which order texts and places in them come.

    Raises:
        UsageError: `length` or `tokens` is out of its range, or all texts are too short.
    """
    texts = list(texts)
    least = 1 if start is None else 2
    if not least <= length <= MAX_CHUNK_TOKENS:
        raise UsageError(
            f"a chunk has {length} tokens, and must have {least} to {MAX_CHUNK_TOKENS}"
        )
    if tokens is not None and tokens < 1:
        raise UsageError(f"{tokens} calibration tokens are wanted, and it must be at least 1")
    wanted = None if tokens is None else max(1, tokens // length)
    order = random.Random(seed)
    order.shuffle(texts)
    running = [
        (text.name, _chunks(text, tokenize, chat, length, start, random.Random(f"{seed} {index}")))
        for index, text in enumerate(texts)
    ]
    chunks: list[tuple[int, ...]] = []
    sources: list[str] = []
    while running:
        for entry in list(running):
            if len(chunks) == wanted:
                return Calibration(tuple(chunks), tuple(sources))
            name, source = entry
            chunk = next(source, None)
            if chunk is None:
                running.remove(entry)
            else:
                chunks.append(chunk)
                sources.append(name)
    if not chunks:
        raise UsageError(
            f"the texts hold no chunk of {length} tokens", hint="give longer ones, or more"
        )
    return Calibration(tuple(chunks), tuple(sources))


def model_chunks(
    texts: Iterable[Text],
    model: Model,
    template: ChatTemplate | None,
    *,
    length: int = CHUNK_TOKENS,
    tokens: int | None = None,
    seed: int = 0,
) -> Calibration:
    """Cut texts into chunks as a model reads them: `token_chunks` with its tokenizer and template.

    Raises:
        UsageError: as for `token_chunks`.
        TemplateError: the template fails.
    """

    def tokenize(text: str) -> Sequence[int]:
        return model.tokenize(text, special=False)

    def chat(messages: Sequence[Message]) -> Sequence[int]:
        return conversation_tokens(model, template, messages)

    return token_chunks(
        texts,
        tokenize,
        None if template is None else chat,
        length=length,
        tokens=tokens,
        start=model.start_token,
        seed=seed,
    )


def _chunks(
    text: Text,
    tokenize: Tokenize,
    chat: Chat | None,
    length: int,
    start: int | None,
    order: random.Random,
) -> Iterator[tuple[int, ...]]:
    """Give the chunks of one text, each beginning with `start`."""
    head = () if start is None else (start,)
    body = length - len(head)
    held: list[int] = []
    for part in _parts(text, tokenize, chat, order):
        # Each conversation comes with a start token, and the chunk has its own.
        held += part[1:] if head and text.conversations and part[:1] == [start] else part
        used = len(held) - len(held) % body
        for index in range(0, used, body):
            yield (*head, *held[index : index + body])
        del held[:used]


def _parts(
    text: Text, tokenize: Tokenize, chat: Chat | None, order: random.Random
) -> Iterator[list[int]]:
    """Give the tokens of a text in pieces: its conversations, or spans of its content."""
    if text.conversations:
        conversations = list(text.conversations)
        order.shuffle(conversations)
        for messages in conversations:
            if chat is None:
                yield list(tokenize("".join(f"{message.content}\n\n" for message in messages)))
            else:
                yield list(chat(messages))
        return
    spans = list(_spans(text.content))
    order.shuffle(spans)
    for first, last in spans:
        yield list(tokenize(text.content[first:last]))


def _spans(content: str) -> Iterator[tuple[int, int]]:
    """Cut a text behind the last line end of every `SPAN` characters, where there is one."""
    first = 0
    while first < len(content):
        last = min(first + SPAN, len(content))
        if last < len(content):
            last = content.rfind("\n", first, last) + 1 or last
        yield first, last
        first = last


@cache
def _shipped(which: Literal["calibration", "evaluation"]) -> tuple[Text, ...]:
    """Read the files `NAME.LANGUAGE.txt` and `NAME.LANGUAGE.jsonl` of a folder of the package."""
    folder = files(__package__) / "texts" / which
    texts = []
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        name, language, _ = file.name.split(".")
        texts.append(parse_text(file.read_bytes(), name=name, language=language, where=file.name))
    return tuple(texts)
