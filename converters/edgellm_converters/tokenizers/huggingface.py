"""tokenizer.json, tokenizer_config.json and the token ids of config.json -> a `Vocabulary`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellm_converters.errors import ConfigError, UnsupportedError
from edgellm_converters.jsonfile import MAX_BYTES, read_object
from edgellm_converters.tokenizers.layout import write_layout
from edgellm_converters.tokenizers.pretokenizers import by_layout
from edgellm_converters.tokenizers.sentencepiece import Pair, scores_from_merges
from edgellm_converters.tokenizers.vocabulary import (
    SPACE,
    SPECIAL_ROLES,
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


def read_vocabulary(
    folder: Path, config: Mapping[str, Any], size: int, notes: list[str]
) -> Vocabulary:
    """Read the tokenizer of a Hugging Face folder.

    Args:
        folder: holds tokenizer.json, and tokenizer_config.json where there is one.
        config: the content of config.json, for the ids of special tokens.
        size: the rows of the token embedding; ids without a token are filled up.
        notes: takes sentences on what llama.cpp does otherwise.

    Raises:
        SourceNotFoundError: there is no tokenizer.json.
        ConfigError: a value is missing or of a wrong kind.
        UnsupportedError: a tokenizer that GGUF or llama.cpp cannot express.
    """
    path = folder / "tokenizer.json"
    tokenizer = read_object(path)
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
    merges = _merges(path, model)
    tokenizer["model"] = {name: value for name, value in model.items() if name not in _BULK}
    by_id = {token.index: token for token in added}
    common: dict[str, Any] = {"layout": write_layout(_without(tokenizer, dropped, size))}
    ids = words | {a.content: a.index for a in added}
    common |= _special(path, tokenizer, extra, config, ids, size)
    common |= _templates(folder, extra)
    if model.get("byte_fallback") is True:
        return _sentencepiece(path, tokenizer, words, merges, by_id, size, notes, common)
    return _byte_level(path, tokenizer, words, merges, by_id, size, notes, common)


_BULK = ("vocab", "merges")


# -- the two kinds --------------------------------------------------------------------------------


def _byte_level(
    path: Path,
    tokenizer: Mapping[str, Any],
    words: Mapping[str, int],
    merges: list[Pair],
    added: Mapping[int, _Added],
    size: int,
    notes: list[str],
    common: dict[str, Any],
) -> Vocabulary:
    ignores = bool(tokenizer["model"].get("ignore_merges"))
    row = by_layout(path, tokenizer.get("pre_tokenizer"), ignore_merges=ignores)
    if bool(tokenizer["model"].get("ignore_merges")) != row.ignore_merges:
        raise UnsupportedError(
            f"{path}: ignore_merges is {tokenizer['model'].get('ignore_merges')!r}, but llama.cpp "
            f"takes it as {row.ignore_merges} for the pre-tokenizer {row.name}"
        )
    normalizer = tokenizer.get("normalizer")
    kind = normalizer.get("type") if isinstance(normalizer, dict) else None
    if kind == "NFC":
        notes.append("the NFC normalizer is left out: llama.cpp tokenizes text as it comes")
    elif kind is not None:
        raise UnsupportedError(f"{path}: llama.cpp has no {kind} normalizer for byte-level BPE")
    for left, right in merges:
        if " " in left or " " in right:
            raise UnsupportedError(f"{path}: the merge {left!r} + {right!r} holds a space")
        if left not in words or right not in words or left + right not in words:
            raise ConfigError(f"{path}: the merge {left!r} + {right!r} is not made of tokens")
    tokens, types = _fill(path, words, added, size, unknown=None, spaces=False)
    return Vocabulary(
        model="gpt2",
        pre=row.name,
        tokens=tokens,
        types=types,
        merges=[f"{left} {right}" for left, right in merges],
        **common,
    )


def _sentencepiece(
    path: Path,
    tokenizer: Mapping[str, Any],
    words: Mapping[str, int],
    merges: list[Pair],
    added: Mapping[int, _Added],
    size: int,
    notes: list[str],
    common: dict[str, Any],
) -> Vocabulary:
    absent = [f"<0x{byte:02X}>" for byte in range(256) if f"<0x{byte:02X}>" not in words]
    if absent:
        raise UnsupportedError(
            f"{path}: byte_fallback without a token for {absent[0]}; llama.cpp needs all 256"
        )
    if tokenizer["model"].get("ignore_merges"):
        raise UnsupportedError(f"{path}: ignore_merges with byte_fallback is not known here")
    prefix = _space_prefix(path, tokenizer, notes)
    if prefix and any(t.get("normalized") is True for t in tokenizer.get("added_tokens") or []):
        notes.append(
            "added tokens are matched in normalized text: around special tokens inside of a text, "
            "llama.cpp places the leading space otherwise"
        )
    unknown = tokenizer["model"].get("unk_token")
    special = {words[t.content] for t in added.values() if t.special and t.content in words}
    reached = {
        token: index
        for token, index in words.items()
        if index not in special and token != unknown and not _BYTE.fullmatch(token)
    }
    kept = [
        pair
        for pair in merges
        if all(part in reached or part not in words for part in (*pair, pair[0] + pair[1]))
    ]
    cut_out = {token.content for token in added.values()}
    scores = scores_from_merges(path, reached, kept, size, cut_out)
    unknown_id = words.get(unknown) if isinstance(unknown, str) else None
    tokens, types = _fill(path, words, added, size, unknown=unknown_id, spaces=True)
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
        **common,
    )


def _space_prefix(path: Path, tokenizer: Mapping[str, Any], notes: list[str]) -> bool:
    """Tell whether text gets a leading space, from the three forms that transformers writes."""
    normalizer, pre = tokenizer.get("normalizer"), tokenizer.get("pre_tokenizer")
    steps = _steps(normalizer, "normalizers")
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
            f"{path}: a tokenizer of type {model.get('type')!r} is not known here",
            hint="known is BPE, byte-level or from SentencePiece",
        )
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise UnsupportedError(f"{path}: model.{name} is {model[name]!r}; GGUF cannot say that")
    words = model.get("vocab")
    if not isinstance(words, dict) or not words:
        raise ConfigError(f"{path}: model.vocab is no object with tokens")
    for word, index in words.items():
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise ConfigError(f"{path}: the token {word!r} has the id {index!r}")
    if len(set(words.values())) != len(words):
        raise ConfigError(f"{path}: two tokens of model.vocab have one id")
    return words


def _merges(path: Path, model: Mapping[str, Any]) -> list[Pair]:
    """Give the merges, which are "left right" or [left, right]."""
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise ConfigError(f"{path}: model.merges is no list")
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
            raise ConfigError(f"{path}: an added token has the id {index!r}")
        if not isinstance(content, str) or not content:
            raise ConfigError(f"{path}: the added token {index} has the content {content!r}")
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
            f"{len(strips)} added tokens (such as {strips[0]!r}) take spaces beside them or whole "
            "words alone, which llama.cpp does not"
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
                f"{path}: id {index} is {tokens[index]!r} in the vocabulary and "
                f"{token.content!r} among the added tokens"
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


def _special(
    path: Path,
    tokenizer: Mapping[str, Any],
    extra: Mapping[str, Any],
    config: Mapping[str, Any],
    ids: Mapping[str, int],
    size: int,
) -> dict[str, Any]:
    """Find the ids of special tokens, and whether text gets a first and a last one."""
    special: dict[str, int] = {}
    for role in SPECIAL_ROLES:
        named = extra.get(f"{role}_token")
        content = named.get("content") if isinstance(named, dict) else named
        index: object = ids.get(content) if isinstance(content, str) else None
        if index is None:
            listed = config.get(f"{role}_token_id")
            index = listed[0] if isinstance(listed, list) and listed else listed
        if isinstance(index, int) and not isinstance(index, bool) and 0 <= index < size:
            special[role] = index
    unknown = tokenizer["model"].get("unk_token")
    if isinstance(unknown, str) and unknown in ids:
        special.setdefault("unk", ids[unknown])
    first, last, known = _template_ends(path, tokenizer, ids)
    if first is not None:
        special.setdefault("bos", first)
    if last is not None:
        special.setdefault("eos", last)
    for role, index in (("bos", first), ("eos", last)):
        if index is not None and index != special[role]:
            raise UnsupportedError(
                f"{path}: the post_processor adds token {index}, which is not the {role} token "
                f"{special[role]}; llama.cpp can add no other"
            )
    flags = {}
    for role, index in (("bos", first), ("eos", last)):
        # transformers adds them by tokenizer_config.json where the post-processor says nothing.
        flags[f"add_{role}"] = (
            index is not None if known else extra.get(f"add_{role}_token") is True
        )
        if flags[f"add_{role}"] and role not in special:
            raise ConfigError(f"{path}: add_{role}_token is true, but no token is the {role} token")
    return {"special": special, **flags}


def _template_ends(
    path: Path, tokenizer: Mapping[str, Any], ids: Mapping[str, int]
) -> tuple[int | None, int | None, bool]:
    """Give the ids that the post-processor adds before and after; False if it says nothing."""
    known = False
    ends: list[int | None] = [None, None]
    for step in _steps(tokenizer.get("post_processor"), "processors"):
        kind = step.get("type")
        known = True
        if kind == "ByteLevel":
            continue
        if kind != "TemplateProcessing" or not isinstance(step.get("single"), list):
            raise UnsupportedError(f"{path}: a post_processor of type {kind!r} is not known here")
        names: list[str | None] = []
        for part in step["single"]:
            token = part.get("SpecialToken") if isinstance(part, dict) else None
            names.append(token.get("id") if isinstance(token, dict) else None)
        if None not in names or len(names) > 3 or len(names) - 1 != len([n for n in names if n]):
            raise UnsupportedError(f"{path}: the post_processor adds more than one token at an end")
        middle = names.index(None)
        for name in (name for name in names if name):
            if name not in ids:
                raise ConfigError(f"{path}: the post_processor adds {name!r}, which is no token")
            ends[0 if names.index(name) < middle else 1] = ids[name]
        if middle > 1 or len(names) - middle > 2:
            raise UnsupportedError(f"{path}: the post_processor adds more than one token at an end")
    return ends[0], ends[1], known


def _steps(part: object, name: str) -> list[dict[str, Any]]:
    """Flatten a part of tokenizer.json, which may be a sequence, into its steps."""
    if not isinstance(part, dict):
        return []
    inner = part.get(name)
    if part.get("type") == "Sequence" and isinstance(inner, list):
        return [step for each in inner for step in _steps(each, name)]
    return [part]


def _templates(folder: Path, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Find the chat template, in tokenizer_config.json or in a file of its own."""
    template = extra.get("chat_template")
    alone = folder / "chat_template.jinja"
    if template is None and alone.exists():
        with alone.open("rb") as file:
            data = file.read(MAX_BYTES)
        try:
            return {"chat_template": data.decode()}
        except UnicodeDecodeError:
            raise ConfigError(f"{alone}: the chat template is not UTF-8") from None
    if isinstance(template, str):
        return {"chat_template": template}
    if not isinstance(template, list):
        return {}
    named = {
        entry["name"]: entry["template"]
        for entry in template
        if isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get("template"), str)
    }
    default = named.pop("default", None)
    return {"chat_template": default, "templates": named}
