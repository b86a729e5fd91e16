"""tokenizer.json, tokenizer_config.json and the token ids of config.json -> a `Vocabulary`."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgellm_converters.errors import ConfigError, SourceNotFoundError, UnsupportedError
from edgellm_converters.jsonfile import MAX_TOKENIZER_BYTES, read_object
from edgellm_converters.tokenizers.layout import write_layout
from edgellm_converters.tokenizers.pretokenizers import by_layout
from edgellm_converters.tokenizers.sentencepiece import Pair, scores_from_merges
from edgellm_converters.tokenizers.special import find_special, find_templates, flatten
from edgellm_converters.tokenizers.vocabulary import (
    SPACE,
    TokenType,
    Vocabulary,
    check_unique,
)

__all__ = ["read_vocabulary"]

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
# Added tokens that their makers did not mark as special though they are.
_SEEMS_SPECIAL = re.compile(
    r"<pad>|<mask>|<2mass>|\[@BOS@\]|<\|.*\|>|<｜.*｜>|<unused.*>", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class _Added:
    """An entry of `added_tokens`."""

    index: int
    content: str
    special: bool
    strips: bool


@dataclass(frozen=True, slots=True)
class _Parts:
    """What was read of a tokenizer.json: `words` and `added` give and go by ids."""

    path: Path
    tokenizer: Mapping[str, Any]
    words: Mapping[str, int]
    merges: Sequence[Pair]
    added: Mapping[int, _Added]
    size: int
    notes: list[str]


def read_vocabulary(
    folder: Path, config: Mapping[str, Any], size: int, notes: list[str]
) -> Vocabulary:
    """Read the tokenizer of a Hugging Face folder.

    Args:
        folder: holds tokenizer.json, and tokenizer_config.json where there is one.
        config: the content of config.json, for the ids of special tokens; those of
            generation_config.json come before.
        size: the rows of the token embedding; ids without a token are filled up.
        notes: takes sentences on what llama.cpp does otherwise.

    Raises:
        SourceNotFoundError: there is no tokenizer.json.
        ConfigError: a value is missing or of a wrong kind.
        UnsupportedError: a tokenizer that GGUF or llama.cpp cannot express.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        raise _no_tokenizer(folder)
    tokenizer = read_object(path, most=MAX_TOKENIZER_BYTES)
    settings = folder / "tokenizer_config.json"
    extra = read_object(settings) if settings.exists() else {}
    model = tokenizer.get("model")
    if not isinstance(model, dict):
        raise ConfigError(f"{path}: model is no object")
    words = _words(path, model)
    added, dropped = _added(path, tokenizer, size)
    if dropped:
        notes.append(f"{dropped} added tokens beyond the {size} rows of the embedding are left out")
    if (highest := max(words.values(), default=-1)) >= size:
        raise ConfigError(f"{path}: token id {highest} is beyond the {size} rows of the embedding")
    _note_flags(added, notes)
    merges = _merges(path, model, words)
    tokenizer["model"] = {name: value for name, value in model.items() if name not in _BULK}
    by_id = {token.index: token for token in added}
    common: dict[str, Any] = {"layout": write_layout(_without(tokenizer, dropped, size))}
    ids = words | {a.content: a.index for a in added}
    generation = folder / "generation_config.json"
    ending = read_object(generation) if generation.exists() else {}
    common |= find_special(path, tokenizer, extra, dict(config) | ending, ids, size, notes)
    common |= find_templates(folder, extra)
    parts = _Parts(path, tokenizer, words, merges, by_id, size, notes)
    build = _sentencepiece if model.get("byte_fallback") is True else _byte_level
    return replace(build(parts), **common)


_BULK = ("vocab", "merges")


# -- the two kinds --------------------------------------------------------------------------------


def _byte_level(parts: _Parts) -> Vocabulary:
    path, tokenizer, words = parts.path, parts.tokenizer, parts.words
    ignores = tokenizer["model"].get("ignore_merges")
    row = by_layout(path, tokenizer.get("pre_tokenizer"), ignore_merges=bool(ignores))
    if bool(ignores) != row.ignore_merges:
        raise UnsupportedError(
            f"{path}: ignore_merges is {ignores!r:.80}, but llama.cpp takes it as "
            f"{row.ignore_merges} for the pre-tokenizer {row.name}"
        )
    normalizer = tokenizer.get("normalizer")
    kind = normalizer.get("type") if isinstance(normalizer, dict) else None
    if kind == "NFC":
        parts.notes.append("the NFC normalizer is left out: llama.cpp tokenizes text as it comes")
    elif kind is not None:
        raise UnsupportedError(f"{path}: llama.cpp has no normalizer {kind!r:.80} for this BPE")
    for left, right in parts.merges:
        if " " in left or " " in right:
            raise UnsupportedError(f"{path}: the merge {left!r:.80} + {right!r:.80} holds a space")
        if left not in words or right not in words or left + right not in words:
            raise ConfigError(
                f"{path}: the merge {left!r:.80} + {right!r:.80} is not made of tokens"
            )
    tokens, types = _fill(path, words, parts.added, parts.size, unknown=None, spaces=False)
    return Vocabulary(
        model="gpt2",
        pre=row.name,
        tokens=tokens,
        types=types,
        merges=[f"{left} {right}" for left, right in parts.merges],
    )


def _sentencepiece(parts: _Parts) -> Vocabulary:
    path, tokenizer, words = parts.path, parts.tokenizer, parts.words
    absent = [f"<0x{byte:02X}>" for byte in range(256) if f"<0x{byte:02X}>" not in words]
    if absent:
        raise UnsupportedError(
            f"{path}: byte_fallback without a token for {absent[0]}; llama.cpp needs all 256"
        )
    if tokenizer["model"].get("ignore_merges"):
        raise UnsupportedError(f"{path}: ignore_merges with byte_fallback is not known here")
    prefix = _space_prefix(path, tokenizer, parts.notes)
    if prefix and any(t.get("normalized") is True for t in tokenizer.get("added_tokens") or []):
        parts.notes.append(
            "special tokens inside a text: the spaces around them may be split otherwise than in "
            "the source, which GGUF has no word for (`normalized` added tokens)"
        )
    unknown = tokenizer["model"].get("unk_token")
    special = {words[t.content] for t in parts.added.values() if t.special and t.content in words}
    reached = {
        token: index
        for token, index in words.items()
        if index not in special and token != unknown and not _BYTE.fullmatch(token)
    }
    kept = [
        pair
        for pair in parts.merges
        if all(part in reached or part not in words for part in (*pair, pair[0] + pair[1]))
    ]
    cut_out = {token.content for token in parts.added.values()}
    scores = scores_from_merges(path, reached, kept, parts.size, cut_out)
    unknown_id = words.get(unknown) if isinstance(unknown, str) else None
    tokens, types = _fill(path, words, parts.added, parts.size, unknown=unknown_id, spaces=True)
    for index, kind in enumerate(types):
        if kind in (TokenType.BYTE, TokenType.UNKNOWN, TokenType.CONTROL):
            scores[index] = 0.0
    return Vocabulary(
        model="llama",
        pre="default",
        tokens=tokens,
        types=types,
        scores=scores,
        add_space_prefix=prefix,
    )


def _space_prefix(path: Path, tokenizer: Mapping[str, Any], notes: list[str]) -> bool:
    """Tell whether text gets a leading space, from the three forms that transformers writes."""
    normalizer, pre = tokenizer.get("normalizer"), tokenizer.get("pre_tokenizer")
    steps = flatten(normalizer, "normalizers")
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    split = {
        "type": "Split",
        "pattern": {"String": " "},
        "behavior": "MergedWithPrevious",
        "invert": False,
    }
    if steps == [{"type": "Prepend", "prepend": SPACE}, replace] and pre is None:
        return True
    if steps == [replace] and pre in (None, split):
        return False
    if not steps and isinstance(pre, dict) and pre.get("type") == "Metaspace":
        scheme = pre.get("prepend_scheme", "always" if pre.get("add_prefix_space") else "never")
        if pre.get("replacement") == SPACE and pre.get("split", True) is False:
            if scheme == "first":
                notes.append(
                    "only the start of a text gets a leading space; llama.cpp gives one to the "
                    "text after each special token too"
                )
            if scheme in ("first", "always"):
                notes.append("a text that begins with a space gets a second one in llama.cpp")
            if scheme in ("first", "always", "never"):
                return bool(scheme != "never")
    raise UnsupportedError(
        f"{path}: this normalizer and pre_tokenizer have no SentencePiece form in llama.cpp: "
        f"{normalizer!r:.200}, {pre!r:.200}"
    )


# -- the parts ------------------------------------------------------------------------------------


def _words(path: Path, model: Mapping[str, Any]) -> dict[str, int]:
    """Check the model's settings and give its vocabulary."""
    if model.get("type", "BPE") != "BPE":
        raise UnsupportedError(
            f"{path}: a tokenizer of type {model.get('type')!r:.80} is not known here",
            hint="known is BPE, byte-level or from SentencePiece",
        )
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise UnsupportedError(
                f"{path}: model.{name} is {model[name]!r:.80}; GGUF cannot say that"
            )
    words = model.get("vocab")
    if not isinstance(words, dict) or not words:
        raise ConfigError(f"{path}: model.vocab is no object with tokens")
    for word, index in words.items():
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise ConfigError(f"{path}: the token {word!r:.80} has the id {index!r:.80}")
    if len(set(words.values())) != len(words):
        raise ConfigError(f"{path}: two tokens of model.vocab have one id")
    return words


def _merges(path: Path, model: Mapping[str, Any], words: Collection[str]) -> list[Pair]:
    """Give the merges, which are "left right" or [left, right]."""
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise ConfigError(f"{path}: model.merges is no list")
    # Each token can be cut in two at so many places, and no pair stands twice.
    if len(merges) > (most := sum(len(word) - 1 for word in words if word)):
        raise ConfigError(f"{path}: {len(merges)} merges, but the tokens allow {most}")
    found: list[Pair] = []
    for number, merge in enumerate(merges):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if (
            not isinstance(parts, list)
            or len(parts) != 2
            or not all(isinstance(part, str) and part for part in parts)
        ):
            raise ConfigError(f"{path}: merge {number} is {merge!r:.80}, no pair of tokens")
        found.append((parts[0], parts[1]))
    return found


def _added(path: Path, tokenizer: Mapping[str, Any], size: int) -> tuple[list[_Added], int]:
    """Give the added tokens, and how many lie beyond the embedding."""
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
        found.append(_Added(index, content, bool(entry.get("special")), strips))
    return found, dropped


def _without(tokenizer: Mapping[str, Any], dropped: int, size: int) -> dict[str, Any]:
    """Leave added tokens beyond the embedding out of what the layout keeps."""
    if not dropped:
        return dict(tokenizer)
    kept = [token for token in tokenizer["added_tokens"] if token["id"] < size]
    return dict(tokenizer) | {"added_tokens": kept}


def _note_flags(added: list[_Added], notes: list[str]) -> None:
    strips = [token.content for token in added if token.strips]
    if strips:
        notes.append(
            f"{len(strips)} added tokens (such as {strips[0]!r:.80}) take spaces beside them or "
            "whole words alone, which llama.cpp does not"
        )


def _fill(
    path: Path,
    words: Mapping[str, int],
    added: Mapping[int, _Added],
    size: int,
    *,
    unknown: int | None,
    spaces: bool,
) -> tuple[list[str], list[int]]:
    """Give the tokens and types of all ids; ids without a token are named [PAD<id>]."""
    tokens = [f"[PAD{index}]" for index in range(size)]
    types = [int(TokenType.UNUSED)] * size
    for word, index in words.items():
        tokens[index] = word
        is_byte = spaces and _BYTE.fullmatch(word)
        types[index] = int(TokenType.BYTE if is_byte else TokenType.NORMAL)
    for index, token in added.items():
        if types[index] != TokenType.UNUSED and tokens[index] != token.content:
            raise ConfigError(
                f"{path}: id {index} is {tokens[index]!r:.80} in the vocabulary and "
                f"{token.content!r:.80} among the added tokens"
            )
        # llama.cpp looks for added tokens in the text as it was typed.
        tokens[index] = token.content
        if token.special or _SEEMS_SPECIAL.fullmatch(token.content):
            types[index] = int(TokenType.CONTROL)
        else:
            types[index] = int(TokenType.USER_DEFINED)
            if spaces:
                tokens[index] = token.content.replace(SPACE, " ")
    if unknown is not None:
        types[unknown] = int(TokenType.UNKNOWN)
    check_unique(path, tokens)
    return tokens, types


def _no_tokenizer(folder: Path) -> SourceNotFoundError:
    """Make the error for a folder without tokenizer.json, which may have another form of it."""
    hint = "it belongs to the model: fetch the whole folder"
    for other in ("tokenizer.model", "vocab.json", "tekken.json", "tiktoken.model"):
        if (folder / other).exists():
            hint = (
                f"there is {other}; write the new form with transformers: "
                "AutoTokenizer.from_pretrained(FOLDER, use_fast=True).save_pretrained(FOLDER)"
            )
    return SourceNotFoundError(f"{folder}: there is no tokenizer.json in this folder", hint=hint)
