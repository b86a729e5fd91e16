"""Unigram: pieces with log probabilities in tokenizer.json <-> GGUF's "t5".

llama.cpp looks for the most probable pieces of the whole text, after it replaced characters by
SentencePiece's table and set U+2581 for spaces (`llm_tokenizer_ugm` in llama-vocab.cpp). With
`remove_extra_whitespaces` one such sign stands before each word; without it, one for each space,
and one before the text with `add_space_prefix`.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgellm_converters.errors import ConfigError, UnsupportedError
from edgellm_converters.tokenizers.charsmap import fault_of
from edgellm_converters.tokenizers.parts import FILLER_SCORE, Parts, fill
from edgellm_converters.tokenizers.special import flatten
from edgellm_converters.tokenizers.vocabulary import SPACE, TokenType, Vocabulary

__all__ = ["read_unigram", "unigram_model", "unigram_parts", "unigram_words"]

LARGEST = 3.4e38  # of float32, in which GGUF holds scores
_MERGE = {"type": "Replace", "pattern": {"Regex": " {2,}"}}
_SIGN = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_TRIM = {"type": "Replace", "pattern": {"Regex": r"\A +| +\z"}, "content": ""}


def unigram_words(path: Path, entries: object) -> dict[str, int]:
    """Check the list of pieces and scores, and give the ids by piece.

    Raises:
        ConfigError: an entry is not of its form, or a piece stands twice.
    """
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{path}: model.vocab is no list with pieces")
    words: dict[str, int] = {}
    for index, entry in enumerate(entries):
        if (
            not isinstance(entry, list)
            or len(entry) != 2
            or not isinstance(entry[0], str)
            or isinstance(entry[1], bool)
            or not isinstance(entry[1], int | float)
            or not abs(entry[1]) <= LARGEST
        ):
            raise ConfigError(f"{path}: piece {index} is {entry!r:.80}, no text with a score")
        if entry[0] in words:
            raise ConfigError(
                f"{path}: pieces {words[entry[0]]} and {index} are both {entry[0]!r:.80}"
            )
        words[entry[0]] = index
    return words


def read_unigram(parts: Parts) -> Vocabulary:
    """Give the vocabulary of a Unigram tokenizer.json.

    Raises:
        ConfigError: there is no unknown piece, or the table of replacements is damaged.
        UnsupportedError: settings that llama.cpp cannot be told.
    """
    path, tokenizer, notes = parts.path, parts.tokenizer, parts.notes
    model = tokenizer["model"]
    entries: Sequence[tuple[str, float]] = model["vocab"]
    unknown = model.get("unk_id")
    if isinstance(unknown, bool) or not isinstance(unknown, int) or not 0 <= unknown < len(entries):
        raise ConfigError(f"{path}: model.unk_id is {unknown!r:.80}, no piece")
    charsmap, steps = _charsmap(path, flatten(tokenizer.get("normalizer"), "normalizers"))
    prefix, merges = _spaces(path, steps, tokenizer, bool(charsmap), notes)
    if charsmap:
        notes.append(
            "a letter that is replaced may keep the marks or joiners after it in llama.cpp, which "
            "looks them up one by one; the source replaces the letter and its marks as one"
        )
    if model.get("byte_fallback"):
        notes.append(
            "characters without a piece become bytes in the source; llama.cpp takes them as unknown"
        )
    inner = next((piece for piece, _ in entries if SPACE in piece.strip(SPACE)), None)
    if inner is not None and tokenizer.get("pre_tokenizer") is not None:
        notes.append(
            f"pieces that go on past a space (such as {inner!r:.80}) are used by llama.cpp alone"
        )
    tokens, types = fill(parts, unknown=unknown, spaces=True)
    _guard_added(tokens, types, notes)
    scores = [float(score) for _, score in entries]
    scores += [FILLER_SCORE] * (parts.size - len(scores))
    if min(score for _, score in entries) < min(
        (s for s, kind in zip(scores, types, strict=True) if kind == TokenType.NORMAL), default=0.0
    ):
        notes.append("an unknown character costs more in the source than in llama.cpp")
    return Vocabulary(
        model="t5",
        pre="default",
        tokens=tokens,
        types=types,
        scores=scores,
        add_space_prefix=prefix,
        remove_extra_whitespaces=merges,
        charsmap=charsmap,
    )


def _charsmap(
    path: Path, steps: Sequence[dict[str, Any]]
) -> tuple[bytes, Sequence[dict[str, Any]]]:
    """Split the table of replacements from the steps of the normalizer."""
    if not steps or steps[0].get("type") != "Precompiled":
        return b"", steps
    text = steps[0].get("precompiled_charsmap") or ""
    try:
        table = base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise ConfigError(f"{path}: precompiled_charsmap is no base64") from None
    if table and (fault := fault_of(table)):
        raise ConfigError(f"{path}: precompiled_charsmap {fault}")
    return table, steps[1:]


def _spaces(
    path: Path,
    steps: Sequence[dict[str, Any]],
    tokenizer: Mapping[str, Any],
    replaces: bool,
    notes: list[str],
) -> tuple[bool, bool]:
    """Tell whether text gets a leading space, and whether spaces are merged."""
    pre = flatten(tokenizer.get("pre_tokenizer"), "pretokenizers")
    splits = bool(pre) and pre[0].get("type") == "WhitespaceSplit"
    words = pre[1:] if splits else pre
    merge = [step for step in steps if step | {"content": " "} == _MERGE | {"content": " "}]
    trims = [step for step in steps if step.get("type") == "Strip" or step == _TRIM]
    others = [step for step in steps if step not in merge and step not in trims]
    if not pre and others == [_SIGN] and not merge and not trims:
        return False, False
    if not others and len(words) == 1 and words[0].get("type") == "Metaspace":
        scheme = words[0].get(
            "prepend_scheme", "always" if words[0].get("add_prefix_space", True) else "never"
        )
        merges = bool(splits or merge)
        prefix = scheme in ("always", "first")
        # llama.cpp sets a sign before each word where it merges, and keeps spaces where it does not
        if words[0].get("replacement") == SPACE and (prefix or (scheme == "never" and not merges)):
            if splits and not replaces:
                notes.append(
                    "line feeds, tabs and the like are spaces in the source; llama.cpp takes them "
                    "as characters, for there is no table of replacements"
                )
            if scheme == "first":
                notes.append(
                    "only the start of a text gets a leading space; llama.cpp gives one to the "
                    "text after each special token too"
                )
            if merges and not splits and not any(_trims_end(step) for step in trims):
                notes.append("a space at the end of a text is a token; llama.cpp leaves it out")
            if prefix and not merges:
                notes.append("a text that begins with a space gets a second one in llama.cpp")
            if merges or not trims:
                return prefix, merges
    raise UnsupportedError(
        f"{path}: this normalizer and pre_tokenizer have no Unigram form in llama.cpp: "
        f"{steps!r:.200}, {pre!r:.200}"
    )


def _trims_end(step: Mapping[str, Any]) -> bool:
    return step == _TRIM or step.get("strip_right") is True


def _guard_added(tokens: Sequence[str], types: list[int], notes: list[str]) -> None:
    """Make special what llama.cpp would misread texts by.

    It passes over text that begins as a user-defined token does, byte by byte: all characters that
    share a first byte with such a token would be torn apart.
    """
    torn = [
        index
        for index, kind in enumerate(types)
        if kind == TokenType.USER_DEFINED and not tokens[index][0].isascii()
    ]
    for index in torn:
        types[index] = int(TokenType.CONTROL)
    if torn:
        notes.append(
            f"{len(torn)} added tokens (such as {tokens[torn[0]]!r:.80}) are written as special "
            "ones: llama.cpp would tear apart other characters that begin as they do"
        )


# -- back -----------------------------------------------------------------------------------------


def unigram_model(vocabulary: Vocabulary, words: Mapping[str, int]) -> dict[str, Any]:
    """Write the model of tokenizer.json; `words` are the tokens as it writes them, by id.

    Raises:
        ConfigError: a score is not finite.
    """
    last = max(words.values())
    shown = {index: word for word, index in words.items()}
    normal = [
        score
        for score, kind in zip(vocabulary.scores, vocabulary.types, strict=True)
        if kind == TokenType.NORMAL
    ]
    least = min(normal, default=0.0)
    entries = []
    for index in range(last + 1):
        score = vocabulary.scores[index]
        if not math.isfinite(score):
            raise ConfigError(f"the score of token {index} is {score}")
        # A filler below all others would make unknown characters dearer than llama.cpp does.
        entries.append([shown.get(index, vocabulary.tokens[index]), max(score, least)])
    return {
        "type": "Unigram",
        "unk_id": vocabulary.special["unk"],
        "vocab": entries,
        "byte_fallback": False,
    }


def unigram_parts(charsmap: bytes, *, prefix: bool, merges: bool) -> dict[str, Any]:
    """Write the parts of tokenizer.json that prepare and split text as llama.cpp does.

    See `Vocabulary` for what they are asked to do.
    """
    steps: list[dict[str, Any]] = []
    if charsmap:
        table = base64.b64encode(charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": table})
    if merges:
        steps += [_TRIM, _MERGE | {"content": " "}]
    words = {
        "type": "Metaspace",
        "replacement": SPACE,
        "prepend_scheme": "always" if prefix else "never",
        "split": False,
    }
    normalizer = {"type": "Sequence", "normalizers": steps} if steps else None
    return {"normalizer": normalizer, "pre_tokenizer": words, "decoder": words}
