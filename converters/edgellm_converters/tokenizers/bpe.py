"""BPE of tokenizer.json, byte-level or from SentencePiece -> a `Vocabulary`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgellm_converters.errors import ConfigError, UnsupportedError
from edgellm_converters.tokenizers.parts import BYTE, Parts, fill
from edgellm_converters.tokenizers.pretokenizers import by_layout
from edgellm_converters.tokenizers.sentencepiece import Pair, scores_from_merges
from edgellm_converters.tokenizers.special import flatten
from edgellm_converters.tokenizers.vocabulary import SPACE, TokenType, Vocabulary

__all__ = ["read_bpe"]


def read_bpe(parts: Parts) -> Vocabulary:
    """Give the vocabulary of a BPE tokenizer.json.

    Raises:
        ConfigError: a value is missing or of a wrong kind.
        UnsupportedError: settings that llama.cpp cannot be told.
    """
    model = parts.tokenizer["model"]
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise UnsupportedError(
                f"{parts.path}: model.{name} is {model[name]!r:.80}; GGUF cannot say that"
            )
    build = _sentencepiece if model.get("byte_fallback") is True else _byte_level
    return build(parts, _merges(parts.path, model.get("merges"), parts.words))


def _byte_level(parts: Parts, merges: Sequence[Pair]) -> Vocabulary:
    path, tokenizer, words = parts.path, parts.tokenizer, parts.words
    ignores = tokenizer["model"].get("ignore_merges")
    row = by_layout(path, tokenizer.get("pre_tokenizer"), ignore_merges=bool(ignores))
    if bool(ignores) != row.ignore_merges:
        raise UnsupportedError(
            f"{path}: ignore_merges is {ignores!r:.80}, but llama.cpp takes it as "
            f"{row.ignore_merges} for the pre-tokenizer {row.name}"
        )
    if row.note:
        parts.notes.append(row.note)
    normalizer = tokenizer.get("normalizer")
    kind = normalizer.get("type") if isinstance(normalizer, dict) else None
    if kind == "NFC":
        parts.notes.append(
            "the NFC normalizer is left out: llama.cpp tokenizes text as it comes (edgellm "
            "composes it before)"
        )
    elif kind is not None:
        raise UnsupportedError(f"{path}: llama.cpp has no normalizer {kind!r:.80} for this BPE")
    for left, right in merges:
        if " " in left or " " in right:
            raise UnsupportedError(f"{path}: the merge {left!r:.80} + {right!r:.80} holds a space")
        if left not in words or right not in words or left + right not in words:
            raise ConfigError(
                f"{path}: the merge {left!r:.80} + {right!r:.80} is not made of tokens"
            )
    tokens, types = fill(parts, unknown=None, spaces=False)
    return Vocabulary(
        model="gpt2",
        pre=row.name,
        tokens=tokens,
        types=types,
        merges=[f"{left} {right}" for left, right in merges],
    )


def _sentencepiece(parts: Parts, merges: Sequence[Pair]) -> Vocabulary:
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
        if index not in special and token != unknown and not BYTE.fullmatch(token)
    }
    kept = [
        pair
        for pair in merges
        if all(part in reached or part not in words for part in (*pair, pair[0] + pair[1]))
    ]
    cut_out = {token.content for token in parts.added.values()}
    scores = scores_from_merges(path, reached, kept, parts.size, cut_out)
    unknown_id = words.get(unknown) if isinstance(unknown, str) else None
    tokens, types = fill(parts, unknown=unknown_id, spaces=True)
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


def _merges(path: Path, merges: object, words: Collection[str]) -> list[Pair]:
    """Give the merges, which are "left right" or [left, right]."""
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
