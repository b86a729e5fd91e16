"""A vocabulary between the two layouts: what GGUF's tokenizer.ggml keys hold, as Python values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from edgellm_converters.errors import ConfigError

__all__ = [
    "END_ROLES",
    "END_TEXTS",
    "SPACE",
    "SPECIAL_ROLES",
    "TokenType",
    "Vocabulary",
    "check_unique",
]

SPACE = "\u2581"
"""The sign that SentencePiece writes for a space."""

# role -> the GGUF key of its id; roles are those of tokenizer_config.json ("<role>_token").
SPECIAL_ROLES: Mapping[str, str] = {
    "bos": "tokenizer.ggml.bos_token_id",
    "eos": "tokenizer.ggml.eos_token_id",
    "unk": "tokenizer.ggml.unknown_token_id",
    "sep": "tokenizer.ggml.seperator_token_id",
    "pad": "tokenizer.ggml.padding_token_id",
    "cls": "tokenizer.ggml.cls_token_id",
    "mask": "tokenizer.ggml.mask_token_id",
    "eot": "tokenizer.ggml.eot_token_id",
    "eom": "tokenizer.ggml.eom_token_id",
}
END_ROLES = ("eot", "eom")
"""Tokens that end an answer besides eos; transformers lists all of them as `eos_token_id`."""
END_TEXTS = frozenset(
    {
        *("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>"),
        *("<|endoftext|>", "<|end_of_text|>", "<EOT>", "[EOT]", "[EOS]"),
    }
)
"""Such tokens that llama.cpp knows by their text (`llama-vocab.cpp`) and needs no key for."""


class TokenType(IntEnum):
    """What a token is, as GGUF numbers it."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens by id, and how text becomes tokens.

    `model` is "gpt2" (byte-level BPE: `merges` in order of rank, each "left right", and the
    pre-tokenizer's name `pre`), "llama" (SentencePiece BPE: `scores`, higher ones merge first),
    "t5" (Unigram: `scores` are log probabilities, `charsmap` is SentencePiece's table of
    replacements) or "bert" (WordPiece: `lowercase` and `strip_accents` tell how text is prepared).
    `add_sep` tells whether a pair of texts has one more separator between them than each text has
    ends, None if nothing is known of pairs.
    `special` maps roles (see `SPECIAL_ROLES`) to ids. `layout` is the JSON text of what GGUF has
    no key for: see `edgellm_converters.tokenizers.layout`. `templates` are named chat templates.
    """

    model: str
    pre: str
    tokens: Sequence[str]
    types: Sequence[int]
    scores: Sequence[float] = ()
    merges: Sequence[str] = ()
    special: Mapping[str, int] = field(default_factory=dict)
    add_bos: bool = False
    add_eos: bool = False
    add_sep: bool | None = None
    add_space_prefix: bool = False
    remove_extra_whitespaces: bool = False
    charsmap: bytes = b""
    lowercase: bool = True
    strip_accents: bool = True
    chat_template: str | None = None
    templates: Mapping[str, str] = field(default_factory=dict)
    layout: str | None = None


def check_unique(path: Path, tokens: Sequence[str]) -> None:
    """Refuse a vocabulary in which two ids have one text: llama.cpp aborts the process on it.

    Raises:
        ConfigError: two ids have the same text.
    """
    if len(set(tokens)) == len(tokens):
        return
    seen: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if token in seen:
            raise ConfigError(f"{path}: tokens {seen[token]} and {index} are both {token!r:.80}")
        seen[token] = index
