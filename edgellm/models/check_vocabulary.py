"""The vocabulary of a GGUF file: what llama.cpp's tokenizers take for granted, checked before.

They assert that no token stands twice and that the tokens they insert exist, and look up byte
tokens by exceptions that no caller across a C interface can catch: each would end the process.
"""

from __future__ import annotations

import array
import math
import re
import sys
from typing import NoReturn

from edgellm_converters.checkpoints.gguf_header import GGUFHeader
from edgellm_converters.checkpoints.gguf_values import StoredType, ValueType
from edgellm_converters.errors import CorruptFileError
from edgellm_converters.tokenizers.charsmap import fault_of

__all__ = ["TOKENIZERS", "check_vocabulary"]

# tokenizer.ggml.model of the tokenizers whose dangers are known and checked here: SentencePiece
# BPE, byte-level BPE, Gemma 4's BPE, WordPiece, Unigram.
TOKENIZERS = ("llama", "gpt2", "gemma4", "bert", "t5")

# Twice the largest vocabularies in use; their check stays below 200 MB of memory.
MAX_TOKENS = 1 << 19
CHUNK = 1 << 14
BYTE_TYPE = 6  # LLAMA_TOKEN_TYPE_BYTE
NO_TOKEN = 0xFFFFFFFF
# WordPiece and Unigram try all lengths at each place of a text, and Unigram builds a tree with a
# call inside a call for each byte of a token. The longest tokens in use have some 100 bytes, the
# largest of these vocabularies 3 MB.
MAX_PIECE_BYTES = 1 << 10
MAX_PIECES_BYTES = 1 << 23
BYTE_TOKEN = re.compile(rb"<0x[0-9A-Fa-f]{2}>")
# A string of six bytes that looks like a byte token, with its length before it.
LOOKS_LIKE_BYTE = re.compile(rb"\x06\0{7}(<0x..>)", re.DOTALL)

STRINGS = StoredType(ValueType.ARRAY, ValueType.STRING)
INTS = StoredType(ValueType.ARRAY, ValueType.INT32)
FLOATS = StoredType(ValueType.ARRAY, ValueType.FLOAT32)
BYTES = StoredType(ValueType.ARRAY, ValueType.UINT8)
SIGNED_BYTES = StoredType(ValueType.ARRAY, ValueType.INT8)

ID_KEYS = (
    *("bos", "eos", "eot", "eom", "unknown", "seperator", "padding", "mask", "cls"),
    *("fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep"),
    *("prefix", "suffix", "middle"),
)
FLAG_KEYS = (
    *("add_bos_token", "add_eos_token", "add_sep_token", "add_space_prefix"),
    *("remove_extra_whitespaces", "normalizer.lowercase", "normalizer.strip_accents"),
)
# The ids that llama.cpp takes where the file names none, and which it inserts unasked.
DEFAULT_IDS: dict[str, dict[str, int]] = {
    "llama": {"bos": 1, "eos": 2},
    "gpt2": {"bos": 11, "eos": 11},
    "gemma4": {},
    "bert": {"unknown": 100, "bos": 101, "seperator": 102},
    "t5": {"eos": 1, "unknown": 2},
}
INSERTED: dict[str, tuple[str, ...]] = {
    "llama": ("bos",),
    "gpt2": ("bos",),
    "gemma4": ("bos",),
    "bert": ("bos", "seperator"),
    "t5": ("eos",),
}
# Those that it inserts whatever the flags say.
NEEDED: dict[str, tuple[str, ...]] = {
    "bert": ("bos", "seperator", "unknown"),
    "t5": ("unknown",),
}
FLAG_OF = {"bos": "add_bos_token", "eos": "add_eos_token", "seperator": "add_sep_token"}


def check_vocabulary(header: GGUFHeader) -> None:
    """Check the tokens, their types and scores, and the special tokens' ids.

    A vocabulary that is missing, or of a tokenizer that is not in `TOKENIZERS`, is passed over.

    Raises:
        CorruptFileError: the vocabulary would make llama.cpp crash, or contradicts itself.
    """
    metadata = header.metadata
    model = metadata.get("tokenizer.ggml.model")
    if model is not None and not isinstance(model, str):
        _fail(header, "tokenizer.ggml.model is not a string")
    if model not in TOKENIZERS or "tokenizer.ggml.tokens" not in metadata:
        return
    _check_types(header)
    count = metadata.stored("tokenizer.ggml.tokens").length
    if not 0 < count <= MAX_TOKENS:
        _fail(header, f"tokenizer.ggml.tokens has {count} tokens, not from 1 to {MAX_TOKENS}")
    for name in ("scores", "token_type"):
        key = f"tokenizer.ggml.{name}"
        if key in metadata and metadata.stored(key).length != count:
            length = metadata.stored(key).length
            _fail(header, f"{key} has {length} values for {count} tokens")
    texts, known = _distinct_texts(header)
    _check_byte_tokens(header, model, texts, known)
    if model in ("bert", "t5"):
        _check_pieces(header, texts)
    if model == "t5":
        # Its line feed is looked up before the keys of ids are read, and may be the default one.
        if count <= DEFAULT_IDS["t5"]["unknown"]:
            _fail(header, f"a Unigram vocabulary of {count} tokens has no room for special ones")
        _check_charsmap(header)
    _check_scores(header)
    _check_ids(header, model, count)


def _check_types(header: GGUFHeader) -> None:
    """Every key of the vocabulary is of the one type by which llama.cpp reads it."""
    wanted: dict[str, tuple[StoredType, ...]] = {
        "tokens": (STRINGS,),
        "merges": (STRINGS,),
        "scores": (FLOATS, INTS),
        "token_type": (INTS,),
        "suppress_tokens": (INTS,),
        "precompiled_charsmap": (BYTES, SIGNED_BYTES),
        "pre": (StoredType(ValueType.STRING),),
        "token_type_count": (StoredType(ValueType.UINT32),),
    }
    wanted |= {f"{name}_token_id": (StoredType(ValueType.UINT32),) for name in ID_KEYS}
    wanted |= dict.fromkeys(FLAG_KEYS, (StoredType(ValueType.BOOL),))
    for name, kinds in wanted.items():
        key = f"tokenizer.ggml.{name}"
        kind = header.value_types.get(key)
        if kind is not None and kind not in kinds:
            _fail(header, f"{key} is of type {kind}, not {kinds[0]}")


def _distinct_texts(header: GGUFHeader) -> tuple[list[bytes], set[bytes]]:
    """Give the tokens as llama.cpp sees them, which must all be different, and the set of them.

    It cuts a token at its first NUL character and gives an empty one a name of its own.
    """
    texts = header.metadata.byte_strings("tokenizer.ggml.tokens")
    seen = set(texts)
    if b"" in seen or _any_holds_nul(texts):
        for index, text in enumerate(texts):
            texts[index] = text.partition(b"\0")[0] or b"[EMPTY_%d]" % index
        seen = set(texts)
    if len(seen) < len(texts):
        kept: set[bytes] = set()
        for index, text in enumerate(texts):
            if text in kept:
                shown = text[:40].decode(errors="replace")
                _fail(header, f"tokenizer.ggml.tokens holds {shown!r} twice (again at {index})")
            kept.add(text)
    return texts, seen


def _any_holds_nul(texts: list[bytes]) -> bool:
    """Look for NUL in many texts at once, which is quicker than in each."""
    return any(
        b"\0" in b"".join(texts[start : start + CHUNK]) for start in range(0, len(texts), CHUNK)
    )


def _check_byte_tokens(
    header: GGUFHeader, model: str, texts: list[bytes], known: set[bytes]
) -> None:
    key = "tokenizer.ggml.tokens"
    kinds = _numbers(header, "tokenizer.ggml.token_type", "i")
    if BYTE_TYPE in kinds:
        typed = [text for text, kind in zip(texts, kinds, strict=True) if kind == BYTE_TYPE]
        if model == "bert":
            _fail(header, f"{key} holds byte tokens, which a WordPiece vocabulary has none of")
        for text in typed:
            _check_byte_token(header, text)
    if model not in ("llama", "gemma4"):
        return
    for match in LOOKS_LIKE_BYTE.finditer(header.metadata.view(key)):
        _check_byte_token(header, match[1])
    if model == "llama":
        # Text that no token covers is cut into bytes, and each is looked up without a way back.
        for byte in range(256):
            if b"<0x%02X>" % byte not in known and bytes([byte]) not in known:
                _fail(header, f"{key} has no token <0x{byte:02X}>, which any text may need")


def _check_pieces(header: GGUFHeader, texts: list[bytes]) -> None:
    key = "tokenizer.ggml.tokens"
    if (longest := max(map(len, texts))) > MAX_PIECE_BYTES:
        _fail(header, f"{key} has a token of {longest} bytes, more than {MAX_PIECE_BYTES}")
    if (total := sum(map(len, texts))) > MAX_PIECES_BYTES:
        _fail(header, f"{key} has {total} bytes, more than {MAX_PIECES_BYTES}")


def _check_charsmap(header: GGUFHeader) -> None:
    key = "tokenizer.ggml.precompiled_charsmap"
    if key in header.metadata and (fault := fault_of(header.metadata.raw(key))):
        _fail(header, f"{key} {fault}")


def _check_byte_token(header: GGUFHeader, text: bytes) -> None:
    if not BYTE_TOKEN.fullmatch(text):
        shown = text[:40].decode(errors="replace")
        _fail(header, f"tokenizer.ggml.tokens holds the malformed byte token {shown!r}")


def _check_scores(header: GGUFHeader) -> None:
    """Scores order the merges: NaN has no order."""
    key = "tokenizer.ggml.scores"
    if key in header.metadata and header.value_types[key] == FLOATS:
        scores = _numbers(header, key, "f")
        if not math.isfinite(sum(scores)) and any(map(math.isnan, scores)):
            _fail(header, f"{key} holds a value that is not a number")


def _check_ids(header: GGUFHeader, model: str, count: int) -> None:
    metadata = header.metadata
    ids = {name: default for name, default in DEFAULT_IDS[model].items() if default < count}
    for name in ID_KEYS:
        key = f"tokenizer.ggml.{name}_token_id"
        value = metadata.get(key)
        if not isinstance(value, int) or value == NO_TOKEN:
            continue
        if value >= count:
            _fail(header, f"{key} is {value}, but there are {count} tokens")
        ids[name] = value
    for name in NEEDED.get(model, ()):
        if name not in ids:
            _fail(header, f"the tokenizer needs tokenizer.ggml.{name}_token_id, which is missing")
    for name, flag in FLAG_OF.items():
        unasked = name in INSERTED[model]
        if metadata.get(f"tokenizer.ggml.{flag}", unasked) and name not in ids:
            _fail(header, f"tokenizer.ggml.{flag} asks for a token that the vocabulary has not got")


def _numbers(header: GGUFHeader, key: str, code: str) -> array.array[int] | array.array[float]:
    """Give an array of 32-bit numbers, empty if the key is missing."""
    numbers = array.array(code, header.metadata.raw(key) if key in header.metadata else b"")
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _fail(header: GGUFHeader, reason: str) -> NoReturn:
    raise CorruptFileError(header.path, reason)
