"""What every kind of tokenizer.json has: added tokens, and ids that must all be filled."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellm_converters.errors import ConfigError
from edgellm_converters.tokenizers.vocabulary import SPACE, TokenType, check_unique

__all__ = [
    "BYTE",
    "FILLER_SCORE",
    "SEEMS_SPECIAL",
    "Added",
    "Parts",
    "fill",
    "note_flags",
    "read_added",
]

FILLER_SCORE = -10000.0  # what llama.cpp's converter gives to ids without a token
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
# Added tokens that their makers did not mark as special though they are.
SEEMS_SPECIAL = re.compile(
    r"<pad>|<mask>|<2mass>|\[@BOS@\]|<\|.*\|>|<｜.*｜>|<unused.*>", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Added:
    """An entry of `added_tokens`."""

    index: int
    content: str
    special: bool
    strips: bool


@dataclass(frozen=True, slots=True)
class Parts:
    """What was read of a tokenizer.json.

    `words` gives ids by token, `added` added tokens by id; `tokenizer` is the whole file. `size` is
    the number of ids; `notes` takes what llama.cpp does otherwise.
    """

    path: Path
    tokenizer: Mapping[str, Any]
    words: Mapping[str, int]
    added: Mapping[int, Added]
    size: int
    notes: list[str]


def read_added(path: Path, tokenizer: Mapping[str, Any], size: int) -> tuple[list[Added], int]:
    """Give the added tokens, and how many lie beyond the `size` rows of the embedding.

    Raises:
        ConfigError: an entry is not of its form.
    """
    entries = tokenizer.get("added_tokens") or []
    if not isinstance(entries, list):
        raise ConfigError(f"{path}: added_tokens is no list")
    found, dropped = [], 0
    for entry in entries:
        index = entry.get("id") if isinstance(entry, dict) else None
        content = entry.get("content") if isinstance(entry, dict) else None
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise ConfigError(f"{path}: an added token has the id {index!r:.80}")
        if not isinstance(content, str) or not content:
            raise ConfigError(f"{path}: the added token {index} has the content {content!r:.80}")
        if index >= size:
            dropped += 1
            continue
        strips = any(entry.get(flag) for flag in ("lstrip", "rstrip", "single_word"))
        found.append(Added(index, content, bool(entry.get("special")), strips))
    return found, dropped


def note_flags(added: Sequence[Added], notes: list[str]) -> None:
    """Note the added tokens that match in a way which llama.cpp does not know."""
    strips = [token.content for token in added if token.strips]
    if strips:
        notes.append(
            f"{len(strips)} added tokens (such as {strips[0]!r:.80}) take spaces beside them or "
            "whole words alone, which llama.cpp does not"
        )


def fill(parts: Parts, *, unknown: int | None, spaces: bool) -> tuple[list[str], list[int]]:
    """Give the tokens and types of all ids; ids without a token are named [PAD<id>].

    `spaces` tells that tokens hold a sign for spaces, and bytes as <0x00>: SentencePiece's way.

    Raises:
        ConfigError: an id has two tokens, or two ids have one.
    """
    path, size = parts.path, parts.size
    tokens = [f"[PAD{index}]" for index in range(size)]
    types = [int(TokenType.UNUSED)] * size
    for word, index in parts.words.items():
        tokens[index] = word
        is_byte = spaces and BYTE.fullmatch(word)
        types[index] = int(TokenType.BYTE if is_byte else TokenType.NORMAL)
    for index, token in parts.added.items():
        if types[index] != TokenType.UNUSED and tokens[index] != token.content:
            raise ConfigError(
                f"{path}: id {index} is {tokens[index]!r:.80} in the vocabulary and "
                f"{token.content!r:.80} among the added tokens"
            )
        # llama.cpp looks for added tokens in the text as it was typed.
        tokens[index] = token.content
        if token.special or SEEMS_SPECIAL.fullmatch(token.content):
            types[index] = int(TokenType.CONTROL)
        else:
            types[index] = int(TokenType.USER_DEFINED)
            if spaces:
                tokens[index] = token.content.replace(SPACE, " ")
    if unknown is not None:
        types[unknown] = int(TokenType.UNKNOWN)
    check_unique(path, tokens)
    return tokens, types
