"""WordPiece: tokenizer.json's "##" for the rest of a word <-> the sign for its start of GGUF.

llama.cpp sets U+2581 before each word and takes the longest tokens from its left; the word's first
piece is written with that sign and the pieces that follow without "##". How it cuts text into words
is compiled in (`llm_tokenizer_wpm` in llama-vocab.cpp): control characters are dropped, and CJK
characters and punctuation stand alone. Lower case and the removal of accents have keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgellm_converters.errors import ConfigError, UnsupportedError
from edgellm_converters.jsonfile import MAX_TOKENIZER_BYTES, read_text
from edgellm_converters.tokenizers.parts import Parts, fill
from edgellm_converters.tokenizers.vocabulary import SPACE, TokenType, Vocabulary, check_unique

__all__ = [
    "CONTINUES",
    "LONGEST_WORD",
    "from_vocab_txt",
    "read_wordpiece",
    "wordpiece_parts",
    "wordpiece_token",
]

CONTINUES = "##"
LONGEST_WORD = 100  # characters, beyond which transformers' BertTokenizer takes a word as unknown
_WRITTEN = (TokenType.NORMAL, TokenType.UNUSED)  # tokens that carry the sign for a word's start
_CLASSES = ("Bert", "DistilBert", "Electra", "MobileBert", "MPNet", "ConvBert", "Funnel")


def read_wordpiece(parts: Parts) -> Vocabulary:
    """Give the vocabulary of a WordPiece tokenizer.json.

    Raises:
        ConfigError: there is no unknown token, or two tokens become one.
        UnsupportedError: settings that llama.cpp cannot be told.
    """
    path, tokenizer, notes = parts.path, parts.tokenizer, parts.notes
    model = tokenizer["model"]
    prefix = model.get("continuing_subword_prefix", CONTINUES)
    if prefix != CONTINUES:
        raise UnsupportedError(
            f"{path}: continuing_subword_prefix is {prefix!r:.80}; llama.cpp's WordPiece is read "
            f"from tokens with {CONTINUES!r}"
        )
    unknown = model.get("unk_token")
    if unknown not in parts.words:
        raise ConfigError(f"{path}: model.unk_token is {unknown!r:.80}, no token")
    lowercase, strips = _normalizer(path, tokenizer.get("normalizer"), notes)
    pre = tokenizer.get("pre_tokenizer")
    if not isinstance(pre, dict) or pre.get("type") != "BertPreTokenizer":
        raise UnsupportedError(
            f"{path}: llama.cpp splits text for WordPiece as a BertPreTokenizer does; this one is "
            f"not known here: {pre!r:.200}"
        )
    longest = model.get("max_input_chars_per_word", LONGEST_WORD)
    notes.append(
        f"a word of more than {longest} characters is one {unknown} in the source; llama.cpp "
        "spells it"
    )
    tokens, types = fill(parts, unknown=None, spaces=False)
    tokens = [
        _with_sign(token) if kind in _WRITTEN else token
        for token, kind in zip(tokens, types, strict=True)
    ]
    check_unique(path, tokens)
    if SPACE in tokens:
        raise UnsupportedError(
            f"{path}: the token {CONTINUES + SPACE!r} would be taken for the start of every word"
        )
    return Vocabulary(
        model="bert",
        pre="default",
        tokens=tokens,
        types=types,
        lowercase=lowercase,
        strip_accents=strips,
    )


def _normalizer(path: Path, normalizer: object, notes: list[str]) -> tuple[bool, bool]:
    """Tell whether letters become small and lose their accents."""
    if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
        raise UnsupportedError(
            f"{path}: llama.cpp prepares text for WordPiece as a BertNormalizer does; this one is "
            f"not known here: {normalizer!r:.200}"
        )
    lowercase = normalizer.get("lowercase", True)
    strips = normalizer.get("strip_accents")
    if strips is None:
        strips = lowercase
    if not isinstance(lowercase, bool) or not isinstance(strips, bool):
        raise ConfigError(
            f"{path}: a flag of the BertNormalizer is no boolean: {normalizer!r:.200}"
        )
    if strips:
        notes.append(
            "where the source removes accents, llama.cpp also removes spacing marks (the vowels of "
            "Devanagari and its kin) and all but the first letter of a Hangul syllable"
        )
    if normalizer.get("handle_chinese_chars", True) is not True:
        notes.append(
            "CJK characters are not set apart in the source (handle_chinese_chars is false); "
            "llama.cpp always does"
        )
    if normalizer.get("clean_text", True) is not True:
        notes.append(
            "control characters are kept in the source (clean_text is false); llama.cpp drops them"
        )
    return lowercase, strips


def _with_sign(token: str) -> str:
    return token[len(CONTINUES) :] if token.startswith(CONTINUES) else SPACE + token


def wordpiece_token(token: str, kind: int) -> str:
    """Write a token of GGUF as tokenizer.json does."""
    if kind not in _WRITTEN:
        return token
    return token[1:] if token.startswith(SPACE) else CONTINUES + token


def wordpiece_parts(vocabulary: Vocabulary) -> dict[str, Any]:
    """Write the parts of tokenizer.json that prepare and split text as llama.cpp does."""
    return {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": vocabulary.strip_accents,
            "lowercase": vocabulary.lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": CONTINUES, "cleanup": True},
    }


# -- vocab.txt ------------------------------------------------------------------------------------


def from_vocab_txt(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Build the tokenizer.json that transformers makes of a BERT's vocab.txt.

    `settings` is the content of tokenizer_config.json; what it leaves out is taken as
    transformers' BertTokenizer takes it.

    Raises:
        ConfigError: a token stands twice, or a special token is not in the file.
        UnsupportedError: the folder's tokenizer is of a class that reads the file otherwise.
    """
    kind = settings.get("tokenizer_class") or "BertTokenizer"
    if kind not in {f"{name}Tokenizer{end}" for name in _CLASSES for end in ("", "Fast")}:
        raise UnsupportedError(
            f"{path}: tokenizer_class is {kind!r:.80}, of which a vocab.txt says too little",
            hint="write tokenizer.json with transformers: AutoTokenizer.from_pretrained(FOLDER, "
            "use_fast=True).save_pretrained(FOLDER)",
        )
    words = read_text(path, most=MAX_TOKENIZER_BYTES).replace("\r\n", "\n").split("\n")
    if not words[-1]:
        words.pop()
    check_unique(path, words)
    ids = {word: index for index, word in enumerate(words)}
    special = []
    for role, usual in _ROLES.items():
        named = settings.get(f"{role}_token", usual)
        content = named.get("content") if isinstance(named, dict) else named
        if content not in ids:
            raise ConfigError(f"{path}: the {role} token {content!r:.80} is not in the file")
        special.append(content)
    pad, unknown, first, last, mask = special
    added = {ids[word]: _added(ids[word], word) for word in (pad, unknown, first, last, mask)}
    more = settings.get("added_tokens_decoder")
    for index, entry in (more if isinstance(more, dict) else {}).items():
        if isinstance(entry, dict) and isinstance(index, str) and index.isascii():
            if not index.isdecimal():
                raise ConfigError(f"{path}: an added token has the id {index!r:.80}")
            added[int(index[:10])] = entry | {"id": int(index[:10])}
    return {
        "added_tokens": [added[index] for index in sorted(added)],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": settings.get("tokenize_chinese_chars", True),
            "strip_accents": settings.get("strip_accents"),
            "lowercase": settings.get("do_lower_case", True),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "BertProcessing",
            "sep": [last, ids[last]],
            "cls": [first, ids[first]],
        },
        "decoder": {"type": "WordPiece", "prefix": CONTINUES, "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": unknown,
            "continuing_subword_prefix": CONTINUES,
            "max_input_chars_per_word": LONGEST_WORD,
            "vocab": ids,
        },
    }


_ROLES = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


def _added(index: int, content: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": content, **flags, "special": True}
