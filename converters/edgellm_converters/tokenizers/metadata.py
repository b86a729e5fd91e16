"""A `Vocabulary` <-> the tokenizer.ggml keys of GGUF metadata."""

from __future__ import annotations

from edgellm_converters.architectures.base import BOOL, TEXT, U32, Keys
from edgellm_converters.architectures.values import Values
from edgellm_converters.checkpoints.gguf_values import StoredType, ValueType
from edgellm_converters.errors import ConfigError, UnsupportedError
from edgellm_converters.tokenizers.charsmap import fault_of
from edgellm_converters.tokenizers.layout import KEY
from edgellm_converters.tokenizers.pretokenizers import by_name
from edgellm_converters.tokenizers.vocabulary import (
    SPECIAL_ROLES,
    TokenType,
    Vocabulary,
    check_unique,
)

__all__ = ["vocabulary_from_metadata", "vocabulary_keys"]

_TEXTS = StoredType(ValueType.ARRAY, ValueType.STRING)
_FLOATS = StoredType(ValueType.ARRAY, ValueType.FLOAT32)
_INTS = StoredType(ValueType.ARRAY, ValueType.INT32)
_BYTES = StoredType(ValueType.ARRAY, ValueType.UINT8)
_TEMPLATE = "tokenizer.chat_template"


def vocabulary_keys(vocabulary: Vocabulary) -> Keys:
    """Give the keys of a vocabulary, as llama.cpp reads them."""
    keys: Keys = {
        "tokenizer.ggml.model": (TEXT, vocabulary.model),
        "tokenizer.ggml.pre": (TEXT, vocabulary.pre),
        "tokenizer.ggml.tokens": (_TEXTS, list(vocabulary.tokens)),
    }
    if vocabulary.scores:
        keys["tokenizer.ggml.scores"] = (_FLOATS, list(vocabulary.scores))
    keys["tokenizer.ggml.token_type"] = (_INTS, list(vocabulary.types))
    if vocabulary.merges:
        keys["tokenizer.ggml.merges"] = (_TEXTS, list(vocabulary.merges))
    for role, key in SPECIAL_ROLES.items():
        if role in vocabulary.special:
            keys[key] = (U32, vocabulary.special[role])
    keys["tokenizer.ggml.add_bos_token"] = (BOOL, vocabulary.add_bos)
    keys["tokenizer.ggml.add_eos_token"] = (BOOL, vocabulary.add_eos)
    if vocabulary.add_sep is not None:
        keys["tokenizer.ggml.add_sep_token"] = (BOOL, vocabulary.add_sep)
    keys["tokenizer.ggml.add_space_prefix"] = (BOOL, vocabulary.add_space_prefix)
    if vocabulary.model == "t5":
        merged = vocabulary.remove_extra_whitespaces
        keys["tokenizer.ggml.remove_extra_whitespaces"] = (BOOL, merged)
        if vocabulary.charsmap:
            keys["tokenizer.ggml.precompiled_charsmap"] = (_BYTES, list(vocabulary.charsmap))
    if vocabulary.model == "bert":
        keys["tokenizer.ggml.normalizer.lowercase"] = (BOOL, vocabulary.lowercase)
        keys["tokenizer.ggml.normalizer.strip_accents"] = (BOOL, vocabulary.strip_accents)
    if vocabulary.chat_template is not None:
        keys[_TEMPLATE] = (TEXT, vocabulary.chat_template)
    if vocabulary.templates:
        keys["tokenizer.chat_templates"] = (_TEXTS, list(vocabulary.templates))
        for name, template in vocabulary.templates.items():
            keys[f"{_TEMPLATE}.{name}"] = (TEXT, template)
    if vocabulary.layout is not None:
        keys[KEY] = (TEXT, vocabulary.layout)
    return keys


def vocabulary_from_metadata(metadata: Values) -> Vocabulary:
    """Read the vocabulary of a GGUF file; what is absent is taken as llama.cpp takes it.

    Raises:
        ConfigError: a key is missing or of a wrong kind.
        UnsupportedError: a kind of tokenizer that is not known here.
    """
    keys = metadata.under("tokenizer.ggml.")
    model = keys.text("model")
    tokens = _texts(keys, "tokens")
    if not tokens:
        raise keys.wrong("tokens", "a list with tokens")
    check_unique(metadata.path, tokens)
    types = _numbers(keys, "token_type", len(tokens), [int(TokenType.NORMAL)] * len(tokens))
    special = {
        role: metadata.integer(key, least=0)
        for role, key in SPECIAL_ROLES.items()
        if key in metadata
    }
    for role, index in special.items():
        if index >= len(tokens):
            raise ConfigError(f"{metadata.path}: the {role} token {index} is beyond the vocabulary")
    if model not in _DEFAULTS:
        raise UnsupportedError(
            f"{metadata.path}: a tokenizer of type {model!r} is not known here",
            hint="known are: gpt2 (byte-level BPE), llama (SentencePiece BPE), t5 (Unigram), bert "
            "(WordPiece)",
        )
    special = {r: at for r, at in _DEFAULTS[model].items() if at < len(tokens)} | special
    pre, bos, prefix = "default", model in ("llama", "bert"), model == "llama"
    merges: list[str] = []
    scores: list[float] = []
    if model == "gpt2":
        if "pre" not in keys:
            raise UnsupportedError(
                f"{metadata.path}: tokenizer.ggml.pre is missing; how text is split is not known"
            )
        row = by_name(metadata.path, keys.text("pre"))
        pre, bos = row.name, row.adds_bos
        merges = _texts(keys, "merges")
    else:
        prefix = keys.flag("add_space_prefix", prefix)
    if model in ("llama", "t5"):
        scores = [float(s) for s in _numbers(keys, "scores", len(tokens), None)]
    lowercase = keys.flag("normalizer.lowercase", True)
    names = _texts(metadata, "tokenizer.chat_templates", [])
    layout = metadata.raw(KEY)
    return Vocabulary(
        model=model,
        pre=pre,
        tokens=tokens,
        types=[int(kind) for kind in types],
        scores=scores,
        merges=merges,
        special=special,
        add_bos=keys.flag("add_bos_token", bos),
        add_eos=keys.flag("add_eos_token", model == "t5"),
        add_sep=keys.flag("add_sep_token", False) if "add_sep_token" in keys else None,
        add_space_prefix=prefix,
        remove_extra_whitespaces=keys.flag("remove_extra_whitespaces", False),
        charsmap=_bytes(keys, "precompiled_charsmap") if model == "t5" else b"",
        lowercase=lowercase,
        strip_accents=keys.flag("normalizer.strip_accents", lowercase),
        chat_template=metadata.text(_TEMPLATE) if _TEMPLATE in metadata else None,
        templates={
            name: metadata.text(f"{_TEMPLATE}.{name}")
            for name in names
            if f"{_TEMPLATE}.{name}" in metadata
        },
        layout=layout if isinstance(layout, str) else None,
    )


# The ids that llama.cpp takes where the file names none; none that are guessed for byte-level BPE.
_DEFAULTS: dict[str, dict[str, int]] = {
    "gpt2": {},
    "llama": {"unk": 0, "bos": 1, "eos": 2},
    "t5": {"pad": 0, "eos": 1, "unk": 2},
    "bert": {"pad": 0, "unk": 100, "bos": 101, "sep": 102, "mask": 103},
}


def _bytes(values: Values, key: str) -> bytes:
    """Read a list of bytes, signed or not."""
    found = values.raw(key)
    if found is None:
        return b""
    if not isinstance(found, list) or not all(
        isinstance(n, int) and -128 <= n <= 255 for n in found
    ):
        raise values.wrong(key, "a list of bytes")
    table = bytes(n & 255 for n in found)
    if fault := fault_of(table):
        raise ConfigError(f"{values.path}: {values.prefix}{key} {fault}")
    return table


def _texts(values: Values, key: str, default: list[str] | None = None) -> list[str]:
    found = values.raw(key)
    if found is None and default is not None:
        return default
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise values.wrong(key, "a list of strings")
    return found


def _numbers(
    values: Values, key: str, size: int, default: list[int] | None
) -> list[int] | list[float]:
    found = values.raw(key)
    if found is None and default is not None:
        return default
    if (
        not isinstance(found, list)
        or len(found) != size
        or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in found)
    ):
        raise values.wrong(key, f"a list of {size} numbers")
    return found
