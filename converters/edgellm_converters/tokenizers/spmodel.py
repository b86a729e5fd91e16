"""SentencePiece's own file (tokenizer.model, spiece.model): a bounded reader of what is needed.

It is a protocol buffer, `ModelProto` in sentencepiece_model.proto: fields of a number, a wire type
and a value, in any order; a field that is unknown is passed over, one that is absent has a default.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgellm_converters.errors import CorruptFileError, UnsupportedError
from edgellm_converters.jsonfile import read_bytes
from edgellm_converters.tokenizers.charsmap import fault_of
from edgellm_converters.tokenizers.vocabulary import TokenType

__all__ = ["FILES", "SentencePieceModel", "read_model"]

FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
MAX_MODEL_BYTES = 1 << 25  # the largest in use have 5 MB
MAX_PIECES = 1 << 19
UNIGRAM, BPE = 1, 2
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
Field = tuple[int, int, memoryview | int]


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """What a model file says.

    `pieces`, `scores` and `types` are by id; types are numbered as in GGUF. `unknown`, `bos`, `eos`
    and `pad` are ids, -1 for none. The rest is how text is prepared: see the vocabulary's fields of
    like names.
    """

    is_bpe: bool
    byte_fallback: bool
    pieces: list[str]
    scores: list[float]
    types: list[int]
    unknown: int
    bos: int
    eos: int
    pad: int
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool


def read_model(path: Path) -> SentencePieceModel:
    """Read a model file.

    Raises:
        SourceNotFoundError: there is no such file.
        CorruptFileError: it is no SentencePiece model, or a damaged one.
        UnsupportedError: a kind of model that GGUF has no form for.
    """
    data = read_bytes(path, most=MAX_MODEL_BYTES)
    pieces: list[str] = []
    scores: list[float] = []
    types: list[int] = []
    trainer: dict[int, int] = {}
    preparation: dict[int, int] = {}
    charsmap = b""
    for number, kind, value in _fields(path, memoryview(data), 0):
        if number == 1 and isinstance(value, memoryview):
            if len(pieces) == MAX_PIECES:
                raise CorruptFileError(path, f"there are more than {MAX_PIECES} pieces")
            piece, score, what = _piece(path, value, len(pieces))
            pieces.append(piece)
            scores.append(score)
            types.append(what)
        elif number in (2, 3) and isinstance(value, memoryview):
            into = trainer if number == 2 else preparation
            for inner, _, content in _fields(path, value, 0):
                if isinstance(content, int):
                    into[inner] = content
                elif number == 3 and inner == 2:
                    charsmap = bytes(content)
        elif number == 1:
            raise CorruptFileError(path, f"a piece is written as wire type {kind}")
    if not pieces:
        raise _foreign(path, "there are no pieces")
    model_type = trainer.get(3, UNIGRAM)
    if model_type not in (UNIGRAM, BPE):
        raise UnsupportedError(
            f"{path}: a SentencePiece model of type {model_type}, no BPE or Unigram"
        )
    if trainer.get(24) or not preparation.get(5, 1):
        raise UnsupportedError(
            f"{path}: spaces are written after words or as they are, which llama.cpp does not"
        )
    if charsmap and (fault := fault_of(charsmap)):
        raise CorruptFileError(path, f"precompiled_charsmap {fault}")
    ids = {name: _signed(trainer.get(at, default)) for name, at, default in _IDS}
    for name, index in ids.items():
        if index >= len(pieces):
            raise CorruptFileError(
                path, f"{name}_id is {index}, but there are {len(pieces)} pieces"
            )
    if ids["unk"] < 0:
        raise CorruptFileError(path, "there is no unknown piece")
    return SentencePieceModel(
        is_bpe=model_type == BPE,
        byte_fallback=bool(trainer.get(35, 0)),
        pieces=pieces,
        scores=scores,
        types=types,
        unknown=ids["unk"],
        bos=ids["bos"],
        eos=ids["eos"],
        pad=ids["pad"],
        charsmap=charsmap,
        add_dummy_prefix=bool(preparation.get(3, 1)),
        remove_extra_whitespaces=bool(preparation.get(4, 1)),
    )


_IDS = (("unk", 40, 0), ("bos", 41, 1), ("eos", 42, 2), ("pad", 43, -1))


def _piece(path: Path, data: memoryview, index: int) -> tuple[str, float, int]:
    text, score, what = "", 0.0, int(TokenType.NORMAL)
    for number, kind, value in _fields(path, data, 0):
        if number == 1 and isinstance(value, memoryview):
            try:
                text = str(value, "utf-8")
            except UnicodeDecodeError:
                raise CorruptFileError(path, f"piece {index} is not UTF-8") from None
        elif number == 2 and kind == FIXED32 and isinstance(value, int):
            (score,) = struct.unpack("<f", value.to_bytes(4, "little"))
        elif number == 3 and isinstance(value, int):
            what = value
    if not text:
        raise CorruptFileError(path, f"piece {index} is empty")
    if not abs(score) <= 3.4e38:
        raise CorruptFileError(path, f"the score of piece {index} is {score}")
    if what not in set(TokenType):
        raise CorruptFileError(path, f"piece {index} is of type {what}")
    return text, score, what


def _signed(value: int) -> int:
    """Read a varint as the int32 that it is: negative ones are written as 64 bits."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _fields(path: Path, data: memoryview, at: int) -> Iterator[Field]:
    """Give the fields of a message; numbers as they are, bytes and messages as views."""
    while at < len(data):
        key, at = _varint(path, data, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = _varint(path, data, at)
            yield number, kind, value
            continue
        if kind == BYTES:
            size, at = _varint(path, data, at)
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
        else:
            raise _foreign(path, f"wire type {kind}")
        if size > len(data) - at:
            raise CorruptFileError(path, f"a field of {size} bytes, but {len(data) - at} are left")
        content = data[at : at + size]
        at += size
        yield number, kind, content if kind == BYTES else int.from_bytes(content, "little")


def _varint(path: Path, data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise _foreign(path, "a number does not end")
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value & (1 << 64) - 1, at


def _foreign(path: Path, reason: str) -> CorruptFileError:
    return CorruptFileError(
        path,
        f"this is no SentencePiece model: {reason}",
        hint="if it is of another kind (tiktoken's, say), write tokenizer.json with transformers: "
        "AutoTokenizer.from_pretrained(FOLDER, use_fast=True).save_pretrained(FOLDER)",
    )
