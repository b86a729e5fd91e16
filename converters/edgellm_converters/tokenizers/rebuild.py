"""A `Vocabulary` -> tokenizer.json and tokenizer_config.json."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgellm_converters.tokenizers.layout import PARTS, read_layout
from edgellm_converters.tokenizers.pretokenizers import by_name
from edgellm_converters.tokenizers.sentencepiece import merges_from_scores
from edgellm_converters.tokenizers.unigram import unigram_model, unigram_parts
from edgellm_converters.tokenizers.vocabulary import (
    END_ROLES,
    END_TEXTS,
    SPACE,
    TokenType,
    Vocabulary,
)
from edgellm_converters.tokenizers.wordpiece import (
    CONTINUES,
    LONGEST_WORD,
    wordpiece_parts,
    wordpiece_token,
)

__all__ = ["end_ids", "tokenizer_config", "tokenizer_json"]

_FILLER = re.compile(rf"{SPACE}?\[PAD\d+\]|<dummy\d+>")
_ADDED = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)


def tokenizer_json(path: Path, vocabulary: Vocabulary) -> dict[str, Any]:
    """Build the content of tokenizer.json; `path` is named in errors.

    The parts come from `layout` where the file holds one that fits; else they are written so that
    they do what llama.cpp does.

    Raises:
        ConfigError: a score is not finite.
        UnsupportedError: the pre-tokenizer is not known here.
    """
    layout = _fitting(vocabulary)
    words = _words(vocabulary, layout)
    model = _MODELS[vocabulary.model](path, vocabulary, words, layout)
    parts = _parts(path, vocabulary) if layout is None else layout
    if layout is not None:
        model |= {key: value for key, value in layout["model"].items() if key in model}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": parts["added_tokens"],
        **{part: parts.get(part) for part in PARTS},
        "model": model,
    }


def _bpe(
    path: Path, vocabulary: Vocabulary, words: dict[str, int], layout: Mapping[str, Any] | None
) -> dict[str, Any]:
    is_byte_level = vocabulary.model == "gpt2"
    if is_byte_level:
        # llama.cpp, too, takes the first space after the first character as the border.
        merges = [
            [merge[: (cut := merge.find(" ", 1))], merge[cut + 1 :]]
            for merge in vocabulary.merges
            if merge.find(" ", 1) > 0
        ]
    else:
        reached = {
            word: index
            for word, index in words.items()
            if vocabulary.types[index] in (TokenType.NORMAL, TokenType.UNUSED)
            or (layout is not None and vocabulary.types[index] == TokenType.USER_DEFINED)
        }
        merges = [list(pair) for pair in merges_from_scores(path, reached, vocabulary.scores)]
    unknown = vocabulary.special.get("unk", 0)
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None if is_byte_level else vocabulary.tokens[unknown],
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": not is_byte_level,
        "byte_fallback": not is_byte_level,
        "ignore_merges": is_byte_level and by_name(path, vocabulary.pre).ignore_merges,
        "vocab": words,
        "merges": [pair for pair in merges if pair[0] + pair[1] in words],
    }


def _wordpiece(
    path: Path,  # noqa: ARG001
    vocabulary: Vocabulary,
    words: dict[str, int],
    layout: Mapping[str, Any] | None,  # noqa: ARG001
) -> dict[str, Any]:
    return {
        "type": "WordPiece",
        "unk_token": wordpiece_token(
            vocabulary.tokens[(unknown := vocabulary.special["unk"])], vocabulary.types[unknown]
        ),
        "continuing_subword_prefix": CONTINUES,
        "max_input_chars_per_word": LONGEST_WORD,
        "vocab": words,
    }


def _unigram(
    path: Path,  # noqa: ARG001
    vocabulary: Vocabulary,
    words: dict[str, int],
    layout: Mapping[str, Any] | None,  # noqa: ARG001
) -> dict[str, Any]:
    return unigram_model(vocabulary, words)


_MODELS = {"gpt2": _bpe, "llama": _bpe, "bert": _wordpiece, "t5": _unigram}


def tokenizer_config(vocabulary: Vocabulary, context: int) -> dict[str, Any]:
    """Build the content of tokenizer_config.json; `context` in tokens."""
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": vocabulary.add_bos,
        "add_eos_token": vocabulary.add_eos,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
    }
    for role, index in vocabulary.special.items():
        if role not in END_ROLES:
            config[f"{role}_token"] = _shown(
                vocabulary, vocabulary.tokens[index], vocabulary.types[index]
            )
    if vocabulary.templates:
        named = dict(vocabulary.templates)
        if vocabulary.chat_template is not None:
            named = {"default": vocabulary.chat_template, **named}
        config["chat_template"] = [
            {"name": name, "template": template} for name, template in named.items()
        ]
    elif vocabulary.chat_template is not None:
        config["chat_template"] = vocabulary.chat_template
    return config


def end_ids(vocabulary: Vocabulary) -> list[int]:
    """Give the ids that end an answer, as llama.cpp finds them: by their keys and by their texts.

    Without the latter, a chat model whose only key is that of eos would never stop in transformers.
    """
    ids = [vocabulary.special[role] for role in ("eos", *END_ROLES) if role in vocabulary.special]
    ids += [index for index, text in enumerate(vocabulary.tokens) if text in END_TEXTS]
    return list(dict.fromkeys(ids))


def _fitting(vocabulary: Vocabulary) -> dict[str, Any] | None:
    """Give the stored layout if its added tokens are the vocabulary's."""
    layout = read_layout(vocabulary.layout, len(vocabulary.tokens), vocabulary.charsmap)
    if layout is None:
        return None
    for token in layout["added_tokens"]:
        text = vocabulary.tokens[token["id"]]
        if text not in (token["content"], token["content"].replace(SPACE, " ")):
            return None
    return layout


def _words(vocabulary: Vocabulary, layout: Mapping[str, Any] | None) -> dict[str, int]:
    """Give token -> id without the fillers of empty rows."""
    words = {}
    for index, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)):
        if kind == TokenType.UNUSED and _FILLER.fullmatch(token):
            continue
        words[_shown(vocabulary, token, kind)] = index
    for token in layout["added_tokens"] if layout else ():
        words[token["content"]] = token["id"]
    return words


def _shown(vocabulary: Vocabulary, token: str, kind: int) -> str:
    """Write a token as tokenizer.json does: user-defined ones with the sign for spaces.

    Where text gets a leading space, matching must come before the normalizer, in the text as it
    was typed, so that the spaces stay.
    """
    if vocabulary.model == "bert":
        return wordpiece_token(token, kind)
    if (
        kind == TokenType.USER_DEFINED
        and vocabulary.model == "llama"
        and not vocabulary.add_space_prefix
    ):
        return token.replace(" ", SPACE)
    return token


def _parts(path: Path, vocabulary: Vocabulary) -> dict[str, Any]:
    """Write the parts of tokenizer.json that make it split and match as llama.cpp does."""
    added = []
    for index, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)):
        if kind in _ADDED:
            user = kind == TokenType.USER_DEFINED
            content = _shown(vocabulary, token, kind)
            added.append(
                {
                    "id": index,
                    "content": content,
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": user and SPACE in content,
                    "special": not user,
                }
            )
    template = _template(vocabulary)
    if vocabulary.model == "gpt2":
        row = by_name(path, vocabulary.pre)
        byte_level = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        }
        post: dict[str, Any] | None = byte_level
        if template:
            post = {"type": "Sequence", "processors": [byte_level, template]}
        return {
            "added_tokens": added,
            "normalizer": {"type": row.normalizer} if row.normalizer else None,
            "pre_tokenizer": row.layout(),
            "post_processor": post,
            "decoder": byte_level,
        }
    if vocabulary.model == "bert":
        return {"added_tokens": added, "post_processor": template} | wordpiece_parts(vocabulary)
    if vocabulary.model == "t5":
        merges = vocabulary.remove_extra_whitespaces
        return {"added_tokens": added, "post_processor": template} | unigram_parts(
            vocabulary.charsmap, prefix=vocabulary.add_space_prefix or merges, merges=merges
        )
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prepend = {"type": "Prepend", "prepend": SPACE}
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    normalizer: dict[str, Any] = replace
    if vocabulary.add_space_prefix:
        normalizer = {"type": "Sequence", "normalizers": [prepend, replace]}
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": None,
        "post_processor": template,
        "decoder": {"type": "Sequence", "decoders": decoders},
    }


def _template(vocabulary: Vocabulary) -> dict[str, Any] | None:
    """Write the post-processor that adds the first and the last token."""
    ids = {}
    before: list[dict[str, Any]] = []
    after: list[dict[str, Any]] = []
    between: list[dict[str, Any]] = []
    is_wordpiece = vocabulary.model == "bert"
    last = "sep" if is_wordpiece else "eos"
    for wanted, role, place in (
        (vocabulary.add_bos or is_wordpiece, "bos", before),
        (vocabulary.add_eos or is_wordpiece, last, after),
        (vocabulary.add_sep and vocabulary.add_eos, "sep", between),
    ):
        if wanted and role in vocabulary.special:
            index = vocabulary.special[role]
            token = vocabulary.tokens[index]
            ids[token] = {"id": token, "ids": [index], "tokens": [token]}
            place.append({"SpecialToken": {"id": token, "type_id": 0}})
    if not ids:
        return None
    first = [*before, {"Sequence": {"id": "A", "type_id": 0}}, *after]
    # An encoder's pair begins once.
    second = [*(before if vocabulary.add_sep is None and not is_wordpiece else between)]
    second += [{"Sequence": {"id": "B", "type_id": 1}}, *after]
    return {
        "type": "TemplateProcessing",
        "single": first,
        "pair": first
        + [{kind: value | {"type_id": 1} for kind, value in part.items()} for part in second],
        "special_tokens": ids,
    }
